"""Pretrained models: loading, building, supported architectures, devices."""

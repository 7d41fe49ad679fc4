"""Pretrained models: where they come from, and which architectures are known."""

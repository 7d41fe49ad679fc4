"""Masks: which weights are kept, learned through scores on frozen weights. Start at `linear.py`."""

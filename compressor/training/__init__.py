"""Training: loop, loss, teachers, callbacks, checkpoints, progress. Start at `train.py`."""

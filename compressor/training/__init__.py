"""Learning: what a step does, what a mask is, who watches. Start at `train.py`."""

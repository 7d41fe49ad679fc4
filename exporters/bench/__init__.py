"""An exported graph against others: time, memory, error. Start at `run.py`."""

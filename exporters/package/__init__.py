"""An exported folder to one that can be handed on. Start at `write.py`."""

"""Graphs: traced, then rewritten to masked integers. Start at `surgery.py`."""

"""Graphs: traced, then rewritten to masked integers. Start at `builder.py`."""

"""Floor 3: words. Parse, call, render; no arithmetic. Start at `app.py`."""

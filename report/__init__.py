"""A page for people: what an artifact or a sweep holds, as numbers, charts and HTML."""

"""Rows: what a task is and is judged by, where its rows come from, and their tokens."""

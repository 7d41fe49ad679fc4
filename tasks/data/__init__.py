"""Rows of a task: files, tables, the Hub; columns, labels and splits."""

"""Evaluation: what a model answers, held against labels."""

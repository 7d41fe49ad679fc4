"""Evaluation: predictions of a model against labels."""

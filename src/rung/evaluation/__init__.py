"""Evaluation: scores a model on held-out items, compares two evaluations, and decides gates."""

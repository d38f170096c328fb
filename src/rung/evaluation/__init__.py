"""Evaluate a model on held-out items, compare two evaluations, decide a gate."""

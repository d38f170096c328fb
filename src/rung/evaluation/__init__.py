"""Measure a model on held-out items, compare two measurements, decide a gate."""

"""Tiny models and the tasks that they can learn."""

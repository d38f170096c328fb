"""Tiny models, and generated tasks that they can learn."""

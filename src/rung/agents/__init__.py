"""Agents: what answers a model's turns, which is tools and environments, and the reading of the calls in a turn."""

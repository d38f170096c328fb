"""Runs a config: checks the path, then builds, trains and evaluates each stage and decides its gate."""

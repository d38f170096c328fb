"""Attacks on `rung`: kills, damaged files, disk errors, concurrent processes, drift and signals, with their figures.

    python -m benchmarks.chaos --quick

`docs/reliability.md` is written from the results.
"""

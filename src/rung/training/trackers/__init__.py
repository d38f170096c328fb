"""Trackers, to which the metrics of a run are logged, one per file; they are used on rank 0 only."""

from rung.training.trackers.jsonl import COMPLETIONS, METRICS, TIMING, JsonLines, read_rows
from rung.training.trackers.protocol import Rows, Tracker
from rung.training.trackers.registry import TRACKERS, make_trackers
from rung.training.trackers.wandb import Wandb

__all__ = [
    "COMPLETIONS",
    "METRICS",
    "TIMING",
    "TRACKERS",
    "JsonLines",
    "Rows",
    "Tracker",
    "Wandb",
    "make_trackers",
    "read_rows",
]

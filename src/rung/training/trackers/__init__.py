"""Destinations of a run's metrics, one file per tracker. Only rank 0 tracks."""

from rung.training.trackers.jsonl import COMPLETIONS, METRICS, TIMING, JsonLines
from rung.training.trackers.protocol import Rows, Tracker
from rung.training.trackers.registry import TRACKERS, make_trackers
from rung.training.trackers.wandb import Wandb

__all__ = ["COMPLETIONS", "METRICS", "TIMING", "TRACKERS", "JsonLines", "Rows", "Tracker", "Wandb", "make_trackers"]

"""Formats of answers that were rated or voted on: UltraFeedback before its binarisation, and SHP."""

from typing import Any

from rung.data.fields import Columns, check_differ, has, number, string, unused_columns
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, make_example

# The first one is preferred: old copies of the data have wrong values in `overall_score`.
SCORES = ("fine-grained_score", "overall_score")


def _ultrafeedback(row: Columns, source: str) -> list[Example]:
    """Converts a row to a pair of its best and its worst completion; equal scores give no example."""
    prompt, completions = string(row.get("instruction"), "instruction"), _completions(row)
    name = next((name for name in SCORES if all(has(one, name) for one in completions)), None)
    if name is None:
        raise BadRow("an entry of `completions` has neither `fine-grained_score` nor `overall_score`")
    scored = [(number(one[name], name), string(one.get("response"), "response")) for one in completions]
    best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        return []
    check_differ(best[1], worst[1])
    columns = unused_columns(row, "instruction", "completions")
    margin = best[0] - worst[0]
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=best[1], rejected=worst[1], margin=margin)
    ]


def _completions(row: Columns) -> list[dict[str, Any]]:
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
        raise BadRow("`completions` is not a list of objects with `response` and a score")
    if len(completions) < 2:
        raise BadRow("`completions` has fewer than two entries")
    return completions


def _is_ultrafeedback(row: Columns) -> bool:
    completions = row.get("completions")
    first = completions[0] if isinstance(completions, list) and completions else None
    return has(row, "instruction") and isinstance(first, dict) and "response" in first


def _shp(row: Columns, source: str) -> list[Example]:
    """Converts a row to a pair; `labels` is 1 if A is preferred, and `score_ratio` is the margin."""
    label = str(row.get("labels"))
    if label not in ("0", "1"):
        raise BadRow("`labels` is neither 1 (A is preferred) nor 0", f"found {label!r:.40}")
    names = ("human_ref_A", "human_ref_B") if label == "1" else ("human_ref_B", "human_ref_A")
    chosen, rejected = (string(row.get(name), name) for name in names)
    check_differ(chosen, rejected)
    margin = number(row["score_ratio"], "score_ratio") if has(row, "score_ratio") else None
    columns = unused_columns(row, "history", "human_ref_A", "human_ref_B", "labels")
    prompt = string(row.get("history"), "history")
    return [make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin)]


ULTRAFEEDBACK = Format(
    "ultrafeedback",
    "instruction, completions with response and fine-grained_score or overall_score",
    _is_ultrafeedback,
    _ultrafeedback,
    priority=62,
)
SHP = Format(
    "shp",
    "history, human_ref_A, human_ref_B, labels (1 if A is preferred)",
    lambda row: has(row, "history", "human_ref_A", "human_ref_B", "labels"),
    _shp,
    priority=67,
)

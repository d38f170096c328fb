"""Reads the reply of a worker process, which may have run anything and is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.reward.call import Reply
from rung.reward.decorator import Verdict
from rung.reward.outcome import Outcome, shortened

_VERDICT_FIELDS = {"value", "parts", "note", "cost"}


def read_reply(answer: Mapping[str, Any]) -> Reply | Outcome:
    """The reply to one call; an error outcome for an error, and for what is no reply."""
    if "error" in answer:
        return _failure(answer["error"])
    returned, columns, metrics = (answer.get(name) for name in ("returned", "columns", "metrics"))
    if not (isinstance(columns, dict) and all(isinstance(values, list) for values in columns.values())):
        return _invalid("what it logged is no mapping of lists")
    if not (isinstance(metrics, dict) and all(_are_numbers(values) for values in metrics.values())):
        return _invalid("the metrics it logged are no mapping of lists of numbers")
    values = returned if isinstance(returned, list) else [returned]
    if not all(_is_result(value) for value in values):
        return _invalid("what it returned is no score")
    made = [_result(value) for value in values]
    return Reply(made if isinstance(returned, list) else made[0], columns, metrics)


def _failure(error: object) -> Outcome:
    told = error if isinstance(error, dict) else {}
    note, detail = shortened(str(told.get("note", ""))), shortened(str(told.get("detail", "")), 10_000)
    return Outcome("timeout" if told.get("kind") == "timeout" else "error", note=note, detail=detail)


def _invalid(why: str) -> Outcome:
    return Outcome("error", note=f"the worker sent an invalid reply: {why}")


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, float) or (type(value) is int and abs(value) < 2**53) for value in values
    )


def _is_result(value: object) -> bool:
    if not isinstance(value, dict) or "verdict" not in value:
        return True
    told = value["verdict"]
    return isinstance(told, dict) and told.keys() == _VERDICT_FIELDS and isinstance(told["parts"], dict)


def _result(value: Any) -> object:
    return Verdict(**value["verdict"]) if isinstance(value, dict) and "verdict" in value else value

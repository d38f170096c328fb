"""What rewards return, log and are given, in plain Python; and replies of workers, of which none is trusted."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from rung.reward import Verdict
from rung.reward.call import Reply
from rung.reward.outcome import Outcome
from rung.reward.reply import read_reply
from rung.reward.returned import as_json, copied, plain


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (1.5, 1.5),
        ("ab", "ab"),
        (b"ab", b"ab"),
        (None, None),
        ({"a": 1}, {"a": 1}),
        ({1, 2}, {1, 2}),
        (np.float32(0.5), 0.5),
        (torch.tensor(2), 2),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        (torch.tensor([[1], [2]]), [[1], [2]]),
        ((x for x in (np.int64(1), None)), [1, None]),
        ({"a": 1.0, "b": 2.0}.values(), [1.0, 2.0]),
        ({"rewards": torch.tensor([1.0]), "extra": 3}, [1.0]),
        ({"rewards": {"score": 1}}, Verdict(1)),
        ({"score": np.float64(0.5), "acc": True, 3: "x"}, Verdict(0.5, {"acc": True, "3": "x"})),
        ([{"score": 1.0}, Verdict(np.float64(2.0))], [Verdict(1.0), Verdict(2.0)]),
        (Verdict(torch.tensor(0.25), {"a": 1}, "why", 3.0), Verdict(0.25, {"a": 1}, "why", 3.0)),  # type: ignore[arg-type]
    ],
)
def test_what_a_function_returns_becomes_plain(returned: Any, found: object) -> None:
    made = plain(returned)
    assert made == found
    assert type(made) is type(found)


def test_what_is_logged_has_a_form_in_json() -> None:
    kept: list[Any] = ["a", 1, -(10**299), 9e299, True, None]
    assert as_json(kept) == kept
    assert as_json([1e300, -1e300, float("nan"), float("-inf")]) == ["1e+300", "-1e+300", "nan", "-inf"]
    assert as_json(10**301) == as_json(-(10**301)) == "a larger number"
    assert as_json({1: (2, {3}), "x": Fraction(1, 4)}) == {"1": [2, [3]], "x": 0.25}
    assert as_json(np.array([[1.0], [np.nan]])) == [[1.0], ["nan"]]
    assert as_json(1j) == "1j"


def test_a_copy_shares_nothing_but_what_cannot_be_copied() -> None:
    lock = threading.Lock()
    given = {"a": [1, ([2], lock)], "b": {3}, "c": "text"}
    made = copied(given)
    assert made == given
    made["a"][1][0].append(4)
    made["b"].add(5)
    assert given == {"a": [1, ([2], lock)], "b": {3}, "c": "text"}
    assert made["a"][1][1] is lock


def answer(**more: Any) -> dict[str, Any]:
    return {"returned": 1.0, "columns": {}, "metrics": {}, **more}


def test_a_reply_is_read_with_its_verdicts_and_what_it_logged() -> None:
    told = {"value": 1.0, "parts": {"a": 1}, "note": "n", "cost": 0.5}
    assert read_reply(answer(columns={"x": [1]}, metrics={"y": [2.0, 3]})) == Reply(1.0, {"x": [1]}, {"y": [2.0, 3]})
    assert read_reply(answer(returned={"verdict": told})) == Reply(Verdict(**told), {}, {})
    assert read_reply(answer(returned=[{"verdict": told}, None, {"a": 1}])) == Reply([Verdict(**told), None, {"a": 1}])
    assert read_reply({"error": {"kind": "timeout", "note": "n", "detail": "d"}}) == Outcome(
        "timeout", note="n", detail="d"
    )
    assert read_reply({"error": {"kind": "scored", "value": 1.0, "note": "n"}}) == Outcome("error", note="n")
    assert read_reply({"error": "x", **answer()}) == Outcome("error")


VERDICT = {"value": 1.0, "parts": {}, "note": "", "cost": 0.0}


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        ({"columns": None}, "what it logged is no mapping of lists"),
        ({"columns": {"x": "text"}}, "what it logged is no mapping of lists"),
        ({"metrics": []}, "the metrics it logged are no mapping of lists of numbers"),
        ({"metrics": {"x": [1.0, "2"]}}, "the metrics it logged are no mapping of lists of numbers"),
        ({"metrics": {"x": [True]}}, "the metrics it logged are no mapping of lists of numbers"),
        ({"metrics": {"x": [2**53]}}, "the metrics it logged are no mapping of lists of numbers"),
        ({"metrics": {"x": 1.0}}, "the metrics it logged are no mapping of lists of numbers"),
        ({"returned": {"verdict": 1.0}}, "what it returned is no score"),
        ({"returned": {"verdict": {"value": 1.0}}}, "what it returned is no score"),
        ({"returned": {"verdict": VERDICT | {"more": 1}}}, "what it returned is no score"),
        ({"returned": [1.0, {"verdict": VERDICT | {"parts": []}}]}, "what it returned is no score"),
    ],
)
def test_what_is_no_reply_is_an_error(forged: dict[str, Any], why: str) -> None:
    assert read_reply(answer(**forged)) == Outcome("error", note=f"the worker sent an invalid reply: {why}")
    assert isinstance(read_reply(answer(metrics={"x": [2**53 - 1]})), Reply)

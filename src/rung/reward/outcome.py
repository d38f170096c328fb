"""The outcome of a reward for a completion: scored, abstained, timeout or error; a failure is not a score of 0."""

from __future__ import annotations

import json
import math
import numbers
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rung.reward import guard
from rung.reward.decorator import Verdict, name_of
from rung.reward.returned import as_json, plain
from rung.utils.console import printable
from rung.utils.secrets import without_secrets

Kind = Literal["scored", "abstained", "timeout", "error"]
MAX_SCORE = 1e18  # its square is a float32 number, as group statistics need
MAX_PARTS = 100_000  # characters of the parts of a verdict, as JSON
FAILURES = frozenset({"timeout", "error"})  # the kinds of a failed call


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one reward for one completion; `value` is a finite float if `kind` is `scored`, else None.

    `note` is the reason for the score or the error, in one line; `detail` is the traceback of an error. `parts` and
    `cost` are those of the `Verdict`.
    """

    kind: Kind
    value: float | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    cost: float = 0.0
    detail: str = ""

    def __post_init__(self) -> None:
        # an exception of an HTTP client may show the key that a service has refused
        for name in ("note", "detail"):
            if text := getattr(self, name):
                object.__setattr__(self, name, without_secrets(text))

    @property
    def failed(self) -> bool:
        """Whether the outcome is a timeout or an error."""
        return self.kind in FAILURES

    def described(self) -> dict[str, Any]:
        """What there is to tell beside the value, as JSON values: parts, note and cost, or how the reward failed."""
        if self.failed:
            return {self.kind: self.note}
        told = {"parts": self.parts, "note": self.note, "cost": self.cost}
        return {name: value for name, value in told.items() if value}


def judged(returned: object, range: tuple[float, float] | None) -> Outcome:
    """Converts the value returned for one completion to an outcome.

    A float, None or Verdict is valid. A bool, a string, NaN, an infinity or a value outside `range` is an error, since
    a policy must not be trained on a comparison returned by mistake or on a failure encoded as a number.

    >>> judged(0.5, (0, 1)).value
    0.5
    >>> judged(None, (0, 1)).kind
    'abstained'
    >>> judged(True, (0, 1)).note
    'returned the bool True; a score is a number'
    """
    try:
        returned = plain(returned)
        verdict = returned if isinstance(returned, Verdict) else Verdict(returned)  # type: ignore[arg-type]
        return _judged(verdict, range)
    except (OverflowError, RecursionError, TypeError, ValueError) as error:  # numbers and parts of any kind
        return Outcome("error", note=f"returned what cannot be read: {shortened(str(error), 200)}")


def _judged(verdict: Verdict, range: tuple[float, float] | None) -> Outcome:
    value = verdict.value
    if not isinstance(verdict.parts, Mapping) or not isinstance(verdict.cost, numbers.Real):
        return Outcome("error", note="returned a Verdict whose `parts` are no mapping or whose `cost` is no number")
    parts, cost = as_json(verdict.parts) if verdict.parts else {}, float(verdict.cost)
    note = shortened(str(verdict.note), 10_000) if verdict.note else ""
    if parts and len(json.dumps(parts)) > MAX_PARTS:
        return Outcome("error", note=f"returned a Verdict with parts of more than {MAX_PARTS:,} characters")
    if not math.isfinite(cost):
        return Outcome("error", note=f"returned a Verdict whose cost is {cost}")
    if value is None:
        return Outcome("abstained", None, parts, note, cost)
    if callable(value):
        return Outcome("error", note=f"returned the function {name_of(value)}: name its result as the reward instead")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return Outcome("error", note=f"returned the {type(value).__name__} {_shown(value)}; a score is a number")
    if isinstance(value, int) and abs(value) > MAX_SCORE:
        return Outcome("error", note=f"returned a number above {MAX_SCORE:g}")
    value = float(value)
    if not math.isfinite(value):
        return Outcome("error", note=f"returned {value}; to abstain, return None")
    if abs(value) > MAX_SCORE:
        return Outcome("error", note=f"returned {value}; a score is at most {MAX_SCORE:g}, whose square float32 holds")
    if range is not None and not range[0] <= value <= range[1]:
        return Outcome("error", note=f"returned {value}, outside its range [{range[0]:g}, {range[1]:g}]")
    return Outcome("scored", value, parts, note, cost)


def _shown(value: object) -> str:
    return shortened(f"{value!r:.60}")


def judged_many(returned: object, count: int, range: tuple[float, float] | None) -> list[Outcome]:
    """Converts the list returned for `count` completions to outcomes; all are errors if it has another length.

    An array, a tensor or an iterator counts as the list of its elements.
    """
    returned = plain(returned)
    if not isinstance(returned, Sequence) or isinstance(returned, str):
        return [Outcome("error", note=f"returned a {type(returned).__name__}, not a list of {count} scores")] * count
    if len(returned) != count:
        return [Outcome("error", note=f"returned {len(returned)} scores for {count} completions")] * count
    return [judged(value, range) for value in returned]


def raised(error: BaseException) -> Outcome:
    """The error outcome for an exception; the note includes the file and line where the exception was raised."""
    try:
        detail = "".join(traceback.format_exception(error, limit=-8))
        said = str(error)
    except BaseException:  # of its own `__str__`
        detail, said = "", "it cannot be shown"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != guard.__file__]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return Outcome("error", note=f"{type(error).__name__}: {shortened(said)}{place}", detail=shortened(detail, 10_000))


def timed_out(seconds: float, more: str = "") -> Outcome:
    """The timeout outcome for a call that took longer than `seconds`."""
    return Outcome("timeout", note=f"no score within {seconds:g} s{more}")


def shortened(text: str, limit: int = 1_000) -> str:
    """The first `limit` characters of a text from a reward, without control characters other than line breaks."""
    return printable(text[:limit]) + ("..." if len(text) > limit else "")

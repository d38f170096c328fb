"""Watches how often the rewards of a stage fail: tells each new reason once, and ends training if it is too often."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from rung.errors import RewardError
from rung.reward.outcome import Outcome
from rung.reward.sample import Sample
from rung.reward.spec import RewardPolicy
from rung.utils.console import printable

WINDOW, MIN_CALLS = 1000, 50  # the failure rate is that of the last 1000 calls, and is ignored for fewer than 50
SHOWN_ROWS = 5  # failed rows in an error
MAX_REASONS, MAX_CHARACTERS = 20, 300  # reasons told of one reward, and the length of each


class FailureWatch:
    """The failures of each reward, by label."""

    def __init__(self, labels: Iterable[str], policy: RewardPolicy):
        self._policy = policy
        self._calls = {label: deque[float](maxlen=WINDOW) for label in labels}  # the share of each call's rows
        self._recent = {label: deque[tuple[str, Outcome]](maxlen=SHOWN_ROWS) for label in self._calls}
        self._told: dict[str, set[str]] = {label: set() for label in self._calls}

    def check(
        self, label: str, outcomes: Sequence[Outcome], samples: Sequence[Sample], calls: Sequence[Sequence[int]]
    ) -> None:
        """Records the calls of a credited reward. Raises RewardError if it fails too often (see `RewardPolicy`).

        `calls` has the rows that were judged together. A call counts as the share of its rows that failed, so that a
        call that fails for a whole batch is one failure. If more than half of the first batch fails, training ends; a
        batch that is a single failed call is taken together with the next one.
        """
        recent, limit = self._calls[label], self._policy.max_error_rate
        failed = [(each.row_id, outcome) for each, outcome in zip(samples, outcomes, strict=True) if outcome.failed]
        self._recent[label].extend(failed[:SHOWN_ROWS])
        first = not recent or list(recent) == [1.0]
        recent.extend(sum(outcomes[row].failed for row in rows) / len(rows) for rows in calls)
        single = len(recent) == 1 and len(outcomes) > 1 and len({id(outcome) for outcome in outcomes}) == 1
        mostly_at_first = first and not single and sum(recent) > max(limit, 0.5) * len(recent)
        too_often = len(recent) >= MIN_CALLS and sum(recent) > limit * len(recent)
        if not (mostly_at_first or too_often or (failed and self._policy.on_error == "raise")):
            return
        count = f"{sum(recent):.4g} of its last {len(recent)} calls"
        shown = failed[:SHOWN_ROWS] or self._recent[label]
        example = max((outcome for _, outcome in shown), key=lambda outcome: outcome.kind == "error", default=None)
        rows = f" (rows {', '.join(row for row, _ in shown)})" if shown else ""
        what = f"reward `{label}` failed on {count}{rows}"
        reason = f": {_in_one_line(example.note)}" if example else ""
        more = (
            "set `on_error: drop_row`" if self._policy.on_error == "raise" else "raise `max_error_rate` or its timeout"
        )
        raise RewardError(what + reason, f"fix the reward, or {more} (in `reward_policy`)")

    def tell(self, label: str, outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        """Prints one line for each reason of a failure that was not told before; numbers do not make another reason."""
        told = self._told[label]
        for outcome, sample in zip(outcomes, samples, strict=True):
            reason = re.sub(r"\d+", "0", outcome.note)
            if outcome.failed and reason not in told and len(told) < MAX_REASONS:
                told.add(reason)
                told_of = f"warning: reward `{label}` failed on row {sample.row_id}"
                line = f"{told_of}: {_in_one_line(outcome.note)} (told once)"
                print(line, file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, list[float] | str]:
        """The share of failed rows in each recent call of each reward, as JSON values.

        Where all are 0 or 1, as for calls of one row, they are a text of dots and `x`.
        """
        texts = {label: _as_text(calls) for label, calls in self._calls.items()}
        return {label: list(self._calls[label]) if text is None else text for label, text in texts.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float] | str]) -> None:
        """Restores the state that `state_dict` returned."""
        for label, calls in self._calls.items():
            calls.clear()
            calls.extend(_share(mark) for mark in state.get(label, ""))


def _as_text(calls: Iterable[float]) -> str | None:
    marks = [{0.0: ".", 1.0: "x"}.get(share) for share in calls]
    return None if None in marks else "".join(filter(None, marks))


def _share(mark: float | str) -> float:
    return float(mark == "x") if isinstance(mark, str) else mark


def _in_one_line(note: str) -> str:
    return printable(" ".join(note.split())[:MAX_CHARACTERS])

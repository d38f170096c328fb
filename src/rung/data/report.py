"""The data report: how many rows were read, how many were dropped and why, and which rows need attention."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.data.fingerprints import fingerprint
from rung.data.prompting import PromptForm
from rung.data.records import BadRow
from rung.errors import DataError
from rung.utils.files import write_text

QUANTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}  # in per cent
NUM_NAMED = 5  # rows listed per cause
ROUNDING = 1e-9  # of a share that is computed as a product
MAX_BAD_SHARE = 0.02  # the default of `max_bad_share`


@dataclass(slots=True)
class Tally:
    """The sources of the rows that were dropped or noticed for one cause, in their order."""

    sources: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.sources)

    @property
    def first(self) -> list[str]:
        """The sources of the first few rows."""
        return self.sources[:NUM_NAMED]

    def add(self, source: str) -> None:
        """Counts a row."""
        self.sources.append(source)


@dataclass(slots=True)
class DataReport:
    """A report on the rows of a data set: counts by cause, token lengths, and the labels of classification data.

    >>> report = DataReport(rows=2, examples=1)
    >>> report.drop("prompt is empty", "a.jsonl:2")
    >>> print("\\n".join(report.lines()))
    2 rows, 1 examples
    dropped 1: prompt is empty (a.jsonl:2)
    """

    rows: int = 0
    examples: int = 0  # examples read
    encoded: int = 0  # examples encoded within the length limits
    formats: dict[str, int] = field(default_factory=dict)  # rows by format
    dropped: dict[str, Tally] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)  # those of `dropped` that cannot be read or encoded, by cause
    unreadable: int = 0  # rows that cannot be read
    tried: int = 0  # examples of which it was tried to encode them
    noticed: dict[str, Tally] = field(default_factory=dict)  # kept rows that need attention
    warnings: list[str] = field(default_factory=list)
    lengths: dict[str, list[int]] = field(default_factory=dict)  # in tokens, by `prompt` and `completion`
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()  # columns that the format did not use
    mixture: list[dict[str, Any]] = field(default_factory=list)  # for each data set: data, weight, examples, drawn
    quarantined: list[dict[str, Any]] = field(default_factory=list)  # bad rows in full, with their cause
    prompt_form: PromptForm | None = None  # how the examples ask; None before they are encoded
    digests: list[str] = field(default_factory=list)  # of the encoded examples in their order; empty before

    @property
    def num_dropped(self) -> int:
        """The number of dropped rows and examples, over all causes."""
        return sum(tally.count for tally in self.dropped.values())

    @property
    def bad_share(self) -> float:
        """The share of rows that cannot be used: that cannot be read, or are read and cannot be encoded."""
        unread = self.unreadable / self.rows if self.rows else 0.0
        unencoded = (sum(self.bad.values()) - self.unreadable) / self.tried if self.tried else 0.0
        return unread + (1 - unread) * unencoded

    def refuse(self, cause: str, source: str) -> None:
        """Counts a row or example that was dropped because it is bad, for `check_bad_share`."""
        self.drop(cause, source)
        self.bad[cause] = self.bad.get(cause, 0) + 1

    def check_bad_share(self, place: str, fault: BadRow, limit: float) -> None:
        """Raises `DataError` with the first bad row (`place`, `fault`) if the share of bad rows is above `limit`."""
        if self.bad_share <= limit + ROUNDING:
            return
        cause = max(self.bad, key=self.bad.__getitem__)
        rows = f"{self.bad_share:.1%} of the rows" if self.tried else f"{self.unreadable} of {self.rows} rows"
        raise DataError(
            f"{place}: {fault}; {rows} are bad ({self.bad[cause]}: {cause})",
            f"fix the rows, or raise `max_bad_share` (the limit is {limit:.0%} of the rows)",
        )

    def drop(self, cause: str, source: str) -> None:
        """Counts a row or example that was dropped."""
        self.dropped.setdefault(cause, Tally()).add(source)

    def notice(self, what: str, source: str) -> None:
        """Counts a row that was kept but needs attention, under the text `what`."""
        self.noticed.setdefault(what, Tally()).add(source)

    def measure(self, name: str, num_tokens: int) -> None:
        """Records the length of one text; `name` is `prompt` or `completion`."""
        self.lengths.setdefault(name, []).append(num_tokens)

    def merge(self, other: "DataReport") -> "DataReport":
        """A new report on the rows of both reports."""
        merged = DataReport(
            rows=self.rows + other.rows,
            examples=self.examples + other.examples,
            encoded=self.encoded + other.encoded,
            warnings=self.warnings + other.warnings,
            labels=tuple(sorted({*self.labels, *other.labels})),
            quarantined=self.quarantined + other.quarantined,
            columns=tuple(sorted({*self.columns, *other.columns})),
            mixture=self.mixture + other.mixture,
            unreadable=self.unreadable + other.unreadable,
            tried=self.tried + other.tried,
        )
        for report in (self, other):
            for name, count in report.formats.items():
                merged.formats[name] = merged.formats.get(name, 0) + count
            for cause, count in report.bad.items():
                merged.bad[cause] = merged.bad.get(cause, 0) + count
            for name, lengths in report.lengths.items():
                merged.lengths[name] = merged.lengths.get(name, []) + lengths
            for totals, added in ((merged.dropped, report.dropped), (merged.noticed, report.noticed)):
                for cause, tally in added.items():
                    totals[cause] = Tally(totals.get(cause, Tally()).sources + tally.sources)
        return merged

    def write_quarantine(self, file: Path) -> None:
        """Writes the quarantined rows as JSON lines; writes no file if there are none."""
        if self.quarantined:
            write_text(file, "".join(json.dumps(line, default=str) + "\n" for line in self.quarantined))

    def lines(self) -> list[str]:
        """The report as lines for the terminal."""
        formats = ", ".join(f"{name} ({count})" for name, count in self.formats.items())
        shown = [self.counts() + (f", format {formats}" if formats else "")]
        shown += [f"{len(self.labels)} labels"] if self.labels else []
        shown += self.remarks()
        for name, quantiles in self._quantiles().items():
            shown.append(f"{name} tokens: " + ", ".join(f"{q} {value}" for q, value in quantiles.items()))
        return shown + self.warnings

    def counts(self) -> str:
        """The numbers of rows, examples and encoded examples in words."""
        encoded = f", {self.encoded} encoded" if self.encoded else ""
        return f"{self.rows} rows, {self.examples} examples{encoded}"

    def remarks(self) -> list[str]:
        """What each data set of a mixture gave, and what was dropped or needs attention, by cause with first rows."""
        drawn = [_part_line(part) for part in self.mixture]
        dropped = [f"dropped {_counted(cause, tally)}" for cause, tally in self.dropped.items()]
        return drawn + dropped + [f"noticed {_counted(what, tally)}" for what, tally in self.noticed.items()]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "rows": self.rows,
            "examples": self.examples,
            "encoded": self.encoded,
            "formats": self.formats,
            "dropped": {cause: {"count": t.count, "first": t.first} for cause, t in self.dropped.items()},
            "noticed": {what: {"count": t.count, "first": t.first} for what, t in self.noticed.items()},
            "warnings": self.warnings,
            "tokens": self._quantiles(),
            "labels": list(self.labels),
            "columns": list(self.columns),
            "mixture": self.mixture,
            **fingerprint(self.digests),
        }

    def _quantiles(self) -> dict[str, dict[str, int]]:
        return {name: quantiles(lengths) for name, lengths in self.lengths.items() if lengths}


def quantiles(values: Iterable[int]) -> dict[str, int]:
    """The median, the 90th and 99th percentile (nearest rank) and the maximum of one or more integers.

    >>> quantiles(range(1, 101))
    {'p50': 50, 'p90': 90, 'p99': 99, 'max': 100}
    """
    ordered = sorted(values)
    return {name: ordered[math.ceil(per_cent * len(ordered) / 100) - 1] for name, per_cent in QUANTILES.items()}


def _part_line(part: dict[str, Any]) -> str:
    weight = "" if part["weight"] is None else f" (weight {part['weight']:g})"
    return f"{part['data']}: {part['drawn']} of {part['examples']} examples{weight}"


def _counted(cause: str, tally: Tally) -> str:
    more = ", ..." if tally.count > len(tally.first) else ""
    return f"{tally.count}: {cause} ({', '.join(tally.first)}{more})"

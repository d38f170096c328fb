"""The records of a report: the evaluations of a run, and the sections made from them (sentences, tables, curves)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rung.artifacts.lineage import Lineage
from rung.evaluation.evaluate import Evaluation
from rung.report.curves import Curves, Panel
from rung.reward.decorator import Goal


@dataclass(frozen=True, slots=True)
class Entry:
    """One evaluation of a stage's model, on one evaluation set and with one number of shots."""

    stage: str
    evaluation: Evaluation

    @property
    def label(self) -> str:
        """The name of the stage, with the number of shots if it is not 0."""
        shots = self.evaluation.num_shots
        return f"{self.stage}, {shots} shots" if shots else self.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of a finished run, from which its report is made.

    `test` and `validation` have the evaluations in the order of the stages, `metrics` are the names of the metrics in
    the order of the columns; `curves` are the training curves, `data` the data cards, and `symptoms` the signs that it
    learnt nothing, each by stage. Tables show the test set (validation if there is none); examples and gates come from
    validation, since the test set is no longer unseen by someone who has looked at its items.
    """

    name: str
    lineage: Lineage
    metrics: Sequence[str]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    test: Sequence[Entry] = ()
    validation: Sequence[Entry] = ()
    curves: Mapping[str, Curves] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    symptoms: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def final(self) -> Sequence[Entry]:
        """The evaluations that the tables show: those on the test set or, if there are none, on validation."""
        return self.test or self.validation


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells.

    The first `num_texts` columns are words, the others numbers. Consecutive rows with equal cells in the first
    `num_keys` columns are shown under a common heading. `strong` has the indices of the rows that are shown in bold.
    A narrow terminal leaves out the columns with the headers in `optional`.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_texts: int = 1
    num_keys: int = 0
    strong: frozenset[int] = frozenset()
    optional: tuple[str, ...] = ()


def told_keys(table: Table, row: Sequence[str]) -> str:
    """The common heading of rows with equal keys: the first key, then the header and the value of each other key.

    >>> told_keys(Table(("stage", "against", "gain"), (), num_keys=2), ("sft", "prompting", "+1.0"))
    'sft against prompting'
    """
    words = zip(table.headers[1 : table.num_keys], row[1:], strict=False)
    return " ".join([row[0], *(f"{header} {key}" for header, key in words)])


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a report: a title with sentences (names in backticks), a table and curves, all of them optional.

    `kind` is what the section shows: `numbers`, `examples` (a table of completions) or `curves`.
    """

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    kind: Literal["numbers", "examples", "curves"] = "numbers"
    panels: tuple[Panel, ...] = ()
    picture: str = ""  # the file with the picture of the panels, relative to the folder of the report

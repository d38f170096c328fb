"""What a report is made of: the evaluations of a run, and sections of sentences, tables and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rung.artifacts.lineage import Lineage
from rung.evaluation.evaluate import Evaluation
from rung.report.curves import Curves, Panel
from rung.reward.decorator import Goal


@dataclass(frozen=True, slots=True)
class Entry:
    """A stage's model, asked in one way: its evaluation on one set."""

    stage: str
    evaluation: Evaluation

    @property
    def label(self) -> str:
        """The stage, and the number of shots where there are some."""
        shots = self.evaluation.num_shots
        return f"{self.stage}, {shots} shots" if shots else self.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a finished run leaves behind: entries in the order of the stages, `metrics` in the order of the columns.

    The tables are of the test set (of validation where there is none); examples and gates are of validation, since
    whoever looks at single test items tunes on them. `curves` are those of each stage that was trained.
    """

    name: str
    lineage: Lineage
    metrics: Sequence[str]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    test: Sequence[Entry] = ()
    validation: Sequence[Entry] = ()
    curves: Mapping[str, Curves] = field(default_factory=dict)

    @property
    def final(self) -> Sequence[Entry]:
        """The entries that the tables show."""
        return self.test or self.validation


@dataclass(frozen=True, slots=True)
class Table:
    """Headers and cells, as text.

    The first `num_texts` columns hold words, the others numbers; the first `num_keys` say what several rows in a row
    have in common. `strong` are the rows to look at first. A narrow terminal leaves out the columns in `optional`.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_texts: int = 1
    num_keys: int = 0
    strong: frozenset[int] = frozenset()
    optional: tuple[str, ...] = ()


def told_keys(table: Table, row: Sequence[str]) -> str:
    """What several rows have in common, as a heading: the first key, then each other one behind its header.

    >>> told_keys(Table(("stage", "against", "gain"), (), num_keys=2), ("sft", "prompting", "+1.0"))
    'sft against prompting'
    """
    words = zip(table.headers[1 : table.num_keys], row[1:], strict=False)
    return " ".join([row[0], *(f"{header} {key}" for header, key in words)])


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences (names in backticks), a table of numbers or of what models wrote, and curves."""

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    kind: Literal["numbers", "examples", "curves"] = "numbers"
    panels: tuple[Panel, ...] = ()
    picture: str = ""  # the file of the panels, from the folder of the report

"""Writes `docs/reliability.md` from the results of all trials."""

from __future__ import annotations

import platform
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.chaos import kills, trl_trials
from benchmarks.chaos.about import ABOUT, INTRODUCTION, SECTIONS, TRL
from benchmarks.chaos.frame import IMPOSSIBLE, PASSED

WIDTH = 128
LONGEST = 150  # lines of a page
Row = Mapping[str, Any]


def page(results: Sequence[Row], *, command: str, seed: int, minutes: float) -> str:
    """The page: what was done, a table of all kinds, then a paragraph and a table for each kind, and TRL's figures."""
    own = [one for one in results if one["kind"] != trl_trials.KIND]
    lines = ["# Reliability", "", *wrapped(INTRODUCTION), ""]
    lines += wrapped(
        f"Written by `{command}` (seed {seed}, {len(results)} trials, {minutes:.0f} minutes, Python"
        f" {platform.python_version()}, {platform.machine()})."
        " A trial that failed is a fault that is known and not yet mended."
    )
    lines += ["", "| attack | trials | passed |", "|---|---|---|"]
    lines += [f"| {kind} | {len(some)} | {passed(some)} |" for kind in ABOUT if (some := of_kind(own, kind))]
    unknown = [one for one in own if one["kind"] not in ABOUT]
    if unknown:
        lines.append(f"| trials that the harness could not make | {len(unknown)} | 0 |")
    for title, kinds in SECTIONS.items():
        if any(of_kind(own, kind) for kind in kinds):
            text = " ".join(ABOUT[kind] for kind in kinds)
            lines += ["", f"## {title}", *wrapped(text), "", *table([of_kind(own, kind) for kind in kinds], kinds)]
    others = [one for one in results if one["kind"] == trl_trials.KIND]
    if others:
        lines += ["", "## TRL 1.16", *wrapped(TRL), "", *trl_table(others)]
    failed = [one for one in own if one["verdict"] not in PASSED]
    if failed:
        lines += ["", "## What failed", *failures(failed)[: LONGEST - len(lines) - 2]]
    return "\n".join([*lines, ""])


def wrapped(text: str) -> list[str]:
    """A paragraph in lines of at most `WIDTH` characters."""
    return textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def of_kind(results: Iterable[Row], kind: str) -> list[Row]:
    """The results of a kind that could be tried."""
    return [one for one in results if one["kind"] == kind and one["verdict"] != IMPOSSIBLE]


def passed(results: Iterable[Row]) -> int:
    """How many of the results passed."""
    return sum(one["verdict"] in PASSED for one in results)


def table(several: Sequence[Sequence[Row]], kinds: Sequence[str]) -> list[str]:
    """A row for each group: for each kind how many of its trials passed, and then how often each verdict was given."""
    heads = ["passed"] if len(kinds) == 1 else kinds
    lines = [f"| what | {' | '.join(heads)} | verdicts |", "|---" * (len(kinds) + 2) + "|"]
    for group in sorted({str(one["group"]) for results in several for one in results}):
        parts = [[one for one in results if one["group"] == group] for results in several]
        cells = [f"{passed(part)} of {len(part)}" if part else "-" for part in parts]
        every = [one for part in parts for one in part]
        told = [f"{verdict} {number}" for verdict, number in Counter(one["verdict"] for one in every).most_common()]
        lines.append(f"| {group} | {' | '.join(cells)} | {', '.join([*told, *measured(every)])} |")
    return lines


def measured(results: Sequence[Row]) -> list[str]:
    """What the trials of a group measured: sums of kills, and the largest of anything else."""
    told = []
    for name in dict.fromkeys(name for one in results for name in one["numbers"]):
        values = [one["numbers"][name] for one in results if name in one["numbers"]]
        if name == kills.KILLS:
            told.append(f"{sum(values):g} kills")
        else:
            told.append(f"{name}: at most {max(values):.3g}" if len(values) > 1 else f"{name}: {values[0]:.4g}")
    return told


def trl_table(results: Sequence[Row]) -> list[str]:
    """A row for each attack and a column for each trainer."""
    columns = list(dict.fromkeys(str(one["group"]).partition(" | ")[2] for one in results))
    columns = [name for name in trl_trials.TRAINERS if name in columns]
    lines = [f"| attack | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for attack in trl_trials.GROUPS.values():
        cells = []
        for name in columns:
            found = Counter(one["verdict"] for one in results if one["group"] == f"{attack} | {name}")
            cells.append(", ".join(f"{verdict} {number}" for verdict, number in found.most_common()) or "-")
        lines.append(f"| {attack} | {' | '.join(cells)} |")
    return lines


def failures(failed: Sequence[Row]) -> list[str]:
    """One example for each kind and verdict."""
    examples = {(one["kind"], one["verdict"]): one for one in reversed(failed)}
    lines = []
    for one in examples.values():
        text = f"- {one['kind']}, {one['group']}: {one['trial']}: {one['verdict']}"
        lines.append(textwrap.shorten(text.replace("`", "'").replace("*", "#"), WIDTH))
    return lines

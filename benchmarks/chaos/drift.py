"""What a run depends on changes between its stop and its resumption: refused, or allowed by a flag and recorded."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.chaos import kills, trials
from benchmarks.chaos.baselines import RUN, Baseline
from benchmarks.chaos.frame import FAILED, IDENTICAL, REFUSED, SILENT, Plan, Result, Trial, compared, prepared, problem

KIND = "drift between stop and resumption"
ALLOWED, RESTORED = "--allow-drift goes on and records it", "restored, it goes on to the same bytes"
PLACE = kills.SECOND_STAGE  # sft has finished and dpo has a checkpoint; grpo, the evaluations and the test follow


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the files of a run, or of the process that goes on with it; `told` is what a refusal has to name.

    A change of the config is refused with `--allow-drift` too.
    """

    told: str
    files: Callable[[Path], None] | None = None
    process: Callable[[], None] | None = None
    allowable: bool = True


def plan(plan: Plan) -> list[Trial]:
    """One trial for each change."""
    baseline = plan.baselines["path"]
    return [partial(changed, baseline, name) for name in CHANGES]


def changed(baseline: Baseline, name: str, folder: Path) -> Iterator[Result]:
    """Stops a run, changes something, and starts the same command: as it is, with `--allow-drift`, and restored."""
    prepared(baseline.case, folder)
    at = baseline.first(PLACE)
    trials.run(trials.rung(*RUN, before=kills.killing(folder, at)), folder)
    shutil.copytree(folder, original := folder / "original")
    change = CHANGES[name]
    if change.files is not None:
        change.files(folder)
    ended = trials.run(trials.rung(*RUN, before=change.process), folder)
    verdict, detail = problem(ended) or (SILENT, "it went on")
    if verdict == REFUSED and not re.search(change.told, ended.stderr):
        verdict, detail = FAILED, f"refused without naming {change.told}: {ended.told}"
    yield Result(KIND, "refused, with the difference named", name, verdict, detail)

    if change.allowable:
        yield allowed(name, change, original, folder / "allowed")
    restore(original, folder)
    ended = trials.run(trials.rung(*RUN), folder)
    verdict, detail = problem(ended) or compared(folder, baseline)
    yield Result(KIND, RESTORED, name, FAILED if verdict == REFUSED else verdict, detail)


def allowed(name: str, change: Change, original: Path, folder: Path) -> Result:
    """Makes the change to a copy of the stopped run, and goes on with `--allow-drift`: the lineage names the change."""
    shutil.copytree(original, folder)
    if change.files is not None:
        change.files(folder)
    ended = trials.run(trials.rung(*RUN, "--allow-drift", before=change.process), folder)
    verdict, detail = problem(ended) or (IDENTICAL, "")
    if verdict == IDENTICAL:
        recorded = json.dumps(json.loads((folder / "runs/run/lineage.json").read_text())["changes"])
        if not re.search(change.told, recorded):
            verdict, detail = SILENT, f"the changes in the lineage do not name it: {recorded}"
    return Result(KIND, ALLOWED, name, FAILED if verdict == REFUSED else verdict, detail)


def restore(original: Path, folder: Path) -> None:
    """Undoes a change: the user's files, and the config of the run where it is missing."""
    for file in original.iterdir():
        if file.is_file():
            shutil.copy2(file, folder)
    config = folder / "runs/run/config.yaml"
    if not config.exists():
        shutil.copy2(original / "runs/run/config.yaml", config)


def _rows(file: str, edit: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"{file}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edit(rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


def _text(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        before = path.read_text()
        assert old in before, f"{file} has no {old!r}"
        path.write_text(before.replace(old, new))

    return change


def _delete_config(folder: Path) -> None:
    (folder / "runs/run/config.yaml").unlink()


def _two_threads() -> None:
    import torch

    torch.set_num_threads(2)


def _another_version(package: str) -> Callable[[], None]:
    def change() -> None:
        real = importlib.metadata.distribution

        def distribution(name: str) -> Any:
            return SimpleNamespace(version="9.9.9") if name == package else real(name)

        importlib.metadata.distribution = distribution

    return change


SIGN = ("return sum", "return -sum")
CHANGES: Mapping[str, Change] = {
    "a row of the stage under way is edited": Change(
        "dpo|pairs", _rows("pairs", lambda rows: rows[3].update(chosen="another"))
    ),
    "a row of the stage under way is added": Change("dpo|pairs", _rows("pairs", lambda rows: rows.append(rows[0]))),
    "rows of the stage under way are reordered": Change("dpo|pairs", _rows("pairs", lambda rows: rows.reverse())),
    "a prompt of a later stage and of the evaluation is edited": Change(
        "grpo|prompts|validation|test", _rows("prompts", lambda rows: rows[3].update(prompt="another"))
    ),
    "the answers of the prompts are edited": Change(
        "grpo|prompts|validation|test", _rows("prompts", lambda rows: [row.update(answer="x") for row in rows])
    ),
    "prompts are added": Change("grpo|prompts|validation|test", _rows("prompts", lambda rows: rows.append(rows[0]))),
    "prompts are reordered": Change("grpo|prompts|validation|test", _rows("prompts", lambda rows: rows.reverse())),
    "the sign of the reward and metric is turned": Change("judge|small_letters", _text("judge.py", *SIGN)),
    "a number in the reward and metric is edited": Change("judge|small_letters", _text("judge.py", '<= "m"', '<= "n"')),
    "the key of a stage under way is edited": Change(
        "learning_rate", _text("run.yaml", "learning_rate: 0.01", "learning_rate: 0.02"), allowable=False
    ),
    "the resolved config of the run is deleted": Change("config.yaml", _delete_config),
    "two threads instead of one": Change("thread", None, _two_threads),
    "another version of torch": Change("torch", None, _another_version("torch")),
    "another version of transformers": Change("transformers", None, _another_version("transformers")),
}

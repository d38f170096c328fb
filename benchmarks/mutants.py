"""How many wrong edits of the maths and the algorithms the tests notice: mutation testing with cosmic-ray.

    python benchmarks/mutants.py --seed 1 --number 300

cosmic-ray lists and makes every mutant of the files in `benchmarks/mutants.yaml`: an operator or a comparison replaced,
a number moved by 1, a `not` added, a decorator removed. A sample drawn by the seed is tried one by one in a copy of the
checkout, against the tests in the same file; one that takes ten times as long as they do counts as noticed. They run in
forks of a process that has loaded the libraries, which saves half of the time. `docs/mutants.md` tells what survived,
with a reason where the file has one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from difflib import ndiff
from importlib import import_module
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec
from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("algorithms", "configs", "examples", "rewards", "src", "tests", "pyproject.toml")
LOADED = ("hypothesis", "peft", "torch", "transformers.models.llama.modeling_llama")
PATIENCE = 10
UNEXPLAINED = "No reason is known"


class Reason(BaseModel):
    """Why mutants survive that no test of behaviour could notice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    mutants: tuple[str, ...]
    """`file: line -> line as mutated`, without indentation."""


class Setup(BaseModel):
    """`benchmarks/mutants.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[str, ...]
    """What is mutated, as globs."""
    tests: tuple[str, ...]
    """Arguments of pytest: the quickest tests first, as the first failure ends a run."""
    reasons: tuple[Reason, ...]


class Mutant(NamedTuple):
    """One edit that was tried."""

    file: str
    line: int
    name: str  # `file: line -> line as mutated`
    noticed: bool


def main() -> None:
    """Tries a sample and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mutants.md")
    asked = parser.parse_args()
    setup = Setup.model_validate(yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(Path(folder))
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": f"{folder}/src", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True  # two edits of a file may fall into one second
        every = listed(setup.files)
        sample = random.Random(asked.seed).sample(every, min(asked.number, len(every)))
        for library in LOADED:
            import_module(library)
        seconds = baseline(setup.tests)
        tried = [attempt(spec, setup.tests, PATIENCE * seconds) for spec in sample]
    asked.out.write_text(page(tried, setup, seed=asked.seed, listed=len(every), seconds=seconds))
    print(f"{asked.out}: {sum(mutant.noticed for mutant in tried)} of {len(tried)} noticed")


def copy_checkout(folder: Path) -> None:
    """What the tests need, so that the checkout itself is never edited."""
    for name in COPIED:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
        else:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


def listed(globs: Sequence[str]) -> list[MutationSpec]:
    """Every mutant of the files, in an order that depends on nothing but them."""
    files = [file for pattern in globs for file in sorted(Path().glob(pattern))]
    with use_db("session.sqlite") as session:
        init(files, session, {})
        specs = [item.mutations[0] for item in session.work_items]
    return sorted(specs, key=lambda spec: (str(spec.module_path), spec.operator_name, spec.occurrence))


def passes(tests: Sequence[str], seconds: float = 0) -> bool:
    """Whether all tests pass in a process of their own, within so many seconds; 0 = however long they take.

    What hypothesis draws is the same for every mutant.
    """
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are loaded already
    child = os.fork()
    if not child:
        signal.alarm(ceil(seconds))
        with Path("output").open("w") as output:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
            code = 1
            try:
                code = int(pytest.main([*options, *tests]))
            finally:
                sys.stdout.flush()
                os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def baseline(tests: Sequence[str]) -> float:
    """Seconds that the tests take where nothing is mutated; ends the program where they fail."""
    start = time.perf_counter()
    if not passes(tests):
        sys.exit(f"the tests fail before anything is mutated:\n{Path('output').read_text()}")
    return time.perf_counter() - start


def attempt(spec: MutationSpec, tests: Sequence[str], seconds: float) -> Mutant:
    """Tries one mutant and puts the file back."""
    operator = get_operator(spec.operator_name)(**spec.operator_args)
    with use_mutation(spec.module_path, operator, spec.occurrence) as (before, after):
        assert after is not None, "cosmic-ray listed it"
        edits = [line for line in ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
        noticed = not passes(tests, seconds)
    one, other = (" ".join(line[2:].strip() for line in edits if line[0] == sign) for sign in "-+")
    name = f"{spec.module_path}: {one} -> {other}"
    print("noticed " if noticed else "SURVIVED", name, flush=True)
    return Mutant(str(spec.module_path), spec.start_pos[0], name, noticed)


def page(tried: Sequence[Mutant], setup: Setup, *, seed: int, listed: int, seconds: float) -> str:
    """`docs/mutants.md`."""
    survivors = sorted(mutant for mutant in tried if not mutant.noticed)
    noticed = len(tried) - len(survivors)
    lines = [
        "# Mutants",
        "",
        "Wrong edits of the maths and the algorithms, tried one by one: how many of them the tests notice. What is",
        "edited, which tests are run and why no test could notice a survivor stand in `benchmarks/mutants.yaml`.",
        f"Written by `make mutants SEED={seed} N={len(tried)}` with cosmic-ray {version('cosmic-ray')}: {len(tried)} of"
        f" {listed} mutants, drawn by the seed; the tests take {seconds:.0f} s.",
        "",
        f"**{noticed} of {len(tried)} noticed: {noticed / len(tried):.1%}.**",
        "",
        "| file | tried | noticed |",
        "|---|---|---|",
    ]
    for file in sorted({mutant.file for mutant in tried}):
        here = [mutant.noticed for mutant in tried if mutant.file == file]
        lines.append(f"| `{file}` | {len(here)} | {sum(here)} |")
    lines += ["", "## Survivors"]
    why = {name: reason.why for reason in setup.reasons for name in reason.mutants}
    for reason in [*(reason.why for reason in setup.reasons), UNEXPLAINED]:
        several = [mutant for mutant in survivors if why.get(mutant.name, UNEXPLAINED) == reason]
        if several:
            lines += ["", f"{reason}:", *(f"- line {mutant.line} of `` {mutant.name} ``" for mutant in several)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()

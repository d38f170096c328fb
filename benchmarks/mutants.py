"""How many wrong edits of the code the tests notice: mutation testing with cosmic-ray.

    python benchmarks/mutants.py --seed 1 --number 400

cosmic-ray lists and makes every mutant of the files in `benchmarks/mutants.yaml`: an operator or a comparison replaced,
a number moved by 1, a `not` added, a decorator removed. A sample drawn by the seed is tried one by one in copies of the
checkout, each against the tests of its own package; tests whose file is named after the mutated module run first. A
mutant under which the tests take ten times as long counts as noticed. Tests run in forks of a process that has loaded
the libraries. `docs/mutants.md` lists the survivors, with a reason where the YAML file has one.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from difflib import ndiff
from importlib import import_module
from importlib.metadata import version
from math import ceil
from pathlib import Path, PurePath
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
COPIED = (
    "README.md",
    "algorithms",
    "benchmarks",
    "configs",
    "docs",
    "examples",
    "rewards",
    "src",
    "tests",
    "pyproject.toml",
)
LOADED = ("hypothesis", "peft", "scipy.stats", "torch", "transformers.models.llama.modeling_llama")
PATIENCE, LEAST_SECONDS = 10, 60
UNEXPLAINED = "No reason is known"


class Reason(BaseModel):
    """Why mutants survive that no test of behaviour could notice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str
    mutants: tuple[str, ...]
    """`file: line -> line as mutated`, without indentation."""


class Package(BaseModel):
    """Files that are mutated, and the tests that should notice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[str, ...]
    """Globs; a file belongs to the first package that matches it."""
    tests: tuple[str, ...]
    """Files and folders; those named after the mutated module run first."""
    options: tuple[str, ...] = ()
    """Further arguments of pytest."""


class Setup(BaseModel):
    """`benchmarks/mutants.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: dict[str, Package]
    reasons: tuple[Reason, ...]

    def package_of(self, file: str) -> str:
        """The package that a file belongs to."""
        return next(
            n for n, package in self.packages.items() if any(PurePath(file).match(glob) for glob in package.files)
        )


class Mutant(NamedTuple):
    """One edit that was tried."""

    package: str
    file: str
    line: int
    name: str  # `file: line -> line as mutated`
    noticed: bool


def main() -> None:
    """Tries a sample and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants are tried side by side")
    parser.add_argument("--packages", nargs="*", default=None, help="only these packages; the page is then printed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "mutants.md")
    asked = parser.parse_args()
    setup = Setup.model_validate(yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / str(job) for job in range(asked.jobs)]
        for copy in copies:
            copy_checkout(copy)
        os.chdir(copies[0])
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True  # two edits of a file may fall into one second
        every = listed([glob for package in setup.packages.values() for glob in package.files])
        every = [
            spec
            for spec in every
            if asked.packages is None or setup.package_of(str(spec.module_path)) in asked.packages
        ]
        sample = random.Random(asked.seed).sample(every, min(asked.number, len(every)))
        for library in LOADED:
            import_module(library)
        begun = time.monotonic()
        tried = try_side_by_side(sample, setup, copies)
    made = page(tried, setup, seed=asked.seed, listed=len(every), minutes=(time.monotonic() - begun) / 60)
    if asked.packages is None:
        asked.out.write_text(made)
    else:
        print(made)
    print(f"{sum(mutant.noticed for mutant in tried)} of {len(tried)} noticed")


def copy_checkout(folder: Path) -> None:
    """What the tests need, so that the checkout itself is never edited."""
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
        else:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


def listed(globs: Sequence[str]) -> list[MutationSpec]:
    """Every mutant of the files, except in annotations, in an order that depends on the files alone."""
    files = sorted({file for pattern in globs for file in Path().glob(pattern) if not file.is_symlink()})
    with use_db("session.sqlite") as session:
        init(files, session, {})
        specs = [item.mutations[0] for item in session.work_items]
    unevaluated = {str(file): annotation_spans(file.read_text(encoding="utf-8")) for file in files}
    specs = [
        spec
        for spec in specs
        if not any(begin <= tuple(spec.start_pos) < end for begin, end in unevaluated[str(spec.module_path)])
    ]
    return sorted(specs, key=lambda spec: (str(spec.module_path), spec.operator_name, spec.occurrence))


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Begin and end (line and column) of all annotations but those of fields, which pydantic evaluates."""
    found = []
    tree = ast.parse(source)
    fields = {id(each) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and id(node) not in fields:
            one = node.annotation
            found.append(((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [each.annotation for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            for one in filter(None, [*arguments, node.returns]):
                found.append(((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0)))
    return found


def try_side_by_side(sample: Sequence[MutationSpec], setup: Setup, copies: Sequence[Path]) -> list[Mutant]:
    """Tries the mutants in as many processes as there are copies of the checkout."""
    children = []
    for job, copy in enumerate(copies):
        child = os.fork()
        if not child:
            os.chdir(copy)
            os.environ["PYTHONPATH"] = str(copy / "src")
            seconds: dict[str, float] = {}
            tried = [attempt(spec, setup, seconds) for spec in sample[job :: len(copies)]]
            (copy / "tried.json").write_text(json.dumps(tried))
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        sys.exit("the tests fail before anything is mutated")
    return [Mutant(*one) for copy in copies for one in json.loads((copy / "tried.json").read_text())]


def attempt(spec: MutationSpec, setup: Setup, seconds: dict[str, float]) -> Mutant:
    """Tries one mutant and puts the file back; `seconds` keeps how long the tests of each package take."""
    file = str(spec.module_path)
    package = setup.package_of(file)
    tests = ordered_tests(setup.packages[package], Path(file).stem)
    if package not in seconds:
        seconds[package] = baseline(tests)
    operator = get_operator(spec.operator_name)(**spec.operator_args)
    with use_mutation(spec.module_path, operator, spec.occurrence) as (before, after):
        assert after is not None, "cosmic-ray listed it"
        edits = [line for line in ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
        noticed = not passes(tests, max(PATIENCE * seconds[package], LEAST_SECONDS))
    one, other = (" ".join(line[2:].strip() for line in edits if line[0] == sign) for sign in "-+")
    name = f"{file}: {one} -> {other}"
    print("noticed " if noticed else "SURVIVED", name, flush=True)
    return Mutant(package, file, spec.start_pos[0], name, noticed)


def ordered_tests(package: Package, module: str) -> list[str]:
    """The arguments of pytest for a mutant of a module: the test files named after it first."""
    files = [file for test in package.tests for file in test_files(Path(test))]
    named = [file for file in files if module.strip("_") in Path(file).stem]
    return [*named, *(file for file in files if file not in named), *package.options]


def test_files(test: Path) -> list[str]:
    """The test files of a folder, or the file itself."""
    return sorted(map(str, test.glob("test_*.py"))) if test.is_dir() else [str(test)]


def passes(tests: Sequence[str], seconds: float = 0) -> bool:
    """Whether all tests pass in a process of their own, within so many seconds; 0 = however long they take.

    What hypothesis draws is the same for every mutant.
    """
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are loaded already
    child = os.fork()
    if not child:
        os.setsid()
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
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that a test started and did not end
    return status == 0


def baseline(tests: Sequence[str]) -> float:
    """Seconds that the tests take where nothing is mutated; ends the program where they fail."""
    start = time.perf_counter()
    if not passes(tests):
        print(Path("output").read_text(), file=sys.stderr, flush=True)
        os._exit(1)
    return time.perf_counter() - start


def page(tried: Sequence[Mutant], setup: Setup, *, seed: int, listed: int, minutes: float) -> str:
    """`docs/mutants.md`."""
    survivors = sorted(mutant for mutant in tried if not mutant.noticed)
    why = {name: reason.why for reason in setup.reasons for name in reason.mutants}
    noticed = len(tried) - len(survivors)
    lines = [
        "# Mutants",
        "",
        "How many wrong edits of the code the tests notice: each is tried by itself against the tests of its package.",
        "`benchmarks/mutants.yaml` lists the files, the tests, and the reasons why no test could notice a survivor.",
        f"Written by `make mutants SEED={seed} N={len(tried)}` with cosmic-ray {version('cosmic-ray')}: {len(tried)} of"
        f" {listed} mutants, drawn by the seed, in {minutes:.0f} minutes.",
        "",
        f"**{noticed} of {len(tried)} noticed: {noticed / len(tried):.1%}.**",
        "",
        "| package | tried | noticed |",
        "|---|---|---|",
        *counts(tried),
        "",
        "## Survivors",
    ]
    for reason in [*(reason.why for reason in setup.reasons), UNEXPLAINED]:
        several = [mutant for mutant in survivors if why.get(mutant.name, UNEXPLAINED) == reason]
        if several:
            lines += ["", f"{reason}:", *(f"- line {mutant.line} of `` {mutant.name} ``" for mutant in several)]
    return "\n".join([*lines, ""])


def counts(tried: Sequence[Mutant]) -> list[str]:
    """A row of the table for each package."""
    found: Mapping[str, list[bool]] = {
        package: [mutant.noticed for mutant in tried if mutant.package == package]
        for package in sorted({mutant.package for mutant in tried})
    }
    return [f"| {package} | {len(here)} | {sum(here)} |" for package, here in found.items()]


if __name__ == "__main__":
    main()

"""`make mutants`: what is edited and what is run exists, and the page counts what was tried."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.repository import ROOT

SETUP = yaml.safe_load((ROOT / "benchmarks/mutants.yaml").read_text())


@pytest.fixture(scope="module")
def mutants() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks/mutants.py"))


@pytest.mark.parametrize("package", SETUP["packages"].values(), ids=list(SETUP["packages"]))
def test_every_file_that_is_named_is_there(package: dict[str, Any]) -> None:
    assert all(list(ROOT.glob(pattern)) for pattern in package["files"])
    assert all((ROOT / test).exists() for test in package["tests"])


def test_every_module_belongs_to_a_package() -> None:
    """`src/rung/algorithms`, `rewards` and `configs` are links to the folders at the top."""
    found = {file for package in SETUP["packages"].values() for glob in package["files"] for file in ROOT.glob(glob)}
    top = [file for folder in ("algorithms", "rewards") for file in (ROOT / folder).rglob("*.py")]
    engine = [file for file in (ROOT / "src/rung").rglob("*.py") if not any(up.is_symlink() for up in file.parents)]
    assert len(engine) > 100
    assert found >= {*top, *engine}


@pytest.mark.parametrize("mutant", [mutant for reason in SETUP["reasons"] for mutant in reason["mutants"]])
def test_a_reason_is_about_a_line_that_is_still_there(mutant: str) -> None:
    file, line = re.fullmatch(r"(\S+): (.*) -> .*", mutant).groups()  # type: ignore[union-attr]
    assert " ".join(line.split()) in [" ".join(found.split()) for found in (ROOT / file).read_text().splitlines()]


def test_the_page_counts_what_was_noticed_and_gives_the_reasons_it_has(mutants: dict[str, Any]) -> None:
    made, tried = mutants["Setup"], mutants["Mutant"]
    setup = made.model_validate(
        {
            "packages": {
                "one": {"files": ["a.py"], "tests": ["tests"]},
                "two": {"files": ["b.py"], "tests": ["tests"]},
            },
            "reasons": [{"why": "The same number", "mutants": ["a.py: x -> +x"]}],
        }
    )
    results = [
        tried("one", "a.py", 3, "a.py: x -> +x", False),
        tried("one", "a.py", 4, "a.py: y -> -y", False),
        *(tried("two", "b.py", line, f"b.py: {line} -> 0", True) for line in range(6)),
    ]
    page = mutants["page"](results, setup, seed=7, listed=90, minutes=12.3)
    assert "`make mutants SEED=7 N=8`" in page
    assert "8 of 90 mutants" in page
    assert "in 12 minutes" in page
    assert "**6 of 8 noticed: 75.0%.**" in page
    assert "| one | 2 | 0 |\n| two | 6 | 6 |" in page
    assert "The same number:\n- line 3 of `` a.py: x -> +x ``\n\nNo reason is known:\n- line 4 of" in page


def test_mutants_are_listed_in_one_order_whatever_their_keys(
    mutants: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text(
        "def f(x: int | None) -> int | str:\n    y: int | str = 1\n    return x + 1 if x > 2 else -x\n"
    )
    found = mutants["listed"](["a.py"])
    again = mutants["listed"](["a.py"])
    assert found == again
    assert {spec.operator_name for spec in found} >= {"core/NumberReplacer", "core/ReplaceBinaryOperator_Add_Sub"}
    assert not any("Operator_BitOr" in spec.operator_name for spec in found), "nothing evaluates an annotation"


def test_a_module_belongs_to_its_own_package(mutants: dict[str, Any]) -> None:
    setup = mutants["Setup"].model_validate(SETUP)
    wanted = {
        "batch": "engine",
        "maths/advantages": "maths",
        "data/formats/preference": "data",
        "tiny/corpus/x": "tiny",
    }
    for module, package in wanted.items():
        assert setup.package_of(f"src/rung/{module}.py") == package
    assert setup.package_of("algorithms/shared/pairs.py") == setup.package_of("algorithms/dpo.py") == "algorithms"


def test_tests_named_after_a_module_run_first(mutants: dict[str, Any], tmp_path: Path) -> None:
    for name in ("test_a.py", "test_cut.py", "test_rows_cut_edges.py"):
        (tmp_path / name).touch()
    package = mutants["Package"](files=("cut.py",), tests=(str(tmp_path),), options=("-k", "quick"))
    ordered = mutants["ordered_tests"](package, "cut")
    assert [Path(file).name for file in ordered] == [
        "test_cut.py",
        "test_rows_cut_edges.py",
        "test_a.py",
        "-k",
        "quick",
    ]

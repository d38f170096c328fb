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


def test_every_file_that_is_named_is_there() -> None:
    assert all(list(ROOT.glob(pattern)) for pattern in SETUP["files"])
    assert all((ROOT / test).is_file() for test in SETUP["tests"] if test.endswith(".py"))


@pytest.mark.parametrize("mutant", [mutant for reason in SETUP["reasons"] for mutant in reason["mutants"]])
def test_a_reason_is_about_a_line_that_is_still_there(mutant: str) -> None:
    file, line = re.fullmatch(r"(\S+): (.*) -> .*", mutant).groups()  # type: ignore[union-attr]
    assert line in [" ".join(found.split()) for found in (ROOT / file).read_text().splitlines()]


def test_the_page_counts_what_was_noticed_and_gives_the_reasons_it_has(mutants: dict[str, Any]) -> None:
    made, tried = mutants["Setup"], mutants["Mutant"]
    setup = made.model_validate(
        {"files": ["a.py"], "tests": ["tests"], "reasons": [{"why": "The same number", "mutants": ["a.py: x -> +x"]}]}
    )
    results = [
        tried("a.py", 3, "a.py: x -> +x", False),
        tried("a.py", 4, "a.py: y -> -y", False),
        *(tried("b.py", line, f"b.py: {line} -> 0", True) for line in range(6)),
    ]
    page = mutants["page"](results, setup, seed=7, listed=90, seconds=12.3)
    assert "`make mutants SEED=7 N=8`" in page
    assert "8 of 90 mutants" in page
    assert "**6 of 8 noticed: 75.0%.**" in page
    assert "| `a.py` | 2 | 0 |\n| `b.py` | 6 | 6 |" in page
    assert "The same number:\n- line 3 of `` a.py: x -> +x ``\n\nNo reason is known:\n- line 4 of" in page


def test_mutants_are_listed_in_one_order_whatever_their_keys(
    mutants: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("def f(x):\n    return x + 1 if x > 2 else -x\n")
    found = mutants["listed"](["a.py"])
    again = mutants["listed"](["a.py"])
    assert found == again
    assert {spec.operator_name for spec in found} >= {"core/NumberReplacer", "core/ReplaceBinaryOperator_Add_Sub"}

"""`make certify`: a page on which nothing is missing, and none where a check fails, is skipped or was left out."""

import re

import pytest
import torch

from helpers.certificate import ABOUT, NONE, TOLERANCES, Record, at_most, deviation, faults, page, precision
from helpers.repository import ROOT
from rung.config.algorithms import algorithm_names

PAGE = ROOT / "docs" / "certificate.md"


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each algorithm's row."""
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in found}


def every_record(algorithms: list[str]) -> list[Record]:
    """A measurement of each part of each cell that is not said to be empty."""
    return [
        Record("test", name, check, part, 0.0 if parts else "loss 2 -> 1")
        for name in algorithms
        for check, parts in TOLERANCES.items()
        for part in parts or ("",)
        if (name, check) not in NONE
    ]


def test_the_page_has_every_algorithm_and_every_column() -> None:
    """A new algorithm has no row until its checks are there and `make certify` has run them."""
    text = PAGE.read_text(encoding="utf-8")
    assert list(rows(text)) == algorithm_names(), "run `make certify`"
    assert f"| algorithm | {' | '.join(TOLERANCES)} |" in text
    assert all(f"| {check} | {about} |" in text for check, about in ABOUT.items())


def test_a_cell_has_a_measurement_or_says_none_with_a_reason() -> None:
    text = PAGE.read_text(encoding="utf-8")
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    for name, cells in rows(text).items():
        for check, cell in zip(TOLERANCES, cells, strict=True):
            noted = re.search(r" \[(\d+)\]$", cell)
            if (name, check) in NONE:
                assert cell.startswith("none [")
                assert noted
                assert NONE[name, check] in reasons[noted[1]]
            else:
                measured = r" -> [\d.]+" if check == "learns" else r"\d \(\d+\)"
                assert re.search(rf"{measured}( \[\d+\])?$", cell), f"{name}, {check}: {cell}"


def test_no_deviation_on_the_page_is_beyond_its_tolerance() -> None:
    for name, cells in rows(PAGE.read_text(encoding="utf-8")).items():
        for (check, parts), cell in zip(TOLERANCES.items(), cells, strict=True):
            for part, tolerance in parts.items():
                for found in re.findall(rf"(?:^|, ){part} ?([\de.-]+)(?=[, ])", cell):
                    assert float(found) <= tolerance, f"{name}, {check}: {cell}"


@pytest.mark.parametrize(
    ("apart", "told"), [(0.0, "0"), (1.01e-7, "2e-07"), (9.99e-8, "1e-07"), (3e-5, "3e-05"), (0.25, "3e-01")]
)
def test_a_deviation_is_rounded_up(apart: float, told: str) -> None:
    assert at_most(apart) == told


def test_a_deviation_is_the_largest_of_all_numbers() -> None:
    """|2 - 1| / 2 = .5, |10 - 4| / 5 = 1.2, and 0."""
    found = {"a": [2.0, torch.tensor([10.0])], "b": 3.0}
    assert deviation(found, {"b": 3.0, "a": [1.0, 4.0]}) == pytest.approx(1.2)
    with pytest.raises(AssertionError, match="NaN"):
        deviation([1.0, float("nan")], [1.0, 1.0])
    with pytest.raises(AssertionError, match="as many"):
        deviation([1.0], [1.0, 1.0])
    assert precision([torch.tensor(1.0, dtype=torch.float64), torch.ones(2)]) == "f32"


def test_what_was_not_measured_is_a_fault() -> None:
    names = algorithm_names()
    records = every_record(names)
    assert not faults(records, names)
    assert list(rows(page(records, names))) == names
    assert faults(records, [*names, "new"]) == [f"new, {check}: not measured" for check in TOLERANCES]
    alone = [record for record in records if (record.algorithm, record.of) != ("sft", "ranks")]
    assert faults(alone, names) == ["sft, invariance: ranks was not measured"]
    stale = [*records, Record("test", "prompt", "learns", "", "0 -> 1"), Record("test", "old", "golden", "", 0.0)]
    assert faults(stale, names) == ["old: no such algorithm", "prompt, learns: measured, and said to be none"]


CHECKS = {
    "passes": ('certify("sft", "golden", 1.0, 1.0)', "cpo, golden: not measured"),
    "fails": ("assert False", "not every test passed"),
    "is beyond its tolerance": ('certify("sft", "golden", 1.0, 1.1)', "not every test passed"),
    "is skipped": ('__import__("pytest").skip()', "1 tests were skipped"),
}


@pytest.mark.parametrize(("line", "says"), CHECKS.values(), ids=CHECKS)
def test_a_run_that_leaves_a_gap_writes_no_page_and_fails(pytester: pytest.Pytester, line: str, says: str) -> None:
    """A run of pytest within this one."""
    pytester.makepyfile(
        test_it=f"def test_it(certify):\n    {line}\n\n\ndef test_of_something_else():\n    assert False\n"
    )
    done = pytester.runpytest_inprocess("-p", "helpers.certificate", "--certify=page.md", "test_it.py")
    assert done.ret == 1
    told = done.stdout.str()
    assert f"no certificate: {says}" in told
    assert "1 deselected" in told, "what measures nothing is not run"
    assert not (pytester.path / "page.md").exists()

"""Several data sets are one: in the ratio of their weights, sampled by seed, and told in the report."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rung.config.load import parse_config
from rung.data.load import load_examples
from rung.data.mixtures import drawn, mixture
from rung.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("a", 30), ("b", 100)):
        rows = [{"prompt": f"{name}{i}", "completion": "x", "from_" + name: i} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def mixed(folder: Path, *entries: Any, seed: int = 0, **settings: Any) -> tuple[list[str], Any]:
    examples, report = load_examples(mixture(entries), base=folder, seed=seed, **settings)
    return [one.source for one in examples], report


A, B = {"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 1}


def test_each_data_set_gives_its_share(folder: Path) -> None:
    """2 : 1 with all 30 rows of a, so 15 of b."""
    sources, report = mixed(folder, A, B)
    assert Counter(source[0] for source in sources) == {"a": 30, "b": 15}
    assert report.mixture == [
        {"data": "a.jsonl", "weight": 2, "examples": 30, "drawn": 30},
        {"data": "b.jsonl", "weight": 1, "examples": 100, "drawn": 15},
    ]
    assert report.lines()[:3] == [
        "130 rows, 45 examples, format prompt-completion (130)",
        "a.jsonl: 30 of 30 examples (weight 2)",
        "b.jsonl: 15 of 100 examples (weight 1)",
    ]
    assert report.as_dict()["mixture"] == report.mixture
    assert report.columns == ("from_a", "from_b")


def test_rows_are_sampled_by_the_seed_and_not_the_first(folder: Path) -> None:
    first, again, other = (mixed(folder, A, B, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert first[30:] != [f"b.jsonl:{i}" for i in range(1, 16)]
    assert len(set(first)) == 45


def test_without_weights_all_rows_are_used(folder: Path) -> None:
    sources, report = mixed(folder, "a.jsonl", {"path": "b.jsonl", "limit": 7})
    assert Counter(source[0] for source in sources) == {"a": 30, "b": 7}
    assert report.lines()[1] == "a.jsonl: 30 of 30 examples"


def test_the_numbers_of_rows_are_the_most_that_have_the_ratio() -> None:
    assert drawn(["a", "b"], [10, 10], [1, 3]) == [3, 10]
    assert drawn(["a", "b", "c"], [9, 100, 50], [0.3, 0.6, 0.1]) == [9, 18, 3]
    with pytest.raises(DataError, match="b: its `weight` gives no example, since a has too few"):
        drawn(["a", "b"], [5, 100], [10, 1])


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "data: the list has no data set"),
        ([A, "b.jsonl"], "data: number 2 of the list has no `weight`, but others have one"),
        ([A, {"path": "b.jsonl", "weight": 0}], "data: the `weight` of number 2 of the list is 0"),
        ([A, {"path": "b.jsonl", "weight": True}], "data: the `weight` of number 2 of the list is True"),
        ([A, 3], "data: number 2 of the list is not a data set"),
        ([{"path": "a.jsonl", "wieght": 2}, "b.jsonl"], "data: unknown key `wieght`"),
    ],
)
def test_a_mixture_that_cannot_work_is_refused(folder: Path, entries: list[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mixed(folder, *entries)


def test_bad_rows_of_every_part_count(folder: Path) -> None:
    with (folder / "b.jsonl").open("a") as file:
        file.write('{"prompt": "", "completion": "x"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl, row 101: `prompt` is empty"):
        mixed(folder, A, B)
    _, report = mixed(folder, A, B, on_bad_row="skip")
    assert (report.rows, report.unreadable, report.num_dropped) == (131, 1, 1)


def test_a_list_in_a_config_is_a_mixture_of_names_and_mappings(folder: Path) -> None:
    config = parse_config(
        {
            "name": "mixed",
            "model": "tiny:llama",
            "data": {"small": {"path": "a.jsonl"}, "both": ["small", "b.jsonl"]},
            "stages": [{"name": "one", "algorithm": "sft", "data": "both"}],
        },
        source="mixed.yaml",
        base=folder,
    )
    examples, report = load_examples(config.data_of("both"), base=folder)
    assert (len(examples), [part["data"] for part in report.mixture]) == (130, ["a.jsonl", "b.jsonl"])
    with pytest.raises(ConfigError, match="`smal` is neither a name in `data` nor a file"):
        config.data_of(["smal", "b.jsonl"])

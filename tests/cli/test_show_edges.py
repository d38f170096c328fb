"""What the command shows of a run, of its completions, and of algorithms."""

import io
import json
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from rung.algorithm import Algorithm, DataKind, Need
from rung.artifacts.finished import finish_stage
from rung.artifacts.folder import CONFIG
from rung.artifacts.lineage import StageRecord
from rung.cli import show
from rung.config import shipped_configs
from rung.errors import ConfigError
from rung.utils.files import write_text


def written(file: Path, *rows: dict) -> None:
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def test_completions_are_those_of_the_last_step_and_four_at_most(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"step": 1, "completion": "old"}, *({"step": 2, "completion": talk, "n": i} for i in range(5))]
    written(tmp_path / "dpo" / "completions.jsonl", *rows)
    assert show.completions(tmp_path, "dpo") == [{"step": 2, "completion": "b", "n": i} for i in range(4)]
    assert [row["n"] for row in show.completions(tmp_path, "dpo", limit=1)] == [0]
    assert show.completions(tmp_path, "sft") == []


def test_the_training_of_a_stage_is_told_metric_by_metric(tmp_path: Path) -> None:
    written(tmp_path / "sft" / "metrics.jsonl", {"step": 1, "loss": 2.0, "n": None}, {"step": 2, "loss": 1.0, "n": 3})
    loss, n = show.training(tmp_path, "sft")
    assert (loss["metric"], loss["first"], loss["last"], len(loss["course"])) == ("loss", 2.0, 1.0, 2)
    assert (n["metric"], n["first"], n["last"], n["course"]) == ("n", 3.0, 3.0, "")
    with pytest.raises(ConfigError, match="no trained stage `stf`") as caught:
        show.training(tmp_path, "stf")
    assert "`sft`" in caught.value.remedy


def test_a_run_is_found_by_folder_or_by_name(tmp_path: Path) -> None:
    write_text(tmp_path / "runs" / "climb" / CONFIG, "name: climb\n")
    assert show.find_run(str(tmp_path / "runs" / "climb"), tmp_path) == tmp_path / "runs" / "climb"
    assert show.find_run("climb", tmp_path / "runs") == tmp_path / "runs" / "climb"
    with pytest.raises(ConfigError, match="there is no run in") as caught:
        show.find_run("clim", tmp_path / "runs")
    assert "`climb`" in caught.value.remedy


def test_a_run_that_is_not_over_tells_its_stages(tmp_path: Path) -> None:
    write_text(tmp_path / CONFIG, "stages: [{name: sft}]\n")
    finish_stage(tmp_path / "sft", StageRecord(stage="sft", start="tiny:llama", outcome="promoted"))
    console = Console(file=io.StringIO(), width=200)
    console.print(show.report(tmp_path))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "is not finished; rung run with its config resumes it." in text
    assert "sft" in text
    assert "Gates" not in text


class Base(Algorithm):
    """A line.

    Defaults: alpha, beta (TRL); gamma
    (arXiv 1).

    More.
    """

    name: ClassVar = "base"
    alpha: float = 0.5
    beta: bool = True
    gamma: int | None = None
    delta: str = "x"

    def data_kind(self) -> DataKind:
        return "pairs"

    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"})


class Variant(Base):
    """Another line.

    Defaults: alpha (paper).
    """

    name: ClassVar = "variant"
    group_size: ClassVar = 2
    alpha: float = 1e-6
    omega: int


def test_defaults_are_told_with_their_sources() -> None:
    assert show.default_sources(Base) == {"alpha": "TRL", "beta": "TRL", "gamma": "arXiv 1"}
    assert show.default_sources(Variant) == {"alpha": "paper", "beta": "TRL", "gamma": "arXiv 1"}
    assert show._defaults(Base) == "alpha 0.5, beta true (TRL); gamma none (arXiv 1); delta x"
    assert show._defaults(Variant) == (
        "alpha 1e-06 (paper); beta true (TRL); gamma none (arXiv 1); delta x, omega required"
    )
    assert (show._data(Base), show._data(Variant)) == ("pairs, rankings", "pairs")
    assert show._page(Base) == ""
    assert show._needs(Variant) == {"reference"}


def test_the_list_of_algorithms() -> None:
    found = {row["name"]: row for row in show.algorithms()}
    assert list(found) == sorted(found)
    assert (found["dpo"]["data"], found["dpo"]["needs"]) == ("pairs", "reference")
    assert found["dpo"]["page"] == "docs/algorithms/dpo.md"
    assert found["sft"]["data"] == "text, chats, prompt with completion"
    assert found["prompt"]["data"] == "none: it trains no weights"
    assert found["prompt"]["page"] == "docs/algorithms/README.md"
    assert found["kto"]["data"] == "labelled completions, pairs"
    assert found["grpo"]["data"] == "prompts, rewards"
    assert found["distill"]["data"] == "prompts"


def test_catalogues_have_a_line_about_each_name() -> None:
    models = {row["name"]: row["about"] for row in show.catalogue("models")}
    assert models["tiny:base"] == "the shipped pretrained model, from which the shipped paths start"
    assert models["tiny:blank"] == "the untrained model that the base was pretrained from"
    assert models["tiny:llama"] == "random weights, for tests"
    for kind in ("rewards", "tasks", "configs"):
        rows = show.catalogue(kind)
        assert rows
        assert all(row["name"] and not row["about"].startswith("#") for row in rows)


def test_a_shipped_config_is_told_by_its_first_line() -> None:
    told = {row["name"]: row["about"] for row in show.catalogue("configs")}
    files = shipped_configs()
    assert told.keys() == files.keys()
    for name, about in told.items():
        assert files[name].read_text().startswith(f"# {about}\n"), name

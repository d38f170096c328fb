"""Data formats, trackers, samplers and metrics of a user's own: one file each, found by file, module or entry point."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rung.data.formats
import rung.rollout.samplers
import rung.training.trackers
from rung.config import load_config
from rung.data.formats import FORMATS, detect
from rung.data.load import load_examples
from rung.data.read import Row
from rung.errors import ConfigError
from rung.evaluation.evaluate import Evaluation
from rung.pipeline.runner import run_path
from rung.registry import OpenKind
from rung.rollout.samplers import SAMPLERS
from rung.training.trackers import TRACKERS

FORMAT = """
from rung.data.formats import Format
from rung.data.records import make_example


def convert(row, source):
    return [make_example("prompt-completion", source, {}, prompt=row["frage"], completion=row["antwort"])]


MINE = Format("mine", "frage, antwort", lambda row: "frage" in row, convert)
"""
TRACKER = '''
class MyTracker:
    """Adds a line a step to mine.txt."""

    name = "mine"

    def __init__(self, folder, project, run_name):
        self.file = folder / "mine.txt"

    def start(self, run):
        self.file.parent.mkdir(parents=True, exist_ok=True)

    def log(self, step, values, timing, table=()):
        with self.file.open("a") as file:
            file.write(f"{step} {values['loss']:.3f}\\n")

    def finish(self):
        with self.file.open("a") as file:
            file.write("finished\\n")
'''
SAMPLER = '''
from pathlib import Path

from rung.rollout.samplers import LocalSampler


class MySampler(LocalSampler):
    """The built-in sampler, which also writes down the versions that it is given."""

    name = "mine"

    def load(self, weights, version):
        own = dict(self.model.named_parameters())
        same = all(bool((own[name] == weight).all()) for name, weight in weights.items())
        with open("versions.txt", "a") as file:
            file.write(f"{version} {len(weights)} {same}\\n")
'''
KINDS = {
    "formats": (FORMATS, FORMAT, "MINE", rung.data.formats),
    "trackers": (TRACKERS, TRACKER, "MyTracker", rung.training.trackers),
    "samplers": (SAMPLERS, SAMPLER, "MySampler", rung.rollout.samplers),
}
Plugin = Callable[[str, str], None]


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_of_a_users_own_adds_one(kind: str, tmp_path: Path) -> None:
    known, text, attribute, _ = KINDS[kind]
    (tmp_path / "mine.py").write_text(text)
    assert known.find(f"./mine.py:{attribute}", tmp_path).name == "mine"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_an_entry_point_adds_one_by_its_name(kind: str, whole: bool, plugin: Plugin) -> None:
    known, text, attribute, _ = KINDS[kind]
    plugin(text, f"[rung.{kind}]\nany = plugged{'' if whole else f':{attribute}'}\n")
    assert known.find("mine").name == "mine"
    assert "mine" in known.all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_new_file_in_the_package_of_the_kind_adds_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, text, _, package = KINDS[kind]
    (tmp_path / "brand_new.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert known.find("mine").name == "mine"
    sys.modules.pop(f"{package.__name__}.brand_new")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("none_such", "there is no {kind} `none_such`", "did you mean|known:"),
        ("./mine.py:OTHER", "`./mine.py:OTHER` is not a {kind}", "name a"),
        ("./mine.py:MISSING", "has no `MISSING`", "known:"),
        ("./absent.py:X", "there is no file", "known|did you mean"),
    ],
)
def test_a_wrong_name_says_what_it_is_and_what_there_is(
    kind: str, name: str, what: str, remedy: str, tmp_path: Path
) -> None:
    known: OpenKind = KINDS[kind][0]
    (tmp_path / "mine.py").write_text("OTHER = 3\ndef helper(): pass\n")
    with pytest.raises(ConfigError) as caught:
        known.find(name, tmp_path)
    assert what.format(kind=kind.removesuffix("s")) in caught.value.what
    assert any(word in caught.value.remedy for word in remedy.split("|"))


def test_two_of_one_name_are_an_error_that_names_both(plugin: Plugin) -> None:
    plugin(TRACKER.replace('name = "mine"', 'name = "jsonl"'), "[rung.trackers]\nany = plugged:MyTracker\n")
    with pytest.raises(ConfigError, match=r"two trackers are called `jsonl`: .*plugged:MyTracker"):
        TRACKERS.all()


def test_rows_in_a_format_of_ones_own_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FORMAT)
    rows = [{"frage": "2 + 2", "antwort": "4"}, {"frage": "3 + 4", "antwort": "7"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, report = load_examples({"path": "rows.jsonl", "format": "./mine.py:MINE"}, base=tmp_path)
    assert [(one.prompt, one.completion) for one in examples] == [("2 + 2", "4"), ("3 + 4", "7")]
    assert report.formats == {"mine": 2}


def test_a_registered_format_takes_part_in_the_detection_behind_those_that_come_with_rung(plugin: Plugin) -> None:
    plugin(FORMAT, "[rung.formats]\nany = plugged:MINE\n")
    assert detect([Row("rows", 1, {"frage": "a", "antwort": "b"})]).name == "mine"
    both = {"frage": "a", "antwort": "b", "prompt": "a", "completion": "b"}
    assert detect([Row("rows", 1, both)]).name == "prompt-completion"


def test_a_tracker_of_ones_own_gets_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TRACKER)
    overrides = ["data={path: task:arithmetic/sft, limit: 4}", "max_steps=2", "batch_size=2", "evaluate=null"]
    run_path(load_config("sft", [*overrides, "trackers=[./mine.py:MyTracker]", "name=tracked"]))
    lines = (tmp_path / "runs/tracked/sft/mine.txt").read_text().splitlines()
    logged = [json.loads(line) for line in (tmp_path / "runs/tracked/sft/metrics.jsonl").read_text().splitlines()]
    assert lines == [*(f"{step['step']} {step['loss']:.3f}" for step in logged), "finished"]


def test_a_sampler_of_ones_own_is_given_the_weights_before_each_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SAMPLER)
    overrides = [
        "model=tiny:llama",
        "data={path: task:arithmetic/prompts, limit: 8}",
        "rewards=[final_number]",
        "grpo.algorithm.num_generations=2",
        "rollout.batch_size=2",
        "rollout.max_completion_length=4",
        "updates.minibatches=2",
        "max_steps=4",
        "evaluate=null",
        "rollout.sampler=./mine.py:MySampler",
        "name=sampled",
    ]
    run_path(load_config("grpo", overrides))
    versions = [line.split() for line in (tmp_path / "versions.txt").read_text().splitlines()]
    assert [version for version, _, _ in versions] == ["0", "2"]  # two optimizer steps a rollout
    assert all(same == "True" for _, _, same in versions)


def test_a_metric_of_ones_own_is_measured_beside_those_of_every_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def shouting(completion: str) -> float:\n    return float(completion.isupper())\n"
    )
    overrides = [
        "model=tiny:llama",
        "data={path: task:arithmetic/sft, limit: 4}",
        "max_steps=1",
        "batch_size=2",
        "evaluate={validation: {path: task:arithmetic/validation, limit: 2}, metrics: ['./mine.py:shouting']}",
        "evaluate.max_completion_length=4",
        "name=measured",
    ]
    run_path(load_config("sft", overrides))
    evaluation = Evaluation.load(tmp_path / "runs/measured/sft/evaluation.json")
    assert list(evaluation.metrics) == ["shouting", "output_tokens", "truncated"]

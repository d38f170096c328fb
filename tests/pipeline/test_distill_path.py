"""A stage that learns from an earlier one, and the ways to name a teacher."""

import json
from pathlib import Path
from typing import Any

import pytest

import rung
from helpers.rows import read_rows
from helpers.small_path import write_small_path
from rung.config import load_config
from rung.errors import ConfigError
from rung.pipeline.runner import run_path
from rung.tiny.models import build

PROMPTS = [{"prompt": f"number {i}"} for i in range(32)]
SHORT: dict[str, Any] = {"rollout": {"batch_size": 8, "max_completion_length": 8}}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a path whose second stage is the teacher of the third, which starts where the second one did."""
    folder = tmp_path_factory.mktemp("path")
    stages = [
        {"name": "prompting", "algorithm": "prompt"},
        {"name": "sft", "algorithm": "sft", "data": "train", "batch_size": 8, "max_steps": 4, "learning_rate": 1e-2},
        {"name": "distill", "algorithm": "distill", "from": "prompting", "teacher": "sft", "data": "prompts"},
    ]
    stages[-1] |= {"max_steps": 2, "rollout": {"batch_size": 4, "max_completion_length": 4}, "rewards": []}
    write_small_path(folder)
    overrides = ["evaluate=null", "gate=null", f"stages={json.dumps(stages)}", f"output={folder / 'runs'}"]
    run_path(load_config(folder / "small.yaml", overrides))
    return folder


def test_a_stage_learns_from_an_earlier_one(distilled: Path) -> None:
    first, second = read_rows(distilled / "runs/small/distill/metrics.jsonl")
    assert first["loss"] > 0
    assert second["grad_norm"] > 0
    assert not {"reward", "reward_std", "frac_reward_zero_std"} & first.keys()
    assert {"entropy", "teacher_entropy", "completions/mean_length"} <= first.keys()


@pytest.mark.parametrize("place", ["run:small/sft", "folder", "tiny:llama"])
def test_a_teacher_is_named_like_a_model(distilled: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against itself, the policy has nothing to learn."""
    monkeypatch.chdir(distilled)
    teacher = "./runs/small/sft/model" if place == "folder" else place
    model = "tiny:llama" if place.startswith("tiny") else str(distilled / "runs/small/sft/model")
    stage = rung.train("distill", model=model, teacher=teacher, data=PROMPTS, max_steps=1, seed=0, **SHORT)
    assert abs(next(iter(stage)).loss) < 1e-5


def test_a_teacher_with_fewer_positions_than_the_rows_need_is_refused(tmp_path: Path) -> None:
    model, tokenizer = build("llama")
    model.config.max_position_embeddings = 12
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="exceed the teacher's 12 positions"):
        rung.train("distill", model="tiny:llama", teacher=str(tmp_path), data=PROMPTS, max_steps=1, **SHORT)

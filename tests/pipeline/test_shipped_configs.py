"""Every shipped config runs in its smallest form through the real path."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers.repository import ROOT
from helpers.rows import read_rows
from rung.batch import from_tree
from rung.config import PathConfig, load_config, shipped_configs
from rung.config.algorithms import make_algorithm
from rung.config.blocks import TokenBatch
from rung.models.reward_model import load_reward_model, score_rows
from rung.pipeline.model_size import resolve_by_model
from rung.pipeline.runner import Run, run_path
from rung.reward import RewardSpec
from rung.tiny.tasks import names, rows
from rung.training import checkpoint
from rung.training.run_state import unflatten

CONFIGS = ROOT / "configs"
NAMES = sorted(f"{file.parent.name}/{file.stem}" for file in CONFIGS.glob("*/*.yaml") if file.parent.name != "defaults")
STEPS = 2
ROWS = 48  # of which early stopping may hold out a tenth
VARIED = '''
def varied(completions, **columns):
    """A reward in which the answers of any model to any prompt differ, so that each step has something to learn."""
    return [number % 2 for number in range(len(completions))]
'''

RunOf = Callable[[str], Run]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """Runs a shipped config in its smallest form, once, whoever asks."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "varied.py").write_text(VARIED)
    return cache(lambda name: run_path(smallest(load_config(name), folder)))


def smallest(config: PathConfig, folder: Path) -> PathConfig:
    """The same path with two steps a stage, few rows, and short answers; every choice of an algorithm stays."""
    config = resolve_by_model(config)
    stages: dict[str, dict[str, Any]] = {}
    for stage in config.stages:
        kind = make_algorithm(stage.algorithm, config.base).data_kind()
        if kind is None:
            continue
        batch_size = TokenBatch(tokens=256) if isinstance(stage.batch_size, TokenBatch) else 2
        few_steps = {"data": few(stage.data, folder), "max_steps": STEPS, "num_train_epochs": None}
        stages[stage.name] = few_steps | {"batch_size": batch_size}
        if kind == "prompts":
            size = {"batch_size": stage.updates.minibatches, "max_completion_length": 8}
            rewards = (*config.rewards_of(stage), RewardSpec(name="./varied.py:varied"))
            stages[stage.name] |= {"batch_size": 1, "rewards": rewards, "save_steps": 1}
            stages[stage.name] |= {"rollout": stage.rollout.model_copy(update=size)}
    asked = {name: few(getattr(config.evaluate, name), folder, limit=3) for name in ("validation", "test")}
    asked |= {"shots_from": few(config.evaluate.shots_from, folder), "max_completion_length": 8}
    changed = {
        "data": {name: few(spec, folder) for name, spec in config.data.items()},
        "evaluate": config.evaluate.model_copy(update=asked),
        "output": str(folder / "runs"),
    }
    return config.with_stages(stages).model_copy(update=changed).at(folder)


def few(spec: Any, folder: Path, *, limit: int = ROWS) -> Any:
    """A file with the first rows of a task, which are made once and not at every reading; else what is given."""
    if not str(spec).startswith("task:"):
        return spec
    task = str(spec).removeprefix("task:")
    assert task in names()
    file = folder / f"{task.replace('/', '-')}.jsonl"
    if not file.exists():
        quick = "base/validation" if task == "base/train" else task  # 60,000 rows of the same kind take a while
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(quick)[:ROWS]))
    return {"path": str(file), "limit": limit}


def logged(run: Run, stage: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return read_rows(run.folder / stage / file)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_runs(name: str, run_of: RunOf) -> None:
    assert name in shipped_configs()
    run = run_of(name)
    assert run.finished
    assert (run.folder / "report.md").exists()
    config = load_config(name)
    assert [record.stage for record in run.lineage.stages] == [stage.name for stage in config.stages]
    for record, stage in zip(run.lineage.stages, config.stages, strict=True):
        if make_algorithm(stage.algorithm, config.base).data_kind() is None:
            continue
        steps = logged(run, stage.name)
        assert [step["step"] for step in steps] == [1, STEPS]
        assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
        assert not any("skipped_step" in step for step in steps)
        assert record.weights
        assert bool(record.reads) == (record.makes_policy and config.evaluate.validation is not None)


def test_ppo_after_a_reward_model_begins_with_it_as_its_critic_and_is_judged_by_it(run_of: RunOf) -> None:
    """Before a step is taken, the value of a prompt is its score; an answer that was cut off is scored as it is."""
    run = run_of("paths/pharmacy-ppo")
    assert [record.outcome for record in run.lineage.stages if record.stage == "rm"] == ["trained"]
    saved = checkpoint.load(checkpoint.checkpoint_path(run.folder / "ppo" / "checkpoints", 1))
    state = unflatten(saved.tensors, saved.values)["stage"]
    rollout = from_tree(state["ranks"][0]["source"]["rollout"])
    prompts = [ids[mask].tolist() for ids, mask in zip(rollout.prompt_ids, rollout.prompt_mask, strict=True)]
    prompts = [prompts[number] for number in rollout.prompt_of]
    answers = [ids[mask].tolist() for ids, mask in zip(rollout.completion_ids, rollout.completion_mask, strict=True)]
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]

    judge = load_reward_model(str(run.folder / "rm" / "model"))[0]
    assert rollout.values is not None
    before = score_rows(judge, prompts, token_budget=4096)
    assert rollout.values[:, 0].tolist() == pytest.approx(before, abs=1e-4)
    assert len({round(value, 3) for value in rollout.values[rollout.loss_mask].tolist()}) > rollout.num_rows

    told = logged(run, "ppo", "completions.jsonl")[: rollout.num_rows]
    scores = score_rows(judge, whole, token_budget=4096)
    cut = [i for i, row in enumerate(told) if row["finish_reason"] == "length"]
    assert cut
    assert [told[i]["rewards"]["reward_model"] for i in cut] == pytest.approx([scores[i] for i in cut], abs=1e-4)
    assert any(name.startswith("critic.") for name in state["weights"])

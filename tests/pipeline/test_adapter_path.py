"""Adapters and full training in one path: what a stage starts from, what it is held against, what it hands over."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

import rung
from helpers.rows import read_rows
from helpers.small_path import write_small_path
from rung.artifacts.lineage import hash_weights
from rung.config import load_config
from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.forward.policy import Policy
from rung.models.load import load_model
from rung.pipeline.runner import Run, run_path

LORA: dict[str, Any] = {"adapter": {"lora": {"r": 4}}}
DORA = {"adapter": {"lora": {"r": 4, "use_dora": True}}}
PISSA = {"adapter": {"lora": {"r": 4, "init_lora_weights": "pissa"}}}
FEW = {"path": "pairs.jsonl", "limit": 6}
DPO = {"algorithm": "dpo", "data": FEW, "batch_size": 6, "max_steps": 3, "learning_rate": 1e-2}  # all pairs each step
ONLINE = {
    "data": "prompts",
    "max_steps": 2,
    "learning_rate": 1e-2,
    "rollout": {"batch_size": 4, "max_completion_length": 4},
    "updates": {"epochs": 1},
}
JUDGED = {"critic": "rm", "rewards": [{"name": "reward_model", "args": {"model": "stage:rm"}}]}
STAGES: list[dict[str, Any]] = [
    {"name": "sft", "algorithm": "sft", "data": "train", "max_steps": 2, "learning_rate": 1e-2, **LORA},
    {"name": "rm", **DPO, "algorithm": "reward_model", "from": "sft", **LORA},
    {"name": "dpo", **DPO, "from": "sft", **LORA},
    {"name": "ppo", "algorithm": "ppo", "from": "sft", **ONLINE, **JUDGED, **LORA},
    {"name": "grpo", "algorithm": {"name": "grpo", "num_generations": 2}, "from": "dpo", **ONLINE, **LORA},
    {"name": "full", **DPO, "from": "dpo"},
    {"name": "dora", **DPO, "from": "full", **DORA},
    {"name": "pissa", **DPO, "from": "dora", **PISSA},
    {"name": "old", **DPO, "from": "dora", "reference": "sft", **PISSA},
]
STARTS = {stage["name"]: stage.get("from", "tiny:llama") for stage in STAGES}
ADAPTED = [stage["name"] for stage in STAGES if "adapter" in stage and stage["name"] != "rm"]
PAIRED = [stage["name"] for stage in STAGES if stage["algorithm"] == "dpo"]
IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, trained once."""
    folder = tmp_path_factory.mktemp("lora")
    overrides = ["evaluate=null", "gate=null", f"output={folder / 'runs'}", f"stages={json.dumps(STAGES)}"]
    return run_path(load_config(write_small_path(folder), overrides))


def metrics(run: Run, stage: str) -> list[dict[str, float]]:
    return read_rows(run.folder / stage / "metrics.jsonl")


def start_of(run: Run, stage: str) -> PreTrainedModel:
    """The model that a stage started from, as anybody loads it."""
    start = STARTS[stage]
    return load_model(start if start.startswith("tiny:") else run.folder / start / "model", seed=42)[0]


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(IDS).logits


def test_branches_start_where_they_say_and_are_in_the_lineage(run: Run) -> None:
    assert {record.stage: record.start for record in run.lineage.stages} == STARTS
    for record in run.lineage.stages:
        assert record.weights == hash_weights(run.folder / record.stage / "model")
        assert (record.outcome, record.accepted) == ("trained", record.stage != "rm")


@pytest.mark.parametrize("stage", ADAPTED)
def test_the_merged_model_is_the_start_with_the_adapter_beside_it(run: Run, stage: str) -> None:
    merged = logits(AutoModelForCausalLM.from_pretrained(run.folder / stage / "model"))
    start = start_of(run, stage)
    assert (logits(start) - merged).abs().max() > 1e-2
    adapted = PeftModel.from_pretrained(start, str(run.folder / stage / "adapter"))
    torch.testing.assert_close(logits(adapted), merged, atol=2e-5, rtol=0)


def test_a_full_stage_after_an_adapter_leaves_a_model_without_one(run: Run) -> None:
    merged = logits(AutoModelForCausalLM.from_pretrained(run.folder / "full" / "model"))
    assert (logits(start_of(run, "full")) - merged).abs().max() > 1e-2
    assert not (run.folder / "full" / "adapter").exists()


def chosen(model: PreTrainedModel, folder: Path) -> float:
    """The mean log-prob of the chosen answers, of the pairs that every step of `DPO` learns from."""
    tokenizer = load_model("tiny:llama")[1]
    examples = load_examples(FEW, base=folder, seed=42)[0]
    encoded = encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    return float(Policy(model).logps(collate(encoded, pad_id=0))[::2].sum(1).mean())


def references(run: Run, stage: str) -> list[float]:
    """log ref of the chosen answers at each step, from what is logged: log pi, and beta (log pi - log ref)."""
    return [step["logps/chosen"] - step["rewards/chosen"] / 0.1 for step in metrics(run, stage)]


@pytest.mark.parametrize("stage", [stage for stage in PAIRED if stage != "old"])
def test_a_pair_stage_starts_on_merged_weights_and_is_held_against_them(run: Run, stage: str) -> None:
    losses = [step["loss"] for step in metrics(run, stage)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < losses[0] - 1e-3
    start = chosen(start_of(run, stage), run.folder.parents[1])
    assert references(run, stage) == pytest.approx([start] * 3, abs=1e-4)


def test_a_reference_may_be_an_earlier_stage(run: Run) -> None:
    assert abs(metrics(run, "old")[0]["rewards/chosen"]) > 1e-2
    reference = chosen(load_model(run.folder / "sft" / "model")[0], run.folder.parents[1])
    assert references(run, "old") == pytest.approx([reference] * 3, abs=1e-4)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_sampled_stage_starts_at_no_distance_from_its_reference(run: Run, stage: str) -> None:
    first, second = metrics(run, stage)
    assert abs(first["kl"]) < 1e-6
    assert second["kl"] > 1e-6


def test_a_reward_model_under_lora_saves_a_head_that_moved(run: Run) -> None:
    head = load_file(run.folder / "rm" / "model" / "model.safetensors")["score.weight"]
    fresh = rung.train(
        "reward_model",
        model=str(run.folder / "sft" / "model"),
        data=[{"prompt": "a", "chosen": "b", "rejected": "c"}],
        max_steps=1,
        **LORA,
    ).policy.score_head
    assert isinstance(fresh, torch.nn.Linear)
    moved = (head - fresh.weight).abs().max().item()
    assert 1e-3 < moved < 1e-1, "three steps of at most 0.01 from where the same seed begins"


def test_the_adapter_of_a_reward_model_brings_its_head(run: Run) -> None:
    merged, info = AutoModelForSequenceClassification.from_pretrained(
        run.folder / "rm" / "model", num_labels=1, output_loading_info=True
    )
    assert not info["missing_keys"]
    trunk = AutoModelForSequenceClassification.from_pretrained(run.folder / "sft" / "model", num_labels=1)
    adapted = PeftModel.from_pretrained(trunk, str(run.folder / "rm" / "adapter"))
    torch.testing.assert_close(logits(adapted), logits(merged), atol=2e-5, rtol=0)

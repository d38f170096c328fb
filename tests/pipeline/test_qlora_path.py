"""A path of stages on a base in 4 bits: what each learns, starts from and hands over.

It runs where bitsandbytes is installed (`pip install rung[qlora]`), on CPU.
"""

import json
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from helpers.rows import read_rows
from helpers.small_path import write_small_path
from rung.config import load_config
from rung.models.load import load_model
from rung.pipeline.runner import Run, run_path

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
QLORA = {"adapter": {"lora": {"r": 4}, "load_in_4bit": True}}
PAIRS = {"data": {"path": "pairs.jsonl", "limit": 6}, "batch_size": 6, "max_steps": 3, "learning_rate": 1e-2}
STAGES: list[dict[str, Any]] = [
    {"name": "sft", "algorithm": "sft", "data": "train", "max_steps": 10, "learning_rate": 1e-2, **QLORA},
    {"name": "dpo", "algorithm": "dpo", **PAIRS, **QLORA},
    {"name": "rm", "algorithm": "reward_model", "from": "sft", **PAIRS, **QLORA},
    {
        "name": "grpo",
        "from": "dpo",
        "algorithm": {"name": "grpo", "num_generations": 2},
        "data": "prompts",
        "max_steps": 2,
        "learning_rate": 1e-2,
        "rollout": {"batch_size": 4, "max_completion_length": 4},
        "updates": {"epochs": 1},
        **QLORA,
    },
]
IDS = torch.arange(5, 45).view(2, 20)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, trained once."""
    folder = tmp_path_factory.mktemp("qlora")
    overrides = ["evaluate=null", "gate=null", f"output={folder / 'runs'}", f"stages={json.dumps(STAGES)}"]
    return run_path(load_config(write_small_path(folder), overrides))


def metrics(run: Run, stage: str) -> list[dict[str, float]]:
    return read_rows(run.folder / stage / "metrics.jsonl")


@installed
@pytest.mark.slow
def test_a_path_learns_in_4_bits_from_where_each_stage_starts(run: Run) -> None:
    sft, dpo = ([step["loss"] for step in metrics(run, stage)] for stage in ("sft", "dpo"))
    assert sft[-1] < sft[0] - 1
    assert dpo[0] == pytest.approx(math.log(2), abs=1e-5)
    assert dpo[-1] < dpo[0] - 1e-2
    first, second = (step["kl"] for step in metrics(run, "grpo"))
    assert abs(first) < 1e-6 < second


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "start"), [("sft", "tiny:llama"), ("dpo", "sft"), ("grpo", "dpo")])
def test_a_stage_hands_over_its_start_with_the_adapter_beside_it(run: Run, stage: str, start: str) -> None:
    location = start if start.startswith("tiny:") else run.folder / start / "model"
    whole = load_model(location, seed=42)[0]
    handed = AutoModelForCausalLM.from_pretrained(run.folder / stage / "model")
    assert {parameter.dtype for parameter in handed.parameters()} == {torch.float32}
    assert (logits(whole) - logits(handed)).abs().max() > 1e-3
    adapted = PeftModel.from_pretrained(whole, str(run.folder / stage / "adapter"))
    torch.testing.assert_close(logits(adapted), logits(handed), atol=2e-5, rtol=0)


@installed
@pytest.mark.slow
def test_a_reward_model_is_handed_over_whole_too(run: Run) -> None:
    losses = [step["loss"] for step in metrics(run, "rm")]
    assert losses[-1] < losses[0] - 1e-2
    judge, info = AutoModelForSequenceClassification.from_pretrained(
        run.folder / "rm" / "model", num_labels=1, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert {parameter.dtype for parameter in judge.parameters()} == {torch.float32}

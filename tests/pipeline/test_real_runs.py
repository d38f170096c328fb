"""Real public data through whole stages: each trains a few steps on `tiny:base`, and its loss or counts are right."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import rung
from rung.algorithms.dpo import DPO
from rung.algorithms.sft import SFT
from rung.training.stage import Stage

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("RUNG_DATA" not in os.environ, reason="RUNG_DATA does not name the folder of public data"),
]


def data(name: str) -> str:
    return str(Path(os.environ["RUNG_DATA"]) / name)


def losses(stage: Stage) -> list[float]:
    return [step.loss for step in stage]


def test_sft_on_the_bedrock_conversations() -> None:
    settings: dict[str, Any] = {
        "max_length": 1024,
        "max_prompt_length": 1024,
        "batch_size": 4,
        "max_steps": 8,
        "learning_rate": 2e-3,
    }
    stage = rung.train(SFT(), model="tiny:base", data=data("bedrock/json_mode_dataset.jsonl"), **settings)
    assert stage.report.rows == 500
    assert stage.report.num_dropped + stage.report.encoded == 500
    found = losses(stage)
    assert sum(found[-3:]) < sum(found[:3])


def test_sft_on_banking77_as_classification() -> None:
    settings: dict[str, Any] = {"batch_size": 32, "max_steps": 25, "learning_rate": 2e-3}
    stage = rung.train(SFT(), model="tiny:base", data=data("banking77/train.csv"), **settings)
    assert len(stage.report.labels) == 77
    found = losses(stage)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_dpo_on_the_labelled_gsm8k_solutions() -> None:
    """731 questions with 2,429 pairs: a question is one prompt of a batch, however many of its pairs are there."""
    settings: dict[str, Any] = {"batch_size": 32, "max_steps": 6, "max_length": 1024, "max_prompt_length": 768}
    stage = rung.train(DPO(), model="tiny:base", data=data("gsm8k/example_model_solutions.jsonl"), **settings)
    assert stage.report.encoded + stage.report.num_dropped >= 2429
    found = losses(stage)
    assert found[0] == pytest.approx(0.693147, abs=1e-5)
    assert found[-1] < found[0]


def test_grpo_on_gsm8k_prompts_with_the_final_number() -> None:
    settings: dict[str, Any] = {
        "max_steps": 2,
        "max_prompt_length": 512,
        "rollout": {"batch_size": 4, "max_completion_length": 48},
    }
    stage = rung.train("grpo", model="tiny:base", data=data("gsm8k/train.jsonl"), rewards=["final_number"], **settings)
    for _ in stage:
        metrics, table = stage.source.pop_report()
        assert metrics["rewards/final_number/errors"].value() == 0
        assert len(table) == 4 * 8
        assert {row["finish_reason"] for row in table} <= {"eos", "length"}
    assert all(bool(torch.isfinite(parameter).all()) for parameter in stage.policy.parameters)

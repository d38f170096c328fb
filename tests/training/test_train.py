"""`rung.train`: what a Python program may give, and what is refused before anything is trained or written."""

from pathlib import Path
from typing import Any

import pytest
import torch

import rung
from rung.algorithms.dpo import DPO
from rung.algorithms.grpo import GRPO
from rung.algorithms.sft import SFT
from rung.config.defaults import algorithm_of
from rung.errors import ConfigError, UserError
from rung.pipeline.stage_settings import stage_settings
from rung.tiny.models import build

PAIRS = [{"prompt": f"number {i}", "chosen": str(i), "rejected": "no"} for i in range(8)]
TEXTS = [{"prompt": f"number {i}", "completion": str(i)} for i in range(8)]
PROMPTS = [{"prompt": f"number {i}"} for i in range(8)]
SHORT: dict[str, Any] = {"max_steps": 1, "batch_size": 8, "learning_rate": 1e-4}
OPTIMIZER = """
import torch

def plain(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.5)
"""


@pytest.mark.parametrize("init", [True, "pissa", "olora"])
def test_a_given_model_with_an_adapter_starts_at_its_reference(init: bool | str) -> None:
    model, tokenizer = build("llama")
    adapter = {"lora": {"r": 4, "init_lora_weights": init}}
    (step,) = rung.train(DPO(), model=(model, tokenizer), data=PAIRS, adapter=adapter, **SHORT)
    assert step.loss == pytest.approx(0.6931, abs=1e-3)


def odd(completions: list[str], **columns: Any) -> list[float]:
    """1 for every other completion."""
    return [float(number % 2) for number in range(len(completions))]


def test_one_reward_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = "def odd(completions, **columns):\n    return [float(n % 2) for n in range(len(completions))]\n"
    (tmp_path / "judge.py").write_text(judge)
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"max_steps": 1, "rollout": {"batch_size": 2, "max_completion_length": 4}}
    given: tuple[Any, ...] = ("./judge.py:odd", {"name": "./judge.py:odd", "weight": 2.0}, odd)
    for rewards in given:
        stage = rung.train(GRPO(num_generations=2), model="tiny:llama", data=PROMPTS, rewards=rewards, **settings)
        assert next(iter(stage)).num_tokens > 0
        assert "rewards/odd/mean" in stage.source.pop_report()[0]


def test_bad_rows_set_aside_are_counted_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [*TEXTS * 10, {"prompt": "a", "completion": ""}]
    stage = rung.train(SFT(), model="tiny:llama", data=rows, on_bad_row="quarantine", **SHORT)
    assert stage.report.num_dropped == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"adapter": {"lora": {"lora_dropout": 0.1}}}, "lora_dropout"),
        ({"adapter": {"lora": {"rank": 1}}}, "adapter.lora.rank"),
        ({"adapter": {"lora": {"init_lora_weights": False}}}, "init_lora_weights"),
        ({"optimizer": "adamww"}, "did you mean `adamw`"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "lr_scheduler_type"),
        ({"early_stopping": {}}, "holds out 10% of 1 examples, so that no example is left"),
    ],
)
def test_what_a_stage_cannot_do_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        rung.train(DPO(), model="tiny:llama", data=PAIRS[:1], **{**SHORT, **settings})


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_row_that_exceeds_the_models_positions_is_named(family: str) -> None:
    rows = [TEXTS[0], {"prompt": "a", "completion": "b" * 600}]
    with pytest.raises(
        ConfigError, match=r"rows, row 2: 1 prompt tokens and 601 completion tokens exceed the model's 512 positions"
    ):
        rung.train(SFT(), model=f"tiny:{family}", data=rows, max_length=900, **SHORT)


def test_an_optimizer_of_ones_own_is_found_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rung.config import parse_config
    from rung.distributed.ranks import Ranks
    from rung.pipeline.build_stage import build_stage
    from rung.pipeline.check import check

    (tmp_path / "opt.py").write_text(OPTIMIZER)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stage = {"name": "sft", "algorithm": "sft", "data": {"path": "texts.jsonl"}, "optimizer": "./opt.py:plain"}
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    raw = {"name": "one", "model": "tiny:llama", "stages": [stage]}
    config = check(parse_config(raw, source="test", base=tmp_path)).config
    opened = build_stage(
        stage_settings(config.stages[0], config, algorithm_of(config.stages[0], tmp_path)),
        start="tiny:llama",
        reference=None,
        ranks=Ranks(),
    )
    assert isinstance(opened.optimizer, torch.optim.SGD)

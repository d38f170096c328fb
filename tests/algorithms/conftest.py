"""Real trainers of TRL on a tiny model: a test sets what it compares, and gives their samples and rewards."""

from typing import Any

import pytest

from helpers.group_relative import GROUP, LIMIT
from rung.tiny.models import build


def settings(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_dropout": True,
        "report_to": "none",
        "per_device_train_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": LIMIT,
    }


def parts() -> dict[str, Any]:
    from datasets import Dataset

    model, tokenizer = build("llama")
    return {
        "model": model,
        "reward_funcs": [lambda completions, **_: [0.0] * len(completions)],
        "train_dataset": Dataset.from_list([{"prompt": "a"}]),
        "processing_class": tokenizer,
    }


@pytest.fixture(scope="session")
def trl_grpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    args = GRPOConfig(**settings(str(tmp_path_factory.mktemp("grpo"))))
    return GRPOTrainer(**parts(), args=args, rollout_func=lambda prompts, trainer: {})


@pytest.fixture(scope="session")
def trl_rloo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    args = RLOOConfig(
        **settings(str(tmp_path_factory.mktemp("rloo"))), beta=0
    )  # with one it loads a reference from the hub
    return RLOOTrainer(**parts(), args=args)

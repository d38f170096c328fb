"""The same small runs with the trainers of TRL, as their documentation writes them, and what is compared of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos import cases

OUT, FINAL, START = "out", "out/final", "start"
TRAINERS = ("sft", "dpo", "grpo", "grpo, saved between rollouts")
CLOCK = ("_runtime", "_per_second", "step_time", "total_flos")


def write_start(folder: Path) -> None:
    """Writes the model that rung calls tiny:llama into a folder."""
    from rung.tiny.models import build

    model, tokenizer = build("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def small_letters(completions: list[str], **columns: object) -> list[float | None]:
    """The reward of the cases, in the form that TRL calls."""
    return [sum("a" <= letter <= "m" for letter in text) / max(len(text), 1) for text in completions]


def body(name: str, start: Path, before: Callable[[], None] | None = None) -> Callable[[], int]:
    """A process that trains with a trainer of TRL, resumes from the newest checkpoint if there is one, and saves."""

    def run() -> int:
        from transformers.trainer_utils import get_last_checkpoint

        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        trainer = make_trainer(name, start)
        if before is not None:
            before()
        last = get_last_checkpoint(OUT) if os.path.isdir(OUT) else None
        trainer.train(resume_from_checkpoint=last)
        trainer.save_model(FINAL)
        return 0

    return run


def make_trainer(name: str, start: Path) -> Any:
    """A trainer with the data, the seed, the steps and the saves of the cases of rung."""
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = {name: Dataset.from_list(several) for name, several in cases.rows().items()}
    common: dict[str, Any] = {
        "output_dir": OUT,
        "max_steps": cases.STEPS,
        "save_steps": cases.SAVE_STEPS,
        "save_total_limit": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "seed": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    if name == "sft":
        return SFTTrainer(str(start), args=SFTConfig(**common), train_dataset=rows["texts"])
    if name == "dpo":
        return DPOTrainer(str(start), args=DPOConfig(**common), train_dataset=rows["pairs"])
    common |= {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4, "beta": 0.04}
    common |= {"steps_per_generation": 2}
    if name != "grpo":
        common["save_steps"] = 2
    arguments = GRPOConfig(**common)
    return GRPOTrainer(str(start), reward_funcs=small_letters, args=arguments, train_dataset=rows["prompts"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run of TRL has left: hashes of the final weights and of the log without clock readings."""

    weights: str
    log: str
    finite: bool

    @classmethod
    def of(cls, folder: Path) -> Outcome:
        """Reads the final model and the newest checkpoint; raises OSError or ValueError if they are not there."""
        from safetensors.torch import load_file

        final = folder / FINAL / "model.safetensors"
        states = sorted(folder.glob(f"{OUT}/checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
        if not states:
            raise FileNotFoundError(f"{folder} has no checkpoint")
        history = [_without_clock(entry) for entry in json.loads(states[-1].read_text())["log_history"]]
        return cls(
            weights=hashlib.sha256(final.read_bytes()).hexdigest(),
            log=hashlib.sha256(json.dumps(history).encode()).hexdigest(),
            finite=all(bool(tensor.isfinite().all()) for tensor in load_file(final).values()),
        )


def _without_clock(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not key.endswith(CLOCK)}

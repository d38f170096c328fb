"""Replaces `auto` in a config by values that depend on the model size, from `configs/defaults/`.

The file of a size has several sections, of which a stage uses the following; each overrides those before it: `all`,
the data kind of its algorithm (`text`, `pairs`, `unpaired`, `prompts`), the names of the algorithm's base classes, and
the name of the algorithm. Settings of the objective are not in these files: they are field defaults of the algorithm.
A stage with an adapter gets ten times the learning rate of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rung
from rung.config.algorithms import make_algorithm
from rung.config.blocks import RolloutConfig, TokenBatch, UpdatesConfig
from rung.config.load import merge
from rung.config.schema import PathConfig, StageConfig
from rung.errors import ConfigError, error_context
from rung.utils.yaml_file import read_yaml

if TYPE_CHECKING:
    from rung.algorithm import Algorithm

Block = TypeVar("Block", RolloutConfig, UpdatesConfig)

SIZES = {"tiny": 50_000_000, "small": 1_000_000_000}  # a model with fewer parameters has this size, others are `large`
# The best learning rate of LoRA is about ten times that of full training (Schulman et al. 2025, "LoRA Without Regret").
ADAPTER_FACTOR = 10
AUTO = tuple(name for name, key in StageConfig.model_fields.items() if key.default == "auto")


def size_of(num_parameters: int) -> str:
    """The size class of a model by its number of parameters: `tiny`, `small` or `large`.

    >>> size_of(2_000_000), size_of(600_000_000), size_of(7_000_000_000)
    ('tiny', 'small', 'large')
    """
    return next((name for name, bound in SIZES.items() if num_parameters < bound), "large")


def resolve(config: PathConfig, size: str, algorithms: Mapping[str, Algorithm] | None = None) -> PathConfig:
    """The config with a value in place of every `auto`, and with a number of epochs for stages without a length.

    `size` selects the defaults: `tiny`, `small` or `large`. `algorithms` (by stage name) are objects that a Python
    program passes in place of those of the config. Settings that a stage's algorithm does not read stay `auto`.
    """
    algorithms = algorithms or {stage.name: algorithm_of(stage, config.base) for stage in config.stages}
    file = defaults_file(size)
    defaults = read_yaml(file)
    stages = {stage.name: _stage_values(stage, algorithms[stage.name], defaults, str(file)) for stage in config.stages}
    evaluate = config.evaluate
    if evaluate.max_completion_length == "auto":
        length = defaults["all"]["rollout"]["max_completion_length"]
        evaluate = evaluate.model_copy(update={"max_completion_length": length})
    return config.with_stages(stages).model_copy(update={"evaluate": evaluate}).at(config.base)


def algorithm_of(stage: StageConfig, base: Path) -> Algorithm:
    """The algorithm of a stage. Raises ConfigError, naming the stage, for an unknown name or invalid settings."""
    with error_context(f"stage `{stage.name}`"):
        return make_algorithm(stage.algorithm, base)


def defaults_file(size: str) -> Path:
    """The YAML file with the defaults for models of a size (`tiny`, `small` or `large`)."""
    return next(
        file for root in rung.__path__ if (file := Path(root) / "configs" / "defaults" / f"{size}.yaml").is_file()
    )


def _stage_values(stage: StageConfig, algorithm: Algorithm, defaults: Mapping[str, Any], source: str) -> dict[str, Any]:
    names = [vars(cls)["name"] for cls in reversed(type(algorithm).__mro__) if isinstance(vars(cls).get("name"), str)]
    values: dict[str, Any] = {}
    kind = algorithm.data_kind()
    if kind is None:
        return {}
    for section in ("all", kind, *names):
        values = merge(values, defaults.get(section) or {}, f"{source}: {section}")
    filled: dict[str, Any] = {key: values[key] for key in AUTO if getattr(stage, key) == "auto"}
    if stage.adapter is not None and "learning_rate" in filled:
        filled["learning_rate"] *= ADAPTER_FACTOR
    if filled.get("precision") == "auto":
        filled["precision"] = native_precision()
    if stage.num_train_epochs is None and stage.max_steps is None:
        filled["num_train_epochs"] = values["num_train_epochs"]
    if kind != "prompts":
        return filled
    updates, rollout = _filled(stage.updates, values["updates"]), stage.rollout
    if isinstance(stage.batch_size, int) and rollout.batch_size == "auto":
        rollout = rollout.model_copy(update={"batch_size": stage.batch_size * updates.minibatches})
    rollout = _filled(rollout, values["rollout"])
    filled["batch_size"] = _prompts_per_step(stage, rollout.batch_size, updates.minibatches)
    return {**filled, "updates": updates, "rollout": rollout}


def native_precision() -> str:
    """`bf16` if the hardware supports it natively (a GPU, or a CPU with avx512_bf16 or amx), else `fp32`."""
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _filled(block: Block, values: Mapping[str, Any]) -> Block:
    autos = [name for name in type(block).model_fields if getattr(block, name) == "auto"]
    return block.model_copy(update={name: values[name] for name in autos})


def _prompts_per_step(stage: StageConfig, rollout_size: Any, minibatches: Any) -> int:
    """The number of prompts per optimizer step, rollout size / minibatches.

    Raises ConfigError if the stage sets another `batch_size`.
    """
    if rollout_size < minibatches:
        prompts = f"`rollout.batch_size` {rollout_size} is too few prompts"
        what = f"stage `{stage.name}`: {prompts} for {minibatches} minibatches of at least one prompt"
        raise ConfigError(what, "raise `rollout.batch_size`, or lower `updates.minibatches`")
    prompts = rollout_size // minibatches
    if isinstance(stage.batch_size, TokenBatch):
        what = f"stage `{stage.name}`: `batch_size` is in tokens, but a stage that samples counts prompts"
        raise ConfigError(what, "set `rollout.batch_size` to a number of prompts, and leave out `batch_size`")
    if stage.batch_size not in ("auto", prompts):
        expected = f"`rollout.batch_size` {rollout_size} / `updates.minibatches` {minibatches}"
        what = f"stage `{stage.name}`: `batch_size` {stage.batch_size} is not {expected}"
        raise ConfigError(what, "leave out one of `batch_size` and `rollout.batch_size`, to have it computed")
    return prompts

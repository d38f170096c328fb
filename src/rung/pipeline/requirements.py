"""Checks the settings of a stage against its algorithm and against each other, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from rung.algorithm import Algorithm
from rung.config import StageConfig, TokenBatch
from rung.config.schema import UPDATED_REFERENCES
from rung.errors import ConfigError, error_context
from rung.models.lora import keeps_base_weights
from rung.pipeline.unused_settings import check_unused_settings


def check_requirements(algorithm: Algorithm, config: StageConfig) -> None:
    """Raises ConfigError for settings of a stage with which its algorithm cannot train.

    Examples are a critic or teacher that the algorithm does not use, a missing teacher, an adapter whose random
    initialisation makes the policy differ from its reference, and a batch size for which the loss is not defined.
    """
    with error_context(f"stage `{config.name}`"):
        algorithm.check_settings()
    check_unused_settings(algorithm, config)
    needs = algorithm.needs()
    if "sampled_logps" in needs and config.precision != "bf16" and config.rollout.sampler == "local":
        what = (
            f"stage `{config.name}`: `importance_sampling_correction` has no effect because the built-in sampler is "
            "the policy, so every ratio is 1"
        )
        raise ConfigError(what, "leave it out, or use it with `precision: bf16` or another `rollout.sampler`")
    if config.critic is not None and "values" not in needs:
        what = f"stage `{config.name}` has a `critic`, but algorithm `{algorithm.name}` uses no value function"
        raise ConfigError(what, "remove `critic`, or use an algorithm that trains a critic")
    if "teacher" in needs and config.teacher is None:
        what = f"stage `{config.name}`: algorithm `{algorithm.name}` needs a teacher, but `teacher` is not set"
        raise ConfigError(what, "set `teacher`: an earlier stage, a folder, a hub id or `run:NAME/stage`")
    if config.teacher is not None and "teacher" not in needs:
        what = f"stage `{config.name}` has a `teacher`, but algorithm `{algorithm.name}` uses none"
        raise ConfigError(what, "remove `teacher`, or use an algorithm that learns from a teacher")
    random_adapter = config.adapter is not None and config.adapter.lora.get("init_lora_weights") is False
    if random_adapter and "reference" in needs:
        what = (
            f"stage `{config.name}`: with `init_lora_weights: false` the policy starts with other weights than its "
            "reference"
        )
        raise ConfigError(what, "leave out `init_lora_weights`, so that a new adapter does not change the model")
    if config.reference != "start" and "reference" not in needs:
        cause = f"`{algorithm.name}` uses no reference model"
        what = f"stage `{config.name}`: `reference: {config.reference}` has no effect because {cause}"
        positive = ", or set a positive `beta` in `algorithm`" if "beta" in type(algorithm).model_fields else ""
        raise ConfigError(what, f"remove `reference`{positive}")
    check_reference_update(config)
    check_4bit(config)
    if isinstance(config.batch_size, TokenBatch) and algorithm.least_batch_size > 1:
        what = (
            f"stage `{config.name}`: a `batch_size` in tokens may give a step one row, but `{algorithm.name}` compares "
            "rows"
        )
        raise ConfigError(what, f"set it to a number of rows, at least {algorithm.least_batch_size}")
    if isinstance(config.batch_size, int) and config.batch_size < algorithm.least_batch_size:
        what = f"stage `{config.name}`: `batch_size` is {config.batch_size}, but `{algorithm.name}` compares rows"
        raise ConfigError(what, f"set it to at least {algorithm.least_batch_size}")


def check_reference_update(config: StageConfig) -> None:
    """Raises ConfigError for update settings of a reference that is fixed, and for `reference: ema` with an adapter."""
    stage, reference = f"stage `{config.name}`", config.reference
    if reference not in UPDATED_REFERENCES and config.ref_model_sync_steps is not None:
        what = f"{stage} has `ref_model_sync_steps`, but its reference `{reference}` is fixed"
        raise ConfigError(what, "set `reference: ema` or `reference: sync`, or leave out `ref_model_sync_steps`")
    if reference != "ema" and config.ref_model_mixup_alpha is not None:
        what = f"{stage} has `ref_model_mixup_alpha`, but its reference is `{reference}`"
        raise ConfigError(what, "set `reference: ema`, or leave out `ref_model_mixup_alpha`")
    if reference == "ema" and config.adapter is not None:
        reason = "averaging the two matrices of an adapter does not average the weights"
        what = f"{stage} has `reference: ema` and an adapter, but {reason}"
        raise ConfigError(what, "set `reference: sync`, or train the whole model")


def check_4bit(config: StageConfig, *, sharded: bool = False) -> None:
    """Raises ConfigError if a stage has `load_in_4bit` together with settings that do not allow it.

    `sharded`: the weights are sharded over the ranks (`--fully-shard`).
    """
    if config.adapter is None or not config.adapter.load_in_4bit:
        return
    stage = f"stage `{config.name}`: `load_in_4bit`"
    lora = config.adapter.lora
    if not keeps_base_weights(lora):
        name = "init_lora_weights" if lora.get("bias", "none") == "none" else "bias"
        what = f"{stage} cannot be combined with `{name}: {str(lora[name]).lower()}`"
        remedy = f"leave out `{name}` in `adapter.lora`"
        raise ConfigError(f"{what}: the adapter must leave the quantised base weights unchanged", remedy)
    if config.reference in UPDATED_REFERENCES:
        what = f"{stage} cannot be combined with `reference: {config.reference}`, which needs a second model"
        raise ConfigError(what, "use `reference: start`, which is the base with the adapter disabled")
    if sharded:
        what = f"{stage} cannot be combined with `--fully-shard`, which shards full-precision weights"
        raise ConfigError(what, "use `--nproc` without `--fully-shard`, or leave `load_in_4bit` out")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{stage} needs bitsandbytes, which is not installed", "pip install 'rung[qlora]'")

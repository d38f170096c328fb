"""Settings of a stage that contradict its algorithm or each other, refused before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec

from rung.algorithm import Algorithm
from rung.config import StageConfig, TokenBatch
from rung.config.schema import MOVING_REFERENCES
from rung.errors import ConfigError, error_context
from rung.models.load import keeps_base_weights
from rung.pipeline.unused_settings import check_unused_settings


def check_requirements(algorithm: Algorithm, config: StageConfig) -> None:
    """Raises ConfigError for settings of a stage that its algorithm cannot use.

    Among them: a critic or a teacher that the algorithm does not read, a missing teacher, a reference that a random
    adapter would not start from, fewer examples a step than the loss is defined for.
    """
    with error_context(f"stage `{config.name}`"):
        algorithm.check_settings()
    check_unused_settings(algorithm, config)
    needs = algorithm.needs()
    if "sampled_logps" in needs and config.precision != "bf16" and config.rollout.sampler == "local":
        what = (
            f"stage `{config.name}`: `importance_sampling_correction` has no effect: the built-in sampler is the "
            "policy, so every ratio is 1"
        )
        raise ConfigError(what, "leave it out; it is for `precision: bf16` or another `rollout.sampler`")
    if config.critic is not None and "values" not in needs:
        what = f"stage `{config.name}` has a `critic`, and algorithm `{algorithm.name}` reads no values"
        raise ConfigError(what, "remove `critic`, or take an algorithm that has one")
    if "teacher" in needs and config.teacher is None:
        what = f"stage `{config.name}`: algorithm `{algorithm.name}` learns from a teacher, and there is none"
        raise ConfigError(what, "set `teacher`: an earlier stage, a folder, a hub id or `run:NAME/stage`")
    if config.teacher is not None and "teacher" not in needs:
        what = f"stage `{config.name}` has a `teacher`, and algorithm `{algorithm.name}` reads none"
        raise ConfigError(what, "remove `teacher`, or take an algorithm that learns from one")
    random_adapter = config.adapter is not None and config.adapter.lora.get("init_lora_weights") is False
    if random_adapter and "reference" in needs:
        what = f"stage `{config.name}`: `init_lora_weights: false` starts at other weights than the reference"
        raise ConfigError(what, "leave it out: a fresh adapter then changes nothing")
    if config.reference != "start" and "reference" not in needs:
        what = f"stage `{config.name}` has the reference `{config.reference}`, and `{algorithm.name}` reads none"
        raise ConfigError(what, "remove `reference`, or give the algorithm a KL to it (`beta`)")
    check_reference_update(config)
    check_4bit(config)
    if isinstance(config.batch_size, TokenBatch) and algorithm.least_batch_size > 1:
        what = f"stage `{config.name}`: a `batch_size` in tokens may be one row, and `{algorithm.name}` compares rows"
        raise ConfigError(what, f"give a number of rows, at least {algorithm.least_batch_size}")
    if isinstance(config.batch_size, int) and config.batch_size < algorithm.least_batch_size:
        what = f"stage `{config.name}`: `batch_size` {config.batch_size}, and `{algorithm.name}` compares rows"
        raise ConfigError(what, f"give at least {algorithm.least_batch_size}")


def check_reference_update(config: StageConfig) -> None:
    """Raises ConfigError for update settings of a fixed reference, and for updates that an adapter does not allow."""
    stage, reference = f"stage `{config.name}`", config.reference
    if reference not in MOVING_REFERENCES and config.ref_model_sync_steps is not None:
        what = f"{stage} has `ref_model_sync_steps`, and its reference `{reference}` is fixed"
        raise ConfigError(what, "set `reference: ema` or `reference: sync`, or leave it out")
    if reference != "ema" and config.ref_model_mixup_alpha is not None:
        what = f"{stage} has `ref_model_mixup_alpha`, and its reference is `{reference}`"
        raise ConfigError(what, "set `reference: ema`, or leave it out")
    if reference == "ema" and config.adapter is not None:
        what = f"{stage} has `reference: ema` and an adapter, whose two matrices cannot be averaged one by one"
        raise ConfigError(what, "set `reference: sync`, or train the whole model")


def check_4bit(config: StageConfig, *, sharded: bool = False) -> None:
    """Raises ConfigError where a stage could not train on a 4-bit base; a stage without one passes."""
    if config.adapter is None or not config.adapter.load_in_4bit:
        return
    stage = f"stage `{config.name}`: `load_in_4bit`"
    if not keeps_base_weights(config.adapter.lora):
        what = f"{stage} beside an adapter that changes the base, which stays in 4 bits"
        raise ConfigError(what, "leave `init_lora_weights` and `bias` of `adapter.lora` at their defaults")
    if config.reference in MOVING_REFERENCES:
        what = f"{stage} beside `reference: {config.reference}`, which is a second model"
        raise ConfigError(what, "take `reference: start`, which is the base with the adapter off")
    if sharded:
        what = f"{stage} with `--fully-shard`, which shards full-precision weights"
        raise ConfigError(what, "run replicas (`--nproc` alone), or leave `load_in_4bit` out")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{stage} needs bitsandbytes, which is not installed", "pip install 'rung[qlora]'")

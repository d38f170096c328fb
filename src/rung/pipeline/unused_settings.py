"""Settings without effect: what a user wrote for a stage and its algorithm does not read is an error, not a comment.

What holds for the whole path (`rewards`, `gate`, `seed` at the top) is read by some stages and not by others, and may
stand; so may a value that is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic import BaseModel

from rung.algorithm import Algorithm
from rung.config import StageConfig
from rung.errors import ConfigError

# Of a stage that trains nothing: its name, what it starts from and how it is measured.
READ_WITHOUT_TRAINING = frozenset({"name", "start", "algorithm", "shots"})
OF_ROLLOUTS = ("rewards", "rollout", "updates")
OF_POLICIES = ("gate", "shots")


class UnusedSetting(NamedTuple):
    """A key that is written and not read, why, and what to do about it."""

    key: str
    why: str
    remedy: str = "leave it out"


def check_unused_settings(algorithm: Algorithm, config: StageConfig) -> None:
    """Raises ConfigError for the first key of a stage, or setting of its algorithm, that is written without effect."""
    for unused in (*_of_stage(algorithm, config), *_of_algorithm(algorithm)):
        raise ConfigError(f"stage `{config.name}`: `{unused.key}` has no effect: {unused.why}", unused.remedy)


def _of_stage(algorithm: Algorithm, config: StageConfig) -> Iterator[UnusedSetting]:
    kind, name = algorithm.data_kind(), algorithm.name
    if kind is None:
        unread = [key for key in StageConfig.model_fields if key not in READ_WITHOUT_TRAINING]
        yield from (UnusedSetting(key, f"`{name}` trains nothing") for key in _written(config, unread))
        return
    if kind != "prompts":
        for key in _written(config, OF_ROLLOUTS):
            if key != "rollout.temperature" or "teacher" not in algorithm.needs():
                yield UnusedSetting(key, f"`{name}` samples nothing", "leave it out, or take an algorithm that samples")
    elif config.on_overlong == "truncate":
        why = "answers are sampled, and a prompt is never cut"
        yield UnusedSetting("on_overlong: truncate", why, "take `drop` or `error`, or raise `max_prompt_length`")
    if not algorithm.makes_policy():
        yield from (
            UnusedSetting(key, f"`{name}` makes no policy to be measured") for key in _written(config, OF_POLICIES)
        )
    if config.early_stopping is None:
        remedy = "leave it out, or set `early_stopping`"
        yield from (
            UnusedSetting(key, "there is no `early_stopping`", remedy) for key in _written(config, ["eval_steps"])
        )
    if config.lr_scheduler_type == "constant":
        remedy = "leave it out, or set `lr_scheduler_type: constant_with_warmup`"
        why = "`lr_scheduler_type: constant` has no warm-up"
        yield from (UnusedSetting(key, why, remedy) for key in _written(config, ["warmup_steps"]))


def _of_algorithm(algorithm: Algorithm) -> Iterator[UnusedSetting]:
    unused = algorithm.unused_settings()
    yield from (UnusedSetting(key, unused[key]) for key in _written(algorithm, unused))


def _written(settings: BaseModel, keys: Iterable[str]) -> Iterator[str]:
    """Those of the keys that do not have their default, `block.key` of a block of keys."""
    for key in keys:
        field, value = type(settings).model_fields[key], getattr(settings, key)
        if isinstance(value, BaseModel) and type(value) is type(field.default):
            yield from (f"{key}.{inner}" for inner in _written(value, type(value).model_fields))
        elif value != field.default:
            yield field.alias or key

"""Finds settings of a stage that have no effect, because its algorithm does not read them; they are errors.

Settings of the whole path (`rewards`, `gate`, `seed` at the top level) are not checked, since other stages may read
them, and a setting with its default value is always allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic import BaseModel

from rung.algorithm import Algorithm
from rung.config import StageConfig
from rung.errors import ConfigError

READ_WITHOUT_TRAINING = frozenset({"name", "start", "algorithm", "shots"})  # keys that a stage without training reads
AGENT_KEYS = ("environment_factory", "max_tool_calling_iterations", "max_tool_result_tokens")
ROLLOUT_KEYS = ("rewards", "rollout", "updates", *AGENT_KEYS)
POLICY_KEYS = ("gate", "shots")


class UnusedSetting(NamedTuple):
    """A setting that has no effect: its key, the reason, and what to do."""

    key: str
    why: str
    alternative: str = ""


def check_unused_settings(algorithm: Algorithm, config: StageConfig) -> None:
    """Raises ConfigError if a key of a stage or a setting of its algorithm is set but has no effect."""
    for unused in (*_of_stage(algorithm, config), *_of_algorithm(algorithm)):
        what = f"stage `{config.name}`: `{unused.key}` has no effect because {unused.why}"
        remedy = f"leave out `{unused.key}`"
        raise ConfigError(what, f"{remedy}, or {unused.alternative}" if unused.alternative else remedy)


def _of_stage(algorithm: Algorithm, config: StageConfig) -> Iterator[UnusedSetting]:
    kind, name = algorithm.data_kind(), algorithm.name
    if kind is None:
        unread = [key for key in StageConfig.model_fields if key not in READ_WITHOUT_TRAINING]
        yield from (
            UnusedSetting(key, f"algorithm `{name}` trains no weights") for key in _changed_keys(config, unread)
        )
        return
    if kind != "prompts":
        for key in _changed_keys(config, ROLLOUT_KEYS):
            if key != "rollout.temperature" or "teacher" not in algorithm.needs():
                yield UnusedSetting(
                    key, f"algorithm `{name}` does not sample completions", "use an algorithm that samples"
                )
    elif config.on_overlong == "truncate":
        why = "completions are sampled, and prompts are never truncated"
        yield UnusedSetting("on_overlong: truncate", why, "use `drop` or `error`")
    if not algorithm.makes_policy():
        yield from (
            UnusedSetting(key, f"algorithm `{name}` trains no policy that could be evaluated")
            for key in _changed_keys(config, POLICY_KEYS)
        )
    if config.early_stopping is None:
        why, alternative = "`early_stopping` is not set", "set `early_stopping`"
        yield from (UnusedSetting(key, why, alternative) for key in _changed_keys(config, ["eval_steps"]))
    if config.on_bad_row == "error":
        why, alternative = "`on_bad_row: error` stops at the first bad row", "set `on_bad_row: skip` (or `quarantine`)"
        yield from (UnusedSetting(key, why, alternative) for key in _changed_keys(config, ["max_bad_share"]))
    if config.lr_scheduler_type == "constant":
        alternative = "set `lr_scheduler_type: constant_with_warmup`"
        why = "`lr_scheduler_type: constant` has no warm-up"
        yield from (UnusedSetting(key, why, alternative) for key in _changed_keys(config, ["warmup_steps"]))


def _of_algorithm(algorithm: Algorithm) -> Iterator[UnusedSetting]:
    unused = algorithm.unused_settings()
    yield from (UnusedSetting(key, unused[key]) for key in _changed_keys(algorithm, unused))


def _changed_keys(settings: BaseModel, keys: Iterable[str]) -> Iterator[str]:
    """Those of `keys` whose value is not the default; a key inside a block is written `block.key`."""
    for key in keys:
        field, value = type(settings).model_fields[key], getattr(settings, key)
        if isinstance(value, BaseModel) and type(value) is type(field.default):
            yield from (f"{key}.{inner}" for inner in _changed_keys(value, type(value).model_fields))
        elif value != field.default:
            yield field.alias or key

"""Looks up reward functions by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.errors import RewardError
from rung.registry import load_object, package_modules, registered
from rung.reward.decorator import is_declared
from rung.utils.messages import did_you_mean


def reward_names() -> list[str]:
    """The names of the registered rewards, sorted."""
    return sorted(_registered_rewards())


def reward_function(name: str, base: Path | None = None) -> Callable[..., Any]:
    """The reward function called `name`: a registered name, `pkg.module:fn`, `./file.py:fn` or `trl:fn`.

    `trl:` is short for `trl.rewards:`; files are relative to `base`. Raises RewardError for an unknown name, and
    ConfigError if an object cannot be loaded.
    """
    if ":" not in name:
        registered = _registered_rewards()
        if name not in registered:
            raise RewardError(f"unknown reward `{name}`", did_you_mean(name, registered))
        return registered[name]
    found = load_object(re.sub(r"^trl:", "trl.rewards:", name), base)
    if not callable(found):
        raise RewardError(
            f"`{name}` is of type `{type(found).__name__}`, not a function", "give the name of a function"
        )
    return found


def _registered_rewards() -> dict[str, Callable[..., Any]]:
    def name_of(value: object) -> str | None:
        return getattr(value, "__name__", None) if is_declared(value) else None

    return registered("rewards", package_modules("rung.rewards"), name_of)

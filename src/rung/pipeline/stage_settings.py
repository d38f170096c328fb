"""What a stage is built from, as plain values: its own config, and what it takes from its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.algorithm import Algorithm
from rung.artifacts.reward_models import locate_reward_models
from rung.config import PathConfig, StageConfig
from rung.config.schema import DataEntry
from rung.errors import ConfigError
from rung.reward import RewardPolicy
from rung.reward.binding import RewardSource
from rung.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """The values of one stage; `config` is resolved, so that no `auto` is left in it.

    `data` is what `load_examples` reads. The models that `rewards` name are located. Relative paths start from `base`.
    """

    config: StageConfig
    algorithm: Algorithm
    seed: int
    base: Path
    data: DataEntry | Sequence[Mapping[str, Any]]
    rewards: tuple[RewardSource, ...]
    reward_policy: RewardPolicy

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.config.name

    @property
    def samples(self) -> bool:
        """Whether its completions are sampled from the policy."""
        return self.algorithm.data_kind() == "prompts"

    def sampling(self) -> Sampling | None:
        """How its completions are sampled; the forward pass takes the temperature from here too.

        A teacher is compared at the same temperature, also on given completions. None for any other offline stage.
        """
        if not self.samples and "teacher" not in self.algorithm.needs():
            return None
        rollout = self.config.rollout
        length = rollout.max_completion_length
        return Sampling(
            max_completion_length=length if isinstance(length, int) else 1,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            stop=rollout.stop,
        )


def stage_settings(
    stage: StageConfig,
    path: PathConfig,
    algorithm: Algorithm,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    rewards: Sequence[RewardSource] = (),
) -> StageSettings:
    """The values of a stage of a resolved path; `rows` and `rewards` of a Python program replace those of the config.

    Raises ConfigError where the stage has no data, names unknown data, or samples completions without a reward.
    """
    if rows is None and stage.data is None:
        known = ", ".join(path.data)
        raise ConfigError(f"stage `{stage.name}` has no data", f"set `data` to one of {known} or to a file")
    named = rewards or path.rewards_of(stage)
    if algorithm.data_kind() == "prompts" and algorithm.reads_rewards and not named:
        raise ConfigError(f"stage `{stage.name}` samples completions and has no rewards", "set `rewards: [name, ...]`")
    return StageSettings(
        config=stage,
        algorithm=algorithm,
        seed=path.seed_of(stage),
        base=path.base,
        data=path.data_of(stage.data) if rows is None and stage.data is not None else rows or [],
        rewards=tuple(locate_reward_models(named, path, stage.name)) if algorithm.data_kind() == "prompts" else (),
        reward_policy=path.reward_policy,
    )


def resolved(value: int | float | str) -> Any:
    """A number of a resolved config."""
    assert not isinstance(value, str), "`auto` is resolved before a stage is built"
    return value

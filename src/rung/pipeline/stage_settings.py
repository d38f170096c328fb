"""The settings from which a stage is built: its own config, and what it takes from the config of the path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.agents.agent import NO_TOOLS, Toolbox, make_toolbox
from rung.agents.environments import Factories
from rung.algorithm import Algorithm
from rung.artifacts.reward_models import locate_reward_models
from rung.config import EvaluateConfig, PathConfig, StageConfig
from rung.data.mixtures import Mixture
from rung.data.prompting import Prompting
from rung.errors import ConfigError, error_context
from rung.reward import RewardPolicy
from rung.reward.binding import RewardSource
from rung.reward.reward_set import ENVIRONMENT_REWARD
from rung.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """The settings of one stage; in `config`, no key that the algorithm reads is `auto`.

    `data` is an argument of `load_examples`. In `rewards`, the setting `model` is a location (see
    `locate_reward_models`). Relative paths are resolved against `base`.
    """

    config: StageConfig
    algorithm: Algorithm
    seed: int
    base: Path
    data: str | Mapping[str, Any] | Mixture | Sequence[Mapping[str, Any]]
    rewards: tuple[RewardSource, ...]
    reward_policy: RewardPolicy
    prompting: Prompting = field(default_factory=Prompting)
    toolbox: Toolbox = NO_TOOLS

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.config.name

    @property
    def samples(self) -> bool:
        """Whether the stage trains on completions that are sampled from the policy."""
        return self.algorithm.data_kind() == "prompts"

    def sampling(self) -> Sampling | None:
        """The sampling settings of the stage, whose temperature the forward pass uses too; None if there are none.

        A stage that samples has sampling settings. So does a stage with a teacher, even if it trains on given
        completions: policy and teacher are compared at this temperature.
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
            skip_special_tokens=rollout.skip_special_tokens,
        )


def stage_settings(
    stage: StageConfig,
    path: PathConfig,
    algorithm: Algorithm,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    rewards: Sequence[RewardSource] = (),
    tools: Sequence[Any] = (),
    environment_factory: Factories | None = None,
) -> StageSettings:
    """The settings of a stage of a resolved path.

    `rows`, `rewards`, `tools` and `environment_factory`, which a Python program passes, are used in place of those in
    the config. Raises ConfigError if the stage has no data, refers to unknown data, or samples completions but has no
    rewards.
    """
    if rows is None and stage.data is None:
        known = ", ".join(path.data) or "none"
        remedy = f"set `data` to a file, or to a name of the path's data ({known})"
        raise ConfigError(f"stage `{stage.name}` has no data", remedy)
    toolbox = toolbox_of(stage, path.base, f"stage `{stage.name}`", tools, environment_factory)
    named = (*(rewards or path.rewards_of(stage)), *_rewards_of(toolbox, rewards or path.rewards_of(stage)))
    if algorithm.data_kind() == "prompts" and algorithm.reads_rewards and not named:
        raise ConfigError(f"stage `{stage.name}` samples completions but has no rewards", "set `rewards: [name, ...]`")
    return StageSettings(
        config=stage,
        algorithm=algorithm,
        seed=path.seed_of(stage),
        base=path.base,
        data=path.data_of(stage.data) if rows is None and stage.data is not None else rows or [],
        rewards=tuple(locate_reward_models(named, path, stage.name)) if algorithm.data_kind() == "prompts" else (),
        reward_policy=path.reward_policy,
        prompting=Prompting(path.prompt_template, path.system),
        toolbox=toolbox,
    )


def _rewards_of(toolbox: Toolbox, named: Sequence[RewardSource]) -> tuple[RewardSource, ...]:
    """The reward of the environments, which is called like their class, as in TRL; none if an entry names it."""
    environments = toolbox.environments
    kinds = {kind for kind in environments.kinds.values() if hasattr(kind, "get_reward")} if environments else set()
    names = [one.get("name") if isinstance(one, Mapping) else getattr(one, "name", one) for one in named]
    if not kinds or ENVIRONMENT_REWARD in names:
        return ()
    label = kinds.pop().__name__ if len(kinds) == 1 else ENVIRONMENT_REWARD
    return ({"name": ENVIRONMENT_REWARD, "label": label},)


def toolbox_of(
    block: StageConfig | EvaluateConfig,
    base: Path,
    place: str,
    tools: Sequence[Any] = (),
    environment_factory: Factories | None = None,
) -> Toolbox:
    """The tools and environments of a stage or of `evaluate`, which errors call `place`.

    `tools` and `environment_factory`, which a Python program passes, are used in place of those in the config. Raises
    ConfigError.
    """
    with error_context(place):
        return make_toolbox(
            tools or block.tools,
            environment_factory or block.environment_factory,
            base,
            max_tool_calling_iterations=block.max_tool_calling_iterations,
            max_tool_result_tokens=block.max_tool_result_tokens,
        )


def resolved(value: int | float | str) -> Any:
    """The value of a key of a resolved config, asserted not to be `auto`."""
    assert not isinstance(value, str), "`auto` is resolved before a stage is built"
    return value

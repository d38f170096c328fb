"""Finds the reward models that rewards use: their setting `model` accepts what the key `model` of a config accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rung.artifacts.locate import locate
from rung.config import PathConfig
from rung.config.algorithms import make_algorithm
from rung.errors import ConfigError
from rung.reward import RewardSpec
from rung.reward.binding import RewardSource
from rung.utils.names import inside

STAGE = "stage:"


def locate_reward_models(rewards: Sequence[RewardSource], config: PathConfig, stage: str | None) -> list[RewardSource]:
    """The rewards of a stage, with the location (an absolute folder or a hub id) in each setting `model`.

    `stage:NAME` stands for the model of an earlier stage, which may not be trained yet; other values are resolved by
    `rung.artifacts.locate`. `stage` is None for the metrics of an evaluation. Raises ConfigError if `stage:NAME` is not
    an earlier stage or does not train a reward model, and if a folder has no model.
    """
    return [_located(reward, config, stage) for reward in rewards]


def reward_models(rewards: Sequence[RewardSource]) -> dict[str, str]:
    """The locations of the reward models of rewards (from `locate_reward_models`), by `1`, `2` ... in their order."""
    models = [model for model in map(_model, rewards) if model is not None]
    return {str(number): model for number, model in enumerate(models, 1)}


def is_pending(reward: RewardSource) -> bool:
    """Whether a reward (from `locate_reward_models`) uses a model that an earlier stage has not trained yet."""
    model = _model(reward)
    return model is not None and Path(model).is_absolute() and not Path(model).exists()


def _located(reward: RewardSource, config: PathConfig, stage: str | None) -> RewardSource:
    model = _model(reward)
    if model is None:
        return reward
    if model.startswith(STAGE):
        model = _model_of_stage(model.removeprefix(STAGE), config, stage)
    else:
        model = locate(model, base=config.base, runs=Path(config.output))
    if isinstance(reward, RewardSpec):
        return reward.model_copy(update={"args": {**reward.args, "model": model}})
    assert isinstance(reward, Mapping), "only an entry of a config has settings"
    return {**reward, "args": {**reward["args"], "model": model}}


def _model_of_stage(name: str, config: PathConfig, stage: str | None) -> str:
    if stage is None:
        what = f"`evaluate.metrics` uses the model `{STAGE}{name}`, but stages before `{name}` are evaluated too"
        raise ConfigError(what, f"train it in another run first, and name it `run:NAME/{name}` or by its folder")
    names = [each.name for each in config.stages]
    earlier = config.stages[: names.index(stage)] if stage in names else ()
    found = next((each for each in earlier if each.name == name), None)
    if found is None:
        what = f"stage `{stage}`: a reward's model is `{STAGE}{name}`, which is not an earlier stage"
        known = ", ".join(each.name for each in earlier) or "none"
        raise ConfigError(
            what, f"use `{STAGE}NAME` with an earlier stage ({known}), `run:NAME/stage`, a folder or a hub id"
        )
    if make_algorithm(found.algorithm, config.base).makes_policy():
        what = f"stage `{stage}`: a reward's model is `{STAGE}{name}`, but that stage trains no reward model"
        raise ConfigError(what, "name a stage that trains a reward model")
    return str((inside(Path(config.output), config.name, name) / "model").absolute())


def _model(reward: RewardSource) -> str | None:
    args = reward.args if isinstance(reward, RewardSpec) else reward.get("args") if isinstance(reward, Mapping) else {}
    model = args.get("model") if isinstance(args, Mapping) else None
    return model if isinstance(model, str) else None

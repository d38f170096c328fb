"""The Python API: `rung.train` trains one stage in your own loop, `rung.run` runs a path like the command `rung run`.

A path is a sequence of training stages, defined by a config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rung.agents.environments import Factories
from rung.agents.tools import ToolSpec
from rung.algorithm import Algorithm
from rung.artifacts.finished import verified
from rung.artifacts.locate import locate
from rung.config import PathConfig, load_config, parse_config, resolve
from rung.config.algorithms import make_algorithm
from rung.config.defaults import size_of
from rung.data.template_choice import replaced_template
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError
from rung.pipeline.build_stage import build_stage
from rung.pipeline.model_size import size_of_model
from rung.pipeline.requirements import check_requirements
from rung.pipeline.stage_settings import stage_settings
from rung.reward import RewardPolicy
from rung.reward.binding import RewardSource
from rung.training.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.pipeline.runner import Run

PROMPTING = ("prompt_template", "system", "chat_template")  # keys of a path that `train` takes among those of its stage


def train(
    algorithm: Algorithm | str,
    *,
    model: str | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rewards: RewardSource | Iterable[RewardSource] = (),
    reward_policy: RewardPolicy | Mapping[str, Any] | None = None,
    tools: Sequence[ToolSpec | str | Mapping[str, Any] | Callable[..., Any]] = (),
    environment_factory: Factories | None = None,
    **settings: Any,
) -> Stage:
    """A stage that trains while you iterate over it: `for step in rung.train("dpo", model="tiny:base", data="x.csv")`.

    `model` is a name, a folder, or a pair of a loaded model, which is trained in place, and its tokenizer. `data` is
    what a config accepts as data, or a list of rows. `rewards` is one reward or several: a name, a function, or an
    entry as in a config, whose `name` may be a function: `{"name": my_reward, "weight": 0.5}`. `reward_policy` has the
    keys of the config's block of this name. `tools` are functions, or names or entries as in a config, and
    `environment_factory` is a class, a function or a name, or several by name, as in TRL. `settings` are keys of a
    stage in a config, such as `learning_rate`, and `prompt_template`, `system` and `chat_template`. No files are
    written: your loop logs, evaluates and saves between steps; the model being trained is `stage.policy.model`.
    Raises UserError for every mistake that can be found before training.
    """
    named = model if isinstance(model, str) else "given"
    stage = {
        "name": "train",
        "algorithm": algorithm if isinstance(algorithm, str) else {"name": type(algorithm).name},
        "data": data if isinstance(data, str | Mapping) else "rows",
        **settings,
    }
    asked = {key: stage.pop(key) for key in PROMPTING if key in stage}
    policy = reward_policy.model_dump() if isinstance(reward_policy, RewardPolicy) else dict(reward_policy or {})
    whole = {"name": "train", "model": named, "stages": [stage], "reward_policy": policy, **asked}
    path = parse_config(whole, source="rung.train", base=Path.cwd())
    if path.chat_template is not None and not isinstance(model, str):
        what = "`chat_template` is given, but the tokenizer was passed as an object"
        raise ConfigError(what, "set `tokenizer.chat_template` instead")
    with replaced_template(path.chat_template, path.base):
        return _stage(path, algorithm, model, data, _several(rewards), tools, environment_factory)


def _stage(
    path: PathConfig,
    algorithm: Algorithm | str,
    model: str | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rewards: tuple[RewardSource, ...],
    tools: Sequence[Any],
    environment_factory: Factories | None,
) -> Stage:
    """The stage of a path that `train` made of its arguments."""
    size = size_of_model(path) if isinstance(model, str) else size_of(model[0].num_parameters())
    path = resolve(path, size, {"train": algorithm} if isinstance(algorithm, Algorithm) else None)
    config = path.stages[0]
    own_critic = config.critic == "start"
    if not isinstance(model, str):
        if own_critic:
            what = "`critic: start` loads the model a second time, but it was passed as an object"
            raise ConfigError(what, "pass the model's name or folder instead")
        if config.adapter is not None and config.adapter.load_in_4bit:
            what = "`load_in_4bit` loads the model again to merge the adapter, but it was passed as an object"
            raise ConfigError(what, "pass the model's name or folder instead")
    made = algorithm if isinstance(algorithm, Algorithm) else make_algorithm(config.algorithm, path.base)
    if made.data_kind() is None:
        raise ConfigError(
            f"algorithm `{made.name}` trains no weights", "use an algorithm that trains, or call `rung.run`"
        )
    check_requirements(made, config)
    rows = None if isinstance(data, str | Mapping) else data
    settings = stage_settings(
        config, path, made, rows=rows, rewards=rewards, tools=tools, environment_factory=environment_factory
    )
    return build_stage(
        settings,
        start=verified(path.model),
        reference=None,
        critic=path.model if own_critic else None,
        teacher=None if config.teacher is None else locate(config.teacher, base=path.base, runs=Path(path.output)),
        ranks=Ranks(),
        model=None if isinstance(model, str) else model,
    )


def _several(rewards: RewardSource | Iterable[RewardSource]) -> tuple[RewardSource, ...]:
    """The rewards as a tuple, also if only one is given; a string is the name of one reward."""
    alone = isinstance(rewards, str | Mapping) or callable(rewards)
    return (cast(RewardSource, rewards),) if alone else tuple(cast("Iterable[RewardSource]", rewards))


def run(
    config: str | Path,
    *overrides: str,
    new: bool = False,
    fully_shard: bool = False,
    allow_drift: bool = False,
    allow_code: Sequence[str] = (),
) -> Run:
    """Runs all stages of a path, as the command `rung run CONFIG OVERRIDE ...` does. Raises UserError.

    `new`, `fully_shard`, `allow_drift` and `allow_code` correspond to the flags `--new`, `--fully-shard`,
    `--allow-drift` and `--allow-code`.
    """
    from rung.pipeline.runner import run_path

    loaded = load_config(config, overrides, allow_code=allow_code)
    return run_path(loaded, new=new, fully_shard=fully_shard, allow_drift=allow_drift)

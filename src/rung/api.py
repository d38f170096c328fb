"""The Python front: `rung.train` for one stage as a loop of your own, `rung.run` for what the command does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rung.algorithm import Algorithm
from rung.artifacts.locate import locate
from rung.config import load_config, parse_config, resolve
from rung.config.algorithms import make_algorithm
from rung.config.defaults import size_of
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError
from rung.pipeline.build_stage import build_stage
from rung.pipeline.model_size import size_of_model
from rung.pipeline.requirements import check_requirements
from rung.pipeline.stage_settings import stage_settings
from rung.reward.binding import RewardSource
from rung.training.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.pipeline.runner import Run


def train(
    algorithm: Algorithm | str,
    *,
    model: str | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rewards: RewardSource | Iterable[RewardSource] = (),
    **settings: Any,
) -> Stage:
    """A stage that trains while it is iterated: `for step in rung.train("dpo", model="tiny:base", data="pairs.jsonl")`.

    `model` is a name, a folder, or a loaded model with its tokenizer, which is then trained in place. `data` is what a
    config calls data, or the rows themselves. `rewards` are names, entries of a config or functions, one or several.
    `settings` are a stage's keys in a config, such as `learning_rate` or `max_steps`. Nothing is written: log, evaluate
    and save between steps; the model being trained is `stage.policy.model`. Raises UserError for whatever cannot work,
    before any training.
    """
    named = model if isinstance(model, str) else "given"
    stage = {
        "name": "train",
        "algorithm": algorithm if isinstance(algorithm, str) else {"name": type(algorithm).name},
        "data": data if isinstance(data, str | Mapping) else "rows",
        **settings,
    }
    path = parse_config({"name": "train", "model": named, "stages": [stage]}, source="rung.train", base=Path.cwd())
    size = size_of_model(path) if isinstance(model, str) else size_of(model[0].num_parameters())
    path = resolve(path, size, {"train": algorithm} if isinstance(algorithm, Algorithm) else None)
    config = path.stages[0]
    own_critic = config.critic == "start"
    if not isinstance(model, str):
        if own_critic:
            what = "`critic: start` loads the model again, and it is given in memory"
            raise ConfigError(what, "give its name or folder")
        if config.adapter is not None and config.adapter.load_in_4bit:
            what = "`load_in_4bit` loads the model again to merge into it, and it is given in memory"
            raise ConfigError(what, "give its name or folder")
    made = algorithm if isinstance(algorithm, Algorithm) else make_algorithm(config.algorithm, path.base)
    if made.data_kind() is None:
        raise ConfigError(f"algorithm `{made.name}` trains nothing", "take one that trains, or call `rung.run`")
    check_requirements(made, config)
    rows = None if isinstance(data, str | Mapping) else data
    return build_stage(
        stage_settings(config, path, made, rows=rows, rewards=_several(rewards)),
        start=named,
        reference=None,
        critic=named if own_critic else None,
        teacher=None if config.teacher is None else locate(config.teacher, base=path.base, runs=Path(path.output)),
        ranks=Ranks(),
        model=None if isinstance(model, str) else model,
    )


def _several(rewards: RewardSource | Iterable[RewardSource]) -> tuple[RewardSource, ...]:
    """One reward, or several, as a tuple; a name is one, not its letters."""
    alone = isinstance(rewards, str | Mapping) or callable(rewards)
    return (cast(RewardSource, rewards),) if alone else tuple(cast("Iterable[RewardSource]", rewards))


def run(config: str | Path, *overrides: str, new: bool = False, fully_shard: bool = False) -> Run:
    """What `rung run CONFIG OVERRIDE ...` does: every stage, gates, lineage and report. Raises UserError."""
    from rung.pipeline.runner import run_path

    return run_path(load_config(config, overrides), new=new, fully_shard=fully_shard)

"""The Python front: `rung.train` for one stage as a loop of your own, `rung.run` for what the command does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rung.algorithm import Algorithm
from rung.config import load_config, parse_config, resolve
from rung.config.sizes import size_of
from rung.errors import ConfigError
from rung.locate import locate
from rung.opening import Given, open_stage
from rung.ranks import Ranks
from rung.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.path import Run

RewardLike = str | Mapping[str, Any] | Callable[..., Any]


def train(
    algorithm: Algorithm | str,
    *,
    model: str | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    data: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    rewards: RewardLike | Iterable[RewardLike] = (),
    **settings: Any,
) -> Stage:
    """A stage that trains while it is iterated: `for step in rung.train("dpo", model="tiny:base", data="pairs.jsonl")`.

    `model` is a name, a folder, or a loaded model with its tokenizer, which is then trained in place. `data` is what a
    config calls data, or the rows themselves. `rewards` are names, entries of a config or functions, one or several.
    `settings` are a stage's keys in a config, such as `learning_rate` or `max_steps`. Nothing is written: log, evaluate
    and save between steps; the model being trained is `stage.policy.model`. Raises UserError for whatever cannot work,
    before any training.
    """
    word = algorithm if isinstance(algorithm, str) else {"name": type(algorithm).name}
    named = model if isinstance(model, str) else "given"
    stage = {
        "name": "train",
        "algorithm": word,
        "data": data if isinstance(data, str | Mapping) else "rows",
        **settings,
    }
    config = parse_config({"name": "train", "model": named, "stages": [stage]}, source="rung.train", base=Path.cwd())
    size = None if isinstance(model, str) else size_of(model[0].num_parameters())
    config = resolve(config, size, {"train": algorithm} if isinstance(algorithm, Algorithm) else None)
    teacher = config.stages[0].teacher
    own_critic = config.stages[0].critic == "start"
    if own_critic and not isinstance(model, str):
        raise ConfigError("`critic: start` loads the model again, and it is given in memory", "give its name or folder")
    adapter = config.stages[0].adapter
    if adapter is not None and adapter.load_in_4bit and not isinstance(model, str):
        what = "`load_in_4bit` loads the model again to merge into it, and it is given in memory"
        raise ConfigError(what, "give its name or folder")
    return open_stage(
        config.stages[0],
        config,
        start=named,
        reference=None,
        critic=named if own_critic else None,
        teacher=None if teacher is None else locate(teacher, base=config.base, runs=Path(config.output)),
        ranks=Ranks(),
        given=Given(
            algorithm=algorithm if isinstance(algorithm, Algorithm) else None,
            model=None if isinstance(model, str) else model,
            rows=None if isinstance(data, str | Mapping) else data,
            rewards=_several(rewards),
        ),
    )


def _several(rewards: RewardLike | Iterable[RewardLike]) -> tuple[RewardLike, ...]:
    """One reward, or several, as a tuple; a name is one, not its letters."""
    alone = isinstance(rewards, str | Mapping) or callable(rewards)
    return (cast(RewardLike, rewards),) if alone else tuple(cast("Iterable[RewardLike]", rewards))


def run(config: str | Path, *overrides: str, new: bool = False, fully_shard: bool = False) -> Run:
    """What `rung run CONFIG OVERRIDE ...` does: every stage, gates, lineage and report. Raises UserError."""
    from rung.path import run_path

    return run_path(load_config(config, overrides), new=new, fully_shard=fully_shard)

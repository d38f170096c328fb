"""The data of a stage: read, held against its algorithm, as ids that fit the model, with the rewards for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rung.algorithm import Algorithm
from rung.config import PathConfig, StageConfig
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.records import Encoded, Example, as_prompt, as_unpaired
from rung.data.report import Report
from rung.data.splits import split
from rung.errors import ConfigError, DataError, within
from rung.judges import Source, located, waits
from rung.reward import Rewards

LEARNS_FROM = {
    "text": frozenset({"text", "messages", "prompt-completion"}),
    "pairs": frozenset({"preference", "ranking"}),
    "unpaired": frozenset({"unpaired", "preference"}),
    "prompts": frozenset({"prompt", "prompt-completion", "messages"}),
}
HELD_OUT_SHARE = 0.1


def read_examples(
    algorithm: Algorithm,
    config: StageConfig,
    path: PathConfig,
    rows: Sequence[Mapping[str, Any]] | None = None,
    *,
    quarantine: Path | None = None,
) -> tuple[list[Example], Report]:
    """The stage's data as examples of a kind that the algorithm learns from, and what happened to the rows.

    Bad rows go to the file `quarantine` where the stage wants that; None writes nothing.
    """
    if config.data is None:
        raise ConfigError(
            f"stage `{config.name}` has no data", f"set `data` to one of {', '.join(path.data)} or to a file"
        )
    examples, report = load_examples(
        path.data_of(config.data) if rows is None else rows,
        on_bad=config.on_bad,
        base=path.base,
        seed=path.seed_of(config),
        quarantine=quarantine if config.on_bad == "quarantine" else None,
    )
    need = next(kind for kind in LEARNS_FROM if kind in algorithm.requires())
    for example in examples:
        if example.kind not in LEARNS_FROM[need]:
            what = f"{example.source}: stage `{config.name}` learns from {need}, and this row is {example.kind} data"
            raise DataError(what, f"give it one of: {', '.join(sorted(LEARNS_FROM[need]))}")
        answers = len(example.completions or ())
        if answers and algorithm.group_size not in (None, answers):
            what = (
                f"{example.source}: {answers} answers to a prompt, and `{algorithm.name}` takes {algorithm.group_size}"
            )
            raise DataError(what, f"keep {algorithm.group_size} of `completions`, or take an algorithm for rankings")
    if need == "unpaired":
        examples = [one for example in examples for one in as_unpaired(example)]
    return [as_prompt(example) for example in examples] if need == "prompts" else examples, report


def encode_examples(
    algorithm: Algorithm,
    config: StageConfig,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    report: Report,
    positions: int | None,
) -> tuple[list[Encoded], list[Encoded]]:
    """The examples as ids: those to train on, and those held out where the stage stops early.

    `positions` is how many tokens the model takes. Raises UserError for rows that do not fit, or where none is left.
    """
    if config.early_stopping is None:
        parts = [list(examples)]
    elif "prompts" in algorithm.requires():
        what = f"stage `{config.name}` samples its data, and `early_stopping` reads the loss of held-out rows"
        raise ConfigError(what, "set `max_steps`, and let the gate decide")
    else:
        shares = split(examples, {"train": 1 - HELD_OUT_SHARE, "held_out": HELD_OUT_SHARE}, "early_stopping")
        parts = [shares["train"], shares["held_out"]]
        if not all(parts):
            what = f"stage `{config.name}`: `early_stopping` holds out {HELD_OUT_SHARE:.0%} of {len(examples)} examples"
            raise ConfigError(f"{what}, which leaves one side empty", "give it more data, or remove `early_stopping`")
    encoded = [
        encode(
            part,
            tokenizer,
            max_prompt_length=resolved(config.max_prompt_length),
            max_length=resolved(config.max_length),
            on_overlong=config.on_overlong,
            on_bad=config.on_bad,
            assistant_only=algorithm.trains_on() == "assistant",
            report=report,
        )
        for part in parts
    ]
    for part in encoded:
        check_room(algorithm, config, part, positions)
    _check_rest(algorithm, config, len(encoded[0]))
    return encoded[0], encoded[1] if len(encoded) > 1 else []


def _check_rest(algorithm: Algorithm, config: StageConfig, num_examples: int) -> None:
    """Raises ConfigError where the last step of an epoch has fewer examples than the loss makes sense of."""
    size, least = config.batch_size, algorithm.least_batch_size
    rest = num_examples % size if isinstance(size, int) else 0
    if 0 < rest < least:
        what = f"stage `{config.name}`: `batch_size` {size} leaves {rest} of {num_examples} examples to the last step"
        remedy = f"take a `batch_size` that leaves none or at least {least}, or `limit` the data"
        raise ConfigError(f"{what}, and `{algorithm.name}` compares rows", remedy)


def check_room(
    algorithm: Algorithm, config: StageConfig, encoded: Sequence[Encoded], positions: int | None, whose: str = "model"
) -> None:
    """Raises ConfigError where a prompt with its longest answer, told or sampled, exceeds a model's positions."""
    sampled = resolved(config.rollout.max_completion_length) if "prompts" in algorithm.requires() else None
    for one in encoded:
        longest = sampled or max((len(answer.ids) for answer in one.answers), default=0)
        if positions is None or len(one.prompt_ids) + longest <= positions:
            continue
        answer = f"`rollout.max_completion_length` {sampled}" if sampled else f"{longest} of its answer"
        what = f"{one.source}: {len(one.prompt_ids)} tokens and {answer} exceed the {whose}'s {positions} positions"
        lower = "`rollout.max_completion_length`, or `max_prompt_length`" if sampled else "`max_length`"
        raise ConfigError(what, f"lower {lower}, which drops such rows")


def open_rewards(
    algorithm: Algorithm,
    config: StageConfig,
    path: PathConfig,
    encoded: Sequence[Encoded],
    given: Sequence[Source] = (),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Rewards:
    """The stage's rewards, or the path's, checked against the columns of every row and the policy's tokenizer.

    There may be none where the algorithm reads none.
    """
    sources = _sources(algorithm, config, path, given)
    with within(f"stage `{config.name}`"):
        rewards = Rewards(sources, path.reward_policy, path.base)
        for columns in {frozenset(one.example.columns) for one in encoded}:
            rewards.check(columns)
        if algorithm.reads_rewards and not any(reward.credited for reward in rewards.rewards):
            what = f"none of its rewards counts ({', '.join(rewards.goals)}): each weighs 0 or is a metric"
            raise ConfigError(what, "give one of them a `weight`, or add a reward that has one")
        if "standardised_rewards" in algorithm.requires():
            rewards.check_apart()
    if tokenizer is not None:
        rewards.check_policy(tokenizer)
    return rewards


def check_rewards(
    algorithm: Algorithm,
    config: StageConfig,
    path: PathConfig,
    encoded: Sequence[Encoded],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raises what `open_rewards` would, as far as it can be known while models of earlier stages are not there."""
    open_rewards(algorithm, config, path, encoded).close()
    made = [source for source in _sources(algorithm, config, path) if not waits(source)]
    with Rewards(made, path.reward_policy, path.base) as rewards:
        rewards.check_policy(tokenizer)


def _sources(algorithm: Algorithm, config: StageConfig, path: PathConfig, given: Sequence[Source] = ()) -> list[Source]:
    specs = given or path.rewards_of(config)
    if not specs and algorithm.reads_rewards:
        raise ConfigError(f"stage `{config.name}` samples completions and has no rewards", "set `rewards: [name, ...]`")
    return located(specs, path, config.name)


def resolved(value: int | float | str) -> Any:
    """A number of a resolved config."""
    assert not isinstance(value, str), "`auto` is resolved before a stage is opened"
    return value

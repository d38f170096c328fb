"""From the config of a stage to a `Stage`: model, reference, data, source, optimizer. Every mistake shows here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rung.algorithm import Algorithm
from rung.config import PathConfig, StageConfig, TokenBatch
from rung.data.batches import Dataset
from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.records import Encoded, Example, as_prompt
from rung.data.report import Report
from rung.data.splits import split
from rung.errors import ConfigError, DataError
from rung.models import frozen, load_model, on, starts_equal, with_adapter
from rung.optimizers import make_optimizer, make_schedule
from rung.policy import Policy
from rung.ranks import Ranks
from rung.registry import algorithm as find_algorithm
from rung.reward import Rewards
from rung.rollout.draw import Sampling
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.rollouts import Rollouts
from rung.rollout.sampler import LocalSampler
from rung.sources import Prepared, Source
from rung.stage import Stage

LEARNS_FROM = {
    "text": frozenset({"text", "messages", "prompt-completion"}),
    "pairs": frozenset({"preference"}),
    "prompts": frozenset({"prompt", "prompt-completion", "messages"}),
}
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Given:
    """Objects of a Python program that stand for what a config can only name."""

    algorithm: Algorithm | None = None
    model: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    rewards: tuple[str | Mapping[str, Any] | Callable[..., Any], ...] = ()


NOTHING_GIVEN = Given()


def open_stage(
    config: StageConfig,
    path: PathConfig,
    *,
    start: str,
    reference: str | None,
    ranks: Ranks,
    given: Given = NOTHING_GIVEN,
) -> Stage:
    """Loads the model, reads the data and makes everything ready.

    `config` is resolved: no `auto` is left in it. `start` and `reference` are what `load_model` takes; None refers to
    the weights at the start. Raises UserError for whatever cannot work, before any training.
    """
    seed = path.seed if config.seed is None else config.seed
    torch.manual_seed(seed)  # for the weights of fresh adapters and heads
    algorithm = given.algorithm or find_algorithm(config.algorithm, path.base)
    examples, report = read_examples(algorithm, config, path, seed, given.rows)
    model, tokenizer = given.model or load_model(start, seed=seed)
    policy = open_policy(algorithm, config, model, reference, lambda: load_model(start, seed=seed)[0])
    encoded, held_out = encode_examples(algorithm, config, examples, tokenizer, report)
    if "prompts" in algorithm.requires():
        rewards = open_rewards(config, path, encoded, given.rewards)
        source, steps_per_epoch = open_rollouts(algorithm, config, policy, tokenizer, encoded, rewards, seed, ranks)
    else:
        source, steps_per_epoch = open_data(algorithm, config, policy, tokenizer, encoded, seed, ranks)
    total_steps = config.max_steps or math.ceil(steps_per_epoch * (config.num_train_epochs or 1))
    optimizer = make_optimizer(
        config.optimizer,
        policy.named_parameters(),
        learning_rate=_number(config.learning_rate),
        weight_decay=config.weight_decay,
    )
    schedule = make_schedule(
        config.lr_scheduler_type, optimizer, warmup_steps=config.warmup_steps, total_steps=total_steps
    )
    return Stage(
        name=config.name,
        policy=policy,
        algorithm=algorithm,
        tokenizer=tokenizer,
        source=source,
        optimizer=optimizer,
        schedule=schedule,
        ranks=ranks,
        total_steps=total_steps,
        max_grad_norm=config.max_grad_norm,
        steps_per_epoch=steps_per_epoch,
        report=report,
        held_out=held_out,
    )


def open_policy(
    algorithm: Algorithm,
    config: StageConfig,
    model: PreTrainedModel,
    reference: str | None,
    reload: Callable[[], PreTrainedModel],
) -> Policy:
    """The policy with its adapter and, where the algorithm wants one, its reference; `reload` loads the start again."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapter = config.adapter
    policy = Policy(
        on(with_adapter(model, adapter.lora) if adapter else model, device),
        temperature=config.rollout.temperature if "prompts" in algorithm.requires() else 1.0,
        token_budget=_number(config.token_budget),
    )
    if "reference" not in algorithm.requires():
        return policy
    policy.reference_is_start = reference is None
    if reference is not None:
        policy.reference = frozen(on(load_model(reference)[0], device))
    elif adapter is None:
        policy.reference = policy.snapshot()
    elif not starts_equal(adapter.lora):
        policy.reference = frozen(on(reload(), device))
    return policy


def read_examples(
    algorithm: Algorithm,
    config: StageConfig,
    path: PathConfig,
    seed: int,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[Example], Report]:
    """The stage's data as examples of a kind that the algorithm learns from, and what happened to the rows."""
    if config.data is None:
        raise ConfigError(
            f"stage `{config.name}` has no data", f"set `data` to one of {', '.join(path.data)} or to a file"
        )
    spec = path.data.get(config.data, config.data) if isinstance(config.data, str) else config.data
    examples, report = load_examples(
        spec if rows is None else rows,
        on_bad=config.on_bad,
        base=path.base,
        seed=seed,
        quarantine=Path(path.output) / path.name / config.name / "quarantine.jsonl",
    )
    need = next(kind for kind in LEARNS_FROM if kind in algorithm.requires())
    for example in examples:
        if example.kind not in LEARNS_FROM[need]:
            what = f"{example.source}: stage `{config.name}` learns from {need}, and this row is {example.kind} data"
            raise DataError(what, f"give it one of: {', '.join(sorted(LEARNS_FROM[need]))}")
    return [as_prompt(example) for example in examples] if need == "prompts" else examples, report


def encode_examples(
    algorithm: Algorithm,
    config: StageConfig,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    report: Report,
) -> tuple[list[Encoded], list[Any]]:
    """The examples as ids, and the batches held out where the stage stops early."""

    def ids(some: Sequence[Example]) -> list[Encoded]:
        return encode(
            some,
            tokenizer,
            max_prompt_length=_number(config.max_prompt_length),
            max_length=_number(config.max_length),
            on_overlong=config.on_overlong,
            on_bad=config.on_bad,
            assistant_only=algorithm.trains_on() == "assistant",
            report=report,
        )

    if config.early_stopping is None:
        return ids(examples), []
    if "prompts" in algorithm.requires():
        what = f"stage `{config.name}` samples its data, and `early_stopping` reads the loss of held-out rows"
        raise ConfigError(what, "set `max_steps`, and let the gate decide")
    shares = split(examples, {"train": 1 - HELD_OUT_SHARE, "held_out": HELD_OUT_SHARE}, "early_stopping")
    held = ids(shares["held_out"])
    pad = _pad(tokenizer)
    return ids(shares["train"]), [collate(held[i : i + 64], pad_id=pad) for i in range(0, len(held), 64)]


def open_data(
    algorithm: Algorithm,
    config: StageConfig,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    seed: int,
    ranks: Ranks,
) -> tuple[Source, float]:
    """Batches of a data set, and how many optimizer steps make an epoch of it."""
    size = config.batch_size
    batch_size = {"tokens": size.tokens} if isinstance(size, TokenBatch) else _number(size)
    dataset = Dataset(encoded, batch_size=batch_size, seed=seed, pad_id=_pad(tokenizer), ranks=ranks)
    return Prepared(dataset, algorithm, policy), dataset.steps_per_epoch


def open_rollouts(
    algorithm: Algorithm,
    config: StageConfig,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    rewards: Rewards,
    seed: int,
    ranks: Ranks,
) -> tuple[Source, float]:
    """Batches sampled from the policy, and how many optimizer steps make an epoch of the prompts."""
    rollout, updates = config.rollout, config.updates
    generator = Generator(
        sampler=LocalSampler(policy.model, tokenizer),
        sampling=Sampling(
            max_completion_length=_number(rollout.max_completion_length),
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            stop=rollout.stop,
        ),
        key=Key(seed, config.name, "rollout"),
        samples=algorithm.samples_per_prompt(),
        rewards=rewards,
        tokenizer=tokenizer,
    )
    size, minibatches, epochs = _number(rollout.batch_size), _number(updates.minibatches), _number(updates.epochs)
    source = Rollouts(
        encoded,
        algorithm=algorithm,
        policy=policy,
        generator=generator,
        batch_size=size,
        epochs=epochs,
        minibatches=minibatches,
        seed=seed,
        ranks=ranks,
    )
    return source, len(encoded) / size * minibatches * epochs


def open_rewards(
    config: StageConfig,
    path: PathConfig,
    encoded: Sequence[Encoded],
    given: Sequence[str | Mapping[str, Any] | Callable[..., Any]] = (),
) -> Rewards:
    """The stage's rewards, or the path's; their columns are checked against every row."""
    specs = given or (path.rewards if config.rewards is None else config.rewards)
    if not specs:
        raise ConfigError(f"stage `{config.name}` samples completions and has no rewards", "set `rewards: [name, ...]`")
    rewards = Rewards(specs, path.reward_policy, path.base)
    for columns in {frozenset(one.example.columns) for one in encoded}:
        rewards.check(columns)
    return rewards


def _number(value: int | float | str) -> Any:
    assert not isinstance(value, str), "`auto` is resolved before a stage is opened"
    return value


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int), "load_model gives every tokenizer a pad token"
    return pad

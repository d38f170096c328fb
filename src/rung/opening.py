"""From the config of a stage to a `Stage`: model, reference, data, source, optimizer. Every mistake shows here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rung.algorithm import Algorithm
from rung.config import PathConfig, StageConfig, TokenBatch
from rung.config.models import MOVING
from rung.data.batches import Dataset
from rung.data.collate import collate
from rung.data.records import Encoded
from rung.errors import ConfigError, within
from rung.heads import fresh_head, load_critic, zero_head
from rung.idle import check_idle
from rung.models import check_tokens, frozen, load_model, num_positions, placed, starts_equal, with_adapter
from rung.optimizers import find_optimizer, make_optimizer, make_schedule
from rung.policy import Following, Policy
from rung.quantized import check_4bit, in_4bit, quantized
from rung.ranks import Ranks
from rung.registry import algorithm as find_algorithm
from rung.reward import Rewards
from rung.reward_models import check_judge
from rung.rollout.draw import Sampling
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.rollouts import Rollouts
from rung.rollout.sampler import LocalSampler
from rung.sources import Prepared, Source
from rung.stage import Stage
from rung.stage_data import check_room, encode_examples, open_rewards, read_examples, resolved


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
    critic: str | None = None,
    teacher: str | None = None,
    ranks: Ranks,
    given: Given = NOTHING_GIVEN,
    quarantine: Path | None = None,
) -> Stage:
    """Loads the model, reads the data and makes everything ready.

    `config` is resolved: no `auto` is left in it. `start`, `reference`, `critic` and `teacher` are what `load_model`
    takes; no reference means the weights at the start, no critic a head on the policy. Bad rows may go to the file
    `quarantine`; None writes nothing. Raises UserError for whatever cannot work, before any training.
    """
    seed = path.seed_of(config)
    torch.manual_seed(seed)  # for the weights of fresh adapters and heads
    algorithm = given.algorithm or find_algorithm(config.algorithm, path.base)
    check_needs(algorithm, config)
    examples, report = read_examples(algorithm, config, path, given.rows, quarantine=quarantine)
    model, tokenizer = given.model or load_model(start, seed=seed)
    for role, location in (("reference", reference), ("critic", critic), ("teacher", teacher)):
        if location is not None:
            check_tokens(location, tokenizer, role)
    encoded, held_out = encode_examples(algorithm, config, examples, tokenizer, report, num_positions(model))
    if in_4bit(config):
        model = quantized(model, config, start=start, seed=seed)
    policy = open_policy(algorithm, config, model, reference, ranks)
    add_heads(policy, algorithm, critic, tokenizer)
    if teacher is not None:
        policy.teacher = frozen(placed(load_model(teacher)[0]))
        check_room(algorithm, config, [*encoded, *held_out], num_positions(policy.teacher), "teacher")
    if ranks.sharded:
        policy.shard()
    if "prompts" in algorithm.requires():
        rewards = open_rewards(algorithm, config, path, encoded, given.rewards, tokenizer=tokenizer)
        source, steps_per_epoch = open_rollouts(algorithm, config, policy, tokenizer, encoded, rewards, seed, ranks)
    else:
        source, steps_per_epoch = open_data(algorithm, config, policy, tokenizer, encoded, seed, ranks)
    total_steps = config.max_steps or math.ceil(steps_per_epoch * (config.num_train_epochs or 1))
    optimizer = make_optimizer(
        find_optimizer(config.optimizer, path.base),
        policy.named_parameters(),
        hidden=policy.hidden_matrices(),
        learning_rate=resolved(config.learning_rate),
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
        held_out=[collate(held_out[i : i + 64], pad_id=_pad(tokenizer)) for i in range(0, len(held_out), 64)],
    )


def open_policy(
    algorithm: Algorithm, config: StageConfig, model: PreTrainedModel, reference: str | None, ranks: Ranks
) -> Policy:
    """The policy with its adapter and, where the algorithm wants one, its reference; None is `model` as given."""
    adapter = config.adapter
    refers = "reference" in algorithm.requires()
    moves = adapter is not None and not starts_equal(adapter.lora)
    before = deepcopy(model) if refers and reference is None and moves else None
    policy = Policy(
        placed(with_adapter(model, adapter.lora) if adapter else model),
        temperature=config.rollout.temperature if {"prompts", "teacher"} & algorithm.requires() else 1.0,
        token_budget=resolved(config.token_budget),
        precision="bf16" if config.precision == "bf16" else "fp32",
        ranks=ranks,
    )
    if not refers:
        return policy
    policy.reference_is_start = reference is None
    policy.follows = following(config)
    if reference is not None:
        policy.reference = frozen(placed(load_model(reference)[0]))
    elif adapter is None or policy.follows is not None:
        policy.reference = policy.snapshot()
    elif before is not None:
        policy.reference = frozen(placed(before))
    return policy


def following(config: StageConfig) -> Following | None:
    """How a stage's reference moves; the numbers that are not given are those of TR-DPO and TRL."""
    if config.reference not in MOVING:
        return None
    share = 1.0 if config.reference == "sync" else config.ref_model_mixup_alpha or 0.6
    return Following(config.ref_model_sync_steps or 512, share)


def add_heads(policy: Policy, algorithm: Algorithm, critic: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives the policy the heads that the algorithm needs, and a critic of its own where one is named.

    A head on the last token starts random with std 1/sqrt(H + 1), as in Stiennon et al. 2020 (arXiv 2009.01325); a
    value head starts at 0, or as the head of the reward model that the critic begins as. Raises ConfigError for a model
    that cannot be saved as a judge.
    """
    if "final" in algorithm.requires():
        check_judge(policy.causal_lm.config, tokenizer)
        policy.final_head = fresh_head(policy.causal_lm)
    if "values" in algorithm.requires():
        policy.critic, head = (None, None) if critic is None else load_critic(critic)
        policy.value_head = head or zero_head(policy.causal_lm if policy.critic is None else policy.critic)
    for head in (policy.final_head, policy.value_head):
        if head is not None:
            head.to(policy.device)


def check_needs(algorithm: Algorithm, config: StageConfig) -> None:
    """Raises ConfigError for settings of a stage that its algorithm cannot use.

    A critic or a teacher that nothing asks for, no teacher where one is needed, a reference that a random adapter
    starts away from, fewer examples a step than the loss needs, a correction for a sampler that needs none.
    """
    with within(f"stage `{config.name}`"):
        algorithm.refuse()
    check_idle(algorithm, config)
    if "sampled_logps" in algorithm.requires() and config.precision != "bf16":
        what = f"stage `{config.name}` corrects for its sampler, which is the policy itself: every weight would be 1"
        raise ConfigError(what, "leave `importance_sampling_correction` out; it is for a sampler of your own")
    if config.critic is not None and "values" not in algorithm.requires():
        what = f"stage `{config.name}` has a `critic`, and algorithm `{algorithm.name}` reads no values"
        raise ConfigError(what, "remove `critic`, or take an algorithm that has one")
    if "teacher" in algorithm.requires() and config.teacher is None:
        what = f"stage `{config.name}`: algorithm `{algorithm.name}` learns from a teacher, and there is none"
        raise ConfigError(what, "set `teacher`: an earlier stage, a folder, a hub id or `run:NAME/stage`")
    if config.teacher is not None and "teacher" not in algorithm.requires():
        what = f"stage `{config.name}` has a `teacher`, and algorithm `{algorithm.name}` reads none"
        raise ConfigError(what, "remove `teacher`, or take an algorithm that learns from one")
    unset = config.adapter is not None and config.adapter.lora.get("init_lora_weights") is False
    if unset and "reference" in algorithm.requires():
        what = f"stage `{config.name}`: `init_lora_weights: false` starts at other weights than the reference"
        raise ConfigError(what, "leave it out: a fresh adapter then changes nothing")
    if config.reference != "start" and "reference" not in algorithm.requires():
        what = f"stage `{config.name}` has the reference `{config.reference}`, and `{algorithm.name}` reads none"
        raise ConfigError(what, "remove `reference`, or give the algorithm a KL to it (`beta`)")
    check_following(config)
    check_4bit(config)
    if isinstance(config.batch_size, TokenBatch) and algorithm.least_batch_size > 1:
        what = f"stage `{config.name}`: a `batch_size` in tokens may be one row, and `{algorithm.name}` compares rows"
        raise ConfigError(what, f"give a number of rows, at least {algorithm.least_batch_size}")
    if isinstance(config.batch_size, int) and config.batch_size < algorithm.least_batch_size:
        what = f"stage `{config.name}`: `batch_size` {config.batch_size}, and `{algorithm.name}` compares rows"
        raise ConfigError(what, f"give at least {algorithm.least_batch_size}")


def check_following(config: StageConfig) -> None:
    """Raises ConfigError for settings of a reference that does not move, or does not move in that way."""
    stage, reference = f"stage `{config.name}`", config.reference
    if reference not in MOVING and config.ref_model_sync_steps is not None:
        what = f"{stage} has `ref_model_sync_steps`, and its reference `{reference}` stays"
        raise ConfigError(what, "set `reference: ema` or `reference: sync`, or leave it out")
    if reference != "ema" and config.ref_model_mixup_alpha is not None:
        what = f"{stage} has `ref_model_mixup_alpha`, and its reference is `{reference}`"
        raise ConfigError(what, "set `reference: ema`, or leave it out")
    if reference == "ema" and config.adapter is not None:
        what = f"{stage} has `reference: ema` and an adapter, whose two matrices cannot be mixed one by one"
        raise ConfigError(what, "set `reference: sync`, or train the whole model")


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
    batch_size = {"tokens": size.tokens} if isinstance(size, TokenBatch) else resolved(size)
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
        sampler=LocalSampler(policy.model, tokenizer, training_dtype=policy.dtype),
        sampling=Sampling(
            max_completion_length=resolved(rollout.max_completion_length),
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
    size, minibatches, epochs = resolved(rollout.batch_size), resolved(updates.minibatches), resolved(updates.epochs)
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


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int), "load_model gives every tokenizer a pad token"
    return pad

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
from rung.data.batches import Dataset
from rung.data.collate import collate
from rung.data.records import Encoded
from rung.errors import ConfigError
from rung.heads import fresh_head, load_critic, zero_head
from rung.models import check_tokens, frozen, load_model, num_positions, placed, starts_equal, with_adapter
from rung.optimizers import find_optimizer, make_optimizer, make_schedule
from rung.policy import Policy
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
from rung.stage_data import encode_examples, open_rewards, read_examples, resolved


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
    ranks: Ranks,
    given: Given = NOTHING_GIVEN,
    quarantine: Path | None = None,
) -> Stage:
    """Loads the model, reads the data and makes everything ready.

    `config` is resolved: no `auto` is left in it. `start`, `reference` and `critic` are what `load_model` takes; no
    reference means the weights at the start, no critic a head on the policy. Bad rows may go to the file `quarantine`;
    None writes nothing. Raises UserError for whatever cannot work, before any training.
    """
    seed = path.seed_of(config)
    torch.manual_seed(seed)  # for the weights of fresh adapters and heads
    algorithm = given.algorithm or find_algorithm(config.algorithm, path.base)
    check_needs(algorithm, config)
    examples, report = read_examples(algorithm, config, path, given.rows, quarantine=quarantine)
    model, tokenizer = given.model or load_model(start, seed=seed)
    for role, location in (("reference", reference), ("critic", critic)):
        if location is not None:
            check_tokens(location, tokenizer, role)
    encoded, held_out = encode_examples(algorithm, config, examples, tokenizer, report, num_positions(model))
    policy = open_policy(algorithm, config, model, reference, ranks)
    add_heads(policy, algorithm, critic, tokenizer)
    if "prompts" in algorithm.requires():
        rewards = open_rewards(config, path, encoded, given.rewards, tokenizer=tokenizer)
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
        temperature=config.rollout.temperature if "prompts" in algorithm.requires() else 1.0,
        token_budget=resolved(config.token_budget),
        ranks=ranks,
    )
    if not refers:
        return policy
    policy.reference_is_start = reference is None
    if reference is not None:
        policy.reference = frozen(placed(load_model(reference)[0]))
    elif adapter is None:
        policy.reference = policy.snapshot()
    elif before is not None:
        policy.reference = frozen(placed(before))
    return policy


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

    A critic that nothing asks for, a reference that a random adapter starts away from, fewer examples a step than the
    loss needs, a correction for a sampler that needs none.
    """
    if "sampled_logps" in algorithm.requires():
        what = f"stage `{config.name}` corrects for its sampler, which is the policy itself: every weight would be 1"
        raise ConfigError(what, "leave `importance_sampling_correction` out; it is for a sampler of your own")
    if config.critic is not None and "values" not in algorithm.requires():
        what = f"stage `{config.name}` has a `critic`, and algorithm `{algorithm.name}` reads no values"
        raise ConfigError(what, "remove `critic`, or take an algorithm that has one")
    unset = config.adapter is not None and config.adapter.lora.get("init_lora_weights") is False
    if unset and "reference" in algorithm.requires():
        what = f"stage `{config.name}`: `init_lora_weights: false` starts at other weights than the reference"
        raise ConfigError(what, "leave it out: a fresh adapter then changes nothing")
    if isinstance(config.batch_size, int) and config.batch_size < algorithm.least_batch_size:
        what = f"stage `{config.name}`: `batch_size` {config.batch_size}, and `{algorithm.name}` compares rows"
        raise ConfigError(what, f"give at least {algorithm.least_batch_size}")


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
        sampler=LocalSampler(policy.model, tokenizer),
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

"""Builds a `Stage` from its settings: model, reference, data, batch source and optimizer."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rung.algorithm import Algorithm
from rung.config import StageConfig, TokenBatch
from rung.config.schema import UPDATED_REFERENCES
from rung.data.batches import Dataset
from rung.data.collate import collate
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy, ReferenceUpdate
from rung.models.heads import fresh_head, load_critic, zero_head
from rung.models.load import check_same_tokenizer, freeze, load_model, num_positions, to_device, tokenizer_fingerprint
from rung.models.lora import keeps_base_weights, with_adapter
from rung.models.quantization import quantize
from rung.models.reward_model import check_can_be_reward_model
from rung.models.stops import stop_ids
from rung.models.vocabulary import check_special_tokens, ignore_unused_rows, num_embeddings
from rung.pipeline.agents import build_agent
from rung.pipeline.stage_data import StageData, check_ids, check_positions, read_stage_data
from rung.pipeline.stage_rewards import build_rewards
from rung.pipeline.stage_settings import StageSettings, resolved
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.samplers import SAMPLERS
from rung.rollout.source import RolloutSource
from rung.training.batch_source import BatchSource, DatasetSource
from rung.training.optimizers import find_optimizer, make_optimizer, make_schedule
from rung.training.rng_state import seed_all
from rung.training.stage import Stage

HELD_OUT_BATCH = 64  # rows per held-out batch


def build_stage(
    settings: StageSettings,
    *,
    start: str,
    reference: str | None,
    critic: str | None = None,
    teacher: str | None = None,
    ranks: Ranks,
    model: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    data: StageData | None = None,
) -> Stage:
    """Builds a stage that is ready to train: loads the models, reads the data, and makes the optimizer and schedule.

    `start`, `reference`, `critic` and `teacher` are locations for `load_model`. If `reference` is None, the policy's
    initial weights are the reference; if `critic` is None, the critic is a value head on the policy. `model` (a model
    and its tokenizer) is used in place of the one at `start`. `data` is used only if it was encoded with the tokenizer
    of the model; otherwise the data are read again. Raises UserError for every mistake that can be found before
    training.
    """
    config, algorithm = settings.config, settings.algorithm
    seed_all(settings.seed)  # for the initial weights of new adapters and heads, and for code of the user
    loaded, tokenizer = model or load_model(start, seed=settings.seed)
    ignore_unused_rows(loaded, tokenizer)
    check_special_tokens(loaded, tokenizer)
    for role, location in (("reference", reference), ("critic", critic), ("teacher", teacher)):
        if location is not None:
            check_same_tokenizer(location, tokenizer, role)
    if data is None or data.tokenizer != tokenizer_fingerprint(tokenizer):
        data = read_stage_data(settings, tokenizer, stop_ids(loaded, tokenizer))
    check_positions(settings, data.all, num_positions(loaded))
    check_ids(data.all, num_embeddings(loaded), tokenizer)
    policy = build_policy(settings, loaded, start=start, reference=reference, ranks=ranks)
    add_heads(policy, algorithm, critic, tokenizer)
    if teacher is not None:
        policy.teacher = freeze(to_device(load_model(teacher)[0]))
        check_positions(settings, data.all, num_positions(policy.teacher), "teacher")
    if ranks.sharded:
        policy.shard()
    build_source = build_rollout_source if settings.samples else build_dataset_source
    source, steps_per_epoch = build_source(settings, policy, tokenizer, data, ranks)
    total_steps = total_steps_of(config, steps_per_epoch)
    optimizer = make_optimizer(
        find_optimizer(config.optimizer, settings.base),
        policy.named_parameters(),
        hidden=policy.hidden_matrices(),
        learning_rate=resolved(config.learning_rate),
        weight_decay=config.weight_decay,
    )
    schedule = make_schedule(
        config.lr_scheduler_type, optimizer, warmup_steps=config.warmup_steps, total_steps=total_steps
    )
    held_out = range(0, len(data.held_out), HELD_OUT_BATCH)
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
        report=data.report,
        max_empty_steps=config.max_empty_steps,
        held_out=[collate(data.held_out[i : i + HELD_OUT_BATCH], pad_id=_pad_id(tokenizer)) for i in held_out],
    )


def total_steps_of(config: StageConfig, steps_per_epoch: float) -> int:
    """The number of optimizer steps of a stage: `max_steps`, or `num_train_epochs` epochs, by default one."""
    return config.max_steps or math.ceil(steps_per_epoch * (config.num_train_epochs or 1))


def build_policy(
    settings: StageSettings, model: PreTrainedModel, *, start: str, reference: str | None, ranks: Ranks
) -> Policy:
    """The policy with its adapter and, if the algorithm needs one, a reference model.

    `reference` is the location of the reference; None stands for the weights of `model`.
    """
    config = settings.config
    adapter = config.adapter
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    if adapter is not None and adapter.load_in_4bit:
        kept = adapter.lora.get("modules_to_save") or ()
        model = quantize(model, kept=kept, dtype=dtype, start=start, seed=settings.seed)
    needs_reference = "reference" in settings.algorithm.needs()
    changes_base = adapter is not None and not keeps_base_weights(adapter.lora)
    before = deepcopy(model) if needs_reference and reference is None and changes_base else None
    policy = Policy(
        to_device(with_adapter(model, adapter.lora) if adapter else model),
        sampling=settings.sampling(),
        token_budget=resolved(config.token_budget),
        precision="bf16" if config.precision == "bf16" else "fp32",
        ranks=ranks,
    )
    if not needs_reference:
        return policy
    policy.reference_is_start = reference is None
    policy.reference_update = reference_update(config)
    if reference is not None:
        policy.reference = freeze(to_device(load_model(reference)[0]))
    elif adapter is None or policy.reference_update is not None:
        policy.reference = policy.snapshot()
    elif before is not None:
        policy.reference = freeze(to_device(before))
    return policy


def reference_update(config: StageConfig) -> ReferenceUpdate | None:
    """How the reference of a stage is updated; None if it is fixed. The defaults are those of TR-DPO and TRL."""
    if config.reference not in UPDATED_REFERENCES:
        return None
    share = 1.0 if config.reference == "sync" else config.ref_model_mixup_alpha or 0.6
    return ReferenceUpdate(config.ref_model_sync_steps or 512, share)


def add_heads(policy: Policy, algorithm: Algorithm, critic: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds the heads that the algorithm needs and, if `critic` is the location of a model, a separate critic.

    A score head is initialised with std 1/sqrt(H + 1) for hidden size H, as in Stiennon et al. 2020 (arXiv 2009.01325).
    A value head is initialised with 0 or, if the critic is initialised from a reward model, with the head of that
    model. Raises ConfigError for a model that cannot be saved as a reward model.
    """
    needs = algorithm.needs()
    if "score_head" in needs:
        check_can_be_reward_model(policy.causal_lm.config, tokenizer)
        policy.score_head = fresh_head(policy.causal_lm)
    if "values" in needs:
        policy.critic, head = (None, None) if critic is None else load_critic(critic)
        policy.value_head = head or zero_head(policy.causal_lm if policy.critic is None else policy.critic)
    for head in (policy.score_head, policy.value_head):
        if head is not None:
            head.to(policy.device)


def build_dataset_source(
    settings: StageSettings, policy: Policy, tokenizer: PreTrainedTokenizerBase, data: StageData, ranks: Ranks
) -> tuple[BatchSource, float]:
    """The source of batches from a data set, and the number of optimizer steps per epoch."""
    size = settings.config.batch_size
    batch_size = {"tokens": size.tokens} if isinstance(size, TokenBatch) else resolved(size)
    dataset = Dataset(data.train, batch_size=batch_size, seed=settings.seed, pad_id=_pad_id(tokenizer), ranks=ranks)
    return DatasetSource(dataset, settings.algorithm, policy), dataset.steps_per_epoch


def build_rollout_source(
    settings: StageSettings, policy: Policy, tokenizer: PreTrainedTokenizerBase, data: StageData, ranks: Ranks
) -> tuple[BatchSource, float]:
    """The source of batches sampled from the policy, and the number of optimizer steps per epoch of the prompts."""
    rollout, updates = settings.config.rollout, settings.config.updates
    assert policy.sampling is not None, "a stage that samples has sampling settings"
    make_sampler = SAMPLERS.find(rollout.sampler, settings.base)
    size, minibatches, epochs = resolved(rollout.batch_size), resolved(updates.minibatches), resolved(updates.epochs)
    steps_per_epoch = len(data.train) / size * minibatches * epochs
    sampler = make_sampler(policy.model, tokenizer, training_dtype=policy.dtype)
    generator = Generator(
        sampler=sampler,
        sampling=policy.sampling,
        key=Key(settings.seed, settings.name, "rollout"),
        samples=settings.algorithm.samples_per_prompt(),
        rewards=build_rewards(settings, data.train, tokenizer),
        tokenizer=tokenizer,
        keeps_separate_rewards="separate_rewards" in settings.algorithm.needs(),
        total_steps=total_steps_of(settings.config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        agent=build_agent(settings.toolbox, sampler, tokenizer, stop_ids(policy.causal_lm, tokenizer)),
    )
    source = RolloutSource(
        data.train,
        algorithm=settings.algorithm,
        policy=policy,
        generator=generator,
        batch_size=size,
        epochs=epochs,
        minibatches=minibatches,
        seed=settings.seed,
        ranks=ranks,
    )
    return source, steps_per_epoch


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int), "load_model gives every tokenizer a pad token"
    return pad

"""The training loop, which is the same for data sets and rollouts; the caller logs, evaluates and saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rung.algorithm import Algorithm
from rung.batch import Batch, Denominators, count_denominators
from rung.distributed.fsdp import full_tensor
from rung.distributed.ranks import Ranks
from rung.forward.memory import attempt, fits_all_ranks, sufficient_memory
from rung.forward.policy import Policy
from rung.metrics import Metric, Sum, decode, encode, merge
from rung.training.rng_state import remember

_TRAINED_ROWS = ""  # beside the names of terms
_NAMED = 3  # rows that a message names


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one optimizer step, over all ranks.

    `empty` is empty text for a step that was trained; otherwise it says why there was nothing to train. Such a step
    has a loss of 0 and leaves the weights and the state of the optimizer as they were.
    """

    loss: float
    terms: dict[str, float]
    grad_norm: float
    learning_rate: float
    stepped: bool  # False if the weights were not updated: loss or gradient was not finite, or the step was empty
    num_tokens: int  # attended completion tokens
    metrics: dict[str, Metric]  # with their denominators, so that those of several steps can be merged
    empty: str = ""


def steps(
    policy: Policy,
    algorithm: Algorithm,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    schedule: LRScheduler,
    *,
    ranks: Ranks,
    max_grad_norm: float,
) -> Iterator[Step]:
    """Takes one optimizer step on each of the batches from a `BatchSource`, and yields the results.

    A batch in which no rank has anything to train gives an empty step: the schedule advances, and nothing else changes.
    So does a step that is skipped, because a loss or the norm of the gradient is not finite on some rank. Raises
    MemoryLimitError if the smallest parts of a step do not fit into memory.
    """
    parameters = policy.parameters
    for batch in batches:
        denominators, empty = step_denominators(algorithm, batch, ranks)
        learning_rate = optimizer.param_groups[0]["lr"]
        if empty:
            _advance(schedule)
            tokens = int(ranks.sum({"tokens": batch.lengths.sum()})["tokens"])
            yield Step(0.0, dict.fromkeys(denominators, 0.0), 0.0, learning_rate, False, tokens, {}, empty)
            continue
        active = batch.select(algorithm.active_rows(batch))
        terms, measured = _accumulate_gradients(policy, algorithm, active, denominators, optimizer, ranks)
        with sufficient_memory("the gradients and the state of the optimizer"):
            ranks.sum_gradients(parameters)
            norm = full_tensor(clip_grad_norm_(parameters, max_grad_norm))
            finite = bool(torch.isfinite(norm)) and all(map(math.isfinite, terms.values()))
            if stepped := ranks.agree(finite):
                optimizer.step()
            else:
                optimizer.zero_grad(set_to_none=True)
        _advance(schedule)
        sums = ranks.sum({name: torch.tensor(total) for name, total in terms.items()})
        means = {name: float(total / denominators[name]) for name, total in sums.items()}
        counted = merge([{"num_tokens": Sum(float(batch.lengths.sum()))}, measured])
        metrics = merge(decode(metrics) for metrics in ranks.gather(encode(counted)))
        tokens = int(metrics.pop("num_tokens").value() or 0)
        yield Step(sum(means.values()), means, float(norm), learning_rate, stepped, tokens, metrics)


def _accumulate_gradients(
    policy: Policy,
    algorithm: Algorithm,
    batch: Batch,
    denominators: Denominators,
    optimizer: Optimizer,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, Metric]]:
    """Adds the gradients of all parts of a step; returns the sums of the loss terms and the metrics of this rank.

    If memory runs out on any rank, all of them do the step again, with the same random state and smaller parts.
    """
    restore_random_state = remember()
    while True:
        optimizer.zero_grad(set_to_none=True)
        made = attempt(lambda: _run_parts(policy, algorithm, batch, denominators))
        fits = fits_all_ranks(policy, batch, algorithm.keep_together, ranks, fits=made is not None)
        if made is not None and fits:
            return made[0]
        restore_random_state()


def _run_parts(
    policy: Policy, algorithm: Algorithm, batch: Batch, denominators: Denominators
) -> tuple[dict[str, float], dict[str, Metric]]:
    """Runs the parts of a step forward and backward."""
    terms: dict[str, float] = dict.fromkeys(denominators, 0.0)
    measured: dict[str, Metric] = {}
    for part, outputs in policy.parts(batch, algorithm):
        loss = algorithm.loss(part, outputs)
        loss.over(denominators).backward()
        terms = {name: total + float(loss.terms[name].detach()) for name, total in terms.items()}
        measured = merge([measured, loss.metrics])
    return terms, measured


def step_denominators(algorithm: Algorithm, batch: Batch, ranks: Ranks) -> tuple[Denominators, str]:
    """The denominators of the loss terms for a whole step: summed over all ranks, except constants.

    The second result is empty text or, if the step has nothing to train, says so and names its first rows: a
    denominator is 0, or no row has a trained token. All ranks return the same text.
    """
    terms = algorithm.terms()
    counted = count_denominators(terms, batch)
    rows = batch.loss_mask.any(1).sum() if algorithm.reads_logps else torch.tensor(batch.num_rows)
    *totals, trained = ranks.sum({**counted, _TRAINED_ROWS: rows}).values()
    summed = dict(zip(counted, totals, strict=True))
    denominators = {name: counted[name] if isinstance(terms[name], int | float) else summed[name] for name in terms}
    zero = next((name for name, total in denominators.items() if not total > 0), None)
    if zero is None and trained > 0:
        return denominators, ""
    first = [row for share in ranks.gather(list(batch.row_ids[:_NAMED])) for row in share][:_NAMED]
    what = "no row has a trained token" if zero is None else f"the denominator of `{zero}` is 0"
    return denominators, f"{what} (first rows: {', '.join(first)})" if first else what


def _advance(schedule: LRScheduler) -> None:
    with warnings.catch_warnings():
        # torch takes a first step that leaves the optimizer out for a wrong order of the two calls
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        schedule.step()

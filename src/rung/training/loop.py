"""The training loop, which is the same for data sets and rollouts; the caller logs, evaluates and saves."""

from __future__ import annotations

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
from rung.errors import DataError
from rung.forward.policy import Policy
from rung.metrics import Metric, Sum, decode, encode, merge


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one optimizer step, over all ranks."""

    loss: float
    terms: dict[str, float]
    grad_norm: float
    learning_rate: float
    stepped: bool  # False if the gradient was not finite and the weights were not updated
    num_tokens: int  # attended completion tokens
    metrics: dict[str, Metric]  # with their denominators, so that those of several steps can be merged


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

    Raises DataError for a step in which there is nothing to train, that is, in which a denominator is 0.
    """
    parameters = policy.parameters
    for batch in batches:
        denominators = step_denominators(algorithm, batch, ranks)
        optimizer.zero_grad(set_to_none=True)
        terms: dict[str, float] = dict.fromkeys(denominators, 0.0)
        measured: dict[str, Metric] = {"num_tokens": Sum(float(batch.lengths.sum()))}
        for part, outputs in policy.parts(batch.select(algorithm.active_rows(batch)), algorithm):
            loss = algorithm.loss(part, outputs)
            loss.over(denominators).backward()
            terms = {name: total + float(loss.terms[name].detach()) for name, total in terms.items()}
            measured = merge([measured, loss.metrics])
        ranks.sum_gradients(parameters)
        norm = full_tensor(clip_grad_norm_(parameters, max_grad_norm))
        learning_rate = optimizer.param_groups[0]["lr"]
        if stepped := ranks.agree(bool(torch.isfinite(norm))):
            optimizer.step()
        schedule.step()
        sums = ranks.sum({name: torch.tensor(total) for name, total in terms.items()})
        means = {name: float(total / denominators[name]) for name, total in sums.items()}
        metrics = merge(decode(metrics) for metrics in ranks.gather(encode(measured)))
        tokens = int(metrics.pop("num_tokens").value() or 0)
        yield Step(sum(means.values()), means, float(norm), learning_rate, stepped, tokens, metrics)


def step_denominators(algorithm: Algorithm, batch: Batch, ranks: Ranks) -> Denominators:
    """The denominators of the loss terms for a whole step: summed over all ranks, except constants.

    Raises DataError, naming the first rows of the step, if a denominator is 0.
    """
    terms = algorithm.terms()
    counted = count_denominators(terms, batch)
    summed = ranks.sum(counted)
    denominators = {name: counted[name] if isinstance(terms[name], int | float) else summed[name] for name in terms}
    for name, total in denominators.items():
        if not total > 0:
            rows = ", ".join(batch.row_ids[:3])
            raise DataError(
                f"there is nothing to train in this step: the denominator of `{name}` is 0 (first rows: {rows})",
                "check the rows of this step: each is masked, truncated or without a reward",
            )
    return denominators

"""Every algorithm learns: a random model of two layers, a rule that shows on what was never trained on, three seeds.

Text is learnt from completions that follow from their prompt. Pairs and labelled answers are words, good ones of the
letters a to m. Samples are rewarded for lower-case letters, and their teacher is another random model.
"""

from collections.abc import Iterator
from math import sqrt
from random import Random
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pytest
import torch

import rung
from helpers.certificate import Certify
from rung.config.algorithms import algorithm_names, make_algorithm
from rung.metrics import merge, values
from rung.training.early_stopping import validation_loss
from rung.training.stage import Stage

NAMES = [name for name in algorithm_names() if make_algorithm(name).data_kind()]
SEEDS = range(3)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SAMPLES = 48  # a rollout, of however many prompts
ROLLOUTS = 6


class Learnt(NamedTuple):
    """A number before and after training, and how far it had to go at least."""

    what: str
    before: float
    after: float
    least: float

    @property
    def gain(self) -> float:
        """How much of what was asked for has been learnt; 1 is enough."""
        return (self.after - self.before) / (self.least - self.before)


def texts() -> list[dict[str, Any]]:
    return [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in range(120)]


def pairs() -> list[dict[str, Any]]:
    random = Random(0)

    def word(letters: str) -> str:
        return "".join(random.choices(letters, k=4))

    return [{"prompt": f"word {i}", "chosen": word(LETTERS[:13]), "rejected": word(LETTERS[13:])} for i in range(120)]


def lower(completions: list[str], **columns: Any) -> list[float]:
    """The share of lower-case letters."""
    return [sum(letter in LETTERS for letter in text) / max(len(text), 1) for text in completions]


def held_out(stage: Stage) -> dict[str, float]:
    """What the loss tells of the rows that are not trained on."""
    seen = []
    with torch.no_grad():
        for batch in stage.held_out:
            prepared = stage.algorithm.prepare(batch, stage.policy)
            seen += [stage.algorithm.loss(*both).metrics for both in stage.policy.parts(prepared, stage.algorithm)]
    return {name: value for name, value in values(merge(seen)).items() if value is not None}


def trained(name: str, seed: int, data: list[dict[str, Any]], **settings: Any) -> Stage:
    return rung.train(name, model="tiny:llama", data=data, seed=seed, lr_scheduler_type="constant", **settings)


def offline(name: str, seed: int, data: list[dict[str, Any]], steps: int) -> Stage:
    settings = {"batch_size": 16, "max_steps": steps, "learning_rate": 1e-2, "early_stopping": {}}
    return trained(name, seed, data, **settings)


def of_text(name: str, seed: int) -> Learnt:
    """The loss of held-out rows falls to less than half."""
    stage = offline(name, seed, texts(), 16)

    def loss() -> float:
        return validation_loss(stage.policy, stage.algorithm, stage.held_out, stage.ranks)

    before = loss()
    list(stage)
    return Learnt("held-out loss", before, loss(), before / 2)


def of_pairs(name: str, seed: int) -> Learnt:
    """Of held-out pairs nine in ten come out in order, which they did not before."""
    stage = offline(name, seed, pairs(), 12)
    key = "accuracy" if "score_head" in stage.algorithm.needs() else "rewards/accuracies"
    before = held_out(stage)[key]
    assert before < 0.9
    list(stage)
    return Learnt("held-out pairs in order", before, held_out(stage)[key], 0.9)


def of_labels(name: str, seed: int) -> Learnt:
    """Held-out answers that are good are worth half a nat more than bad ones, which are equal at the reference."""
    stage = offline(name, seed, pairs(), 12)

    def margin() -> float:
        seen = held_out(stage)
        return seen["rewards/chosen"] - seen["rewards/rejected"]

    before = margin()
    list(stage)
    return Learnt("held-out margin", before, margin(), 0.5)


def rollouts(stage: Stage) -> Iterator[list[float]]:
    """The rewards of each rollout."""
    for _ in stage:
        table = stage.source.pop_report()[1]
        if table:
            yield [row["reward"] for row in table]


def bound(rewards: list[float], side: int) -> float:
    """An end of the 95 % interval of a mean."""
    return fmean(rewards) + side * 1.96 * stdev(rewards) / sqrt(len(rewards))


def sampling(name: str, seed: int, **settings: Any) -> Stage:
    size = SAMPLES // make_algorithm(name).samples_per_prompt()
    return trained(
        name,
        seed,
        [{"prompt": f"number {i}"} for i in range(SAMPLES)],
        rollout={"batch_size": size, "max_completion_length": 4},
        updates={"epochs": 1, "minibatches": 2},
        max_steps=2 * ROLLOUTS,
        learning_rate=2e-2,
        **settings,
    )


def of_samples(name: str, seed: int) -> Learnt:
    """The reward of a rollout doubles, and the intervals of the first and the last one are apart."""
    first, *_, last = rollouts(sampling(name, seed, rewards=lower))
    assert bound(last, -1) > bound(first, 1)
    return Learnt("reward", fmean(first), fmean(last), 2 * fmean(first))


def of_a_teacher(name: str, seed: int) -> Learnt:
    """The divergence from the teacher halves."""
    losses = [step.loss for step in sampling(name, seed, teacher="tiny:qwen3")]
    return Learnt("divergence", losses[0], losses[-1], losses[0] / 2)


def learnt(name: str, seed: int) -> Learnt:
    algorithm = make_algorithm(name)
    if "teacher" in algorithm.needs():
        return of_a_teacher(name, seed)
    kinds = {"text": of_text, "unpaired": of_labels, "pairs": of_pairs, "prompts": of_samples}
    kind = algorithm.data_kind()
    assert kind is not None
    return kinds[kind](name, seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_learns(name: str, certify: Certify) -> None:
    least = min((learnt(name, seed) for seed in SEEDS), key=lambda seen: seen.gain)
    assert least.gain > 1, least
    certify.learnt(name, least.what, least.before, least.after)

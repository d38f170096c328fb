"""Early stopping: the best weights are a copy, misses are counted in a row, and the loss is that of one step."""

import torch

from helpers.edges import batch_of, tiny_policy, weights
from rung.algorithms.sft import SFT
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy
from rung.training.early_stopping import BestWeights, validation_loss


def shifted(policy: Policy, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.add_(by)


def test_the_best_weights_are_a_copy() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=2)
    before = weights(policy)
    best.record(1.0, policy)
    shifted(policy, 1.0)
    best.record(2.0, policy)
    best.restore(policy)
    after = weights(policy)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_better_loss_replaces_the_weights() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=2)
    best.record(2.0, policy)
    shifted(policy, 1.0)
    before = weights(policy)
    best.record(1.0, policy)
    shifted(policy, 1.0)
    best.restore(policy)
    after = weights(policy)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert best.loss == 1.0


def test_misses_are_counted_in_a_row() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=2)
    told = []
    for loss in (3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.5):
        best.record(loss, policy)
        told.append((best.loss, best.misses, best.exhausted))
    assert told == [
        (3.0, 0, False),
        (3.0, 1, False),
        (2.0, 0, False),
        (2.0, 1, False),
        (1.0, 0, False),
        (1.0, 1, False),
        (1.0, 2, True),
    ]


def test_a_loss_that_fell_by_the_threshold_alone_is_a_miss() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.5, patience=9)
    misses = []
    for loss in (2.0, 1.5, 1.25, 0.75, 0.5):
        best.record(loss, policy)
        misses.append((best.loss, best.misses))
    assert misses == [(2.0, 0), (2.0, 1), (1.25, 0), (1.25, 1), (0.5, 0)]


def test_its_state_comes_back() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=3)
    best.record(1.0, policy)
    best.record(2.0, policy)
    kept = weights(policy)
    shifted(policy, 1.0)
    again = BestWeights(threshold=0.0, patience=3)
    again.load_state_dict(best.state_dict())
    assert (again.loss, again.misses) == (1.0, 1)
    again.restore(policy)
    assert all(torch.equal(weights(policy)[name], weight) for name, weight in kept.items())


def test_before_an_evaluation_there_is_nothing_to_restore() -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=1)
    before = weights(policy)
    assert best.state_dict() == {"loss": None, "misses": 0, "weights": {}}
    again = BestWeights(threshold=0.0, patience=1)
    again.load_state_dict(best.state_dict())
    assert again.loss == float("inf")
    again.restore(policy)
    assert all(torch.equal(weights(policy)[name], weight) for name, weight in before.items())


def test_the_validation_loss_weights_every_token_alike() -> None:
    """Batches of 1 and 5 trained tokens: the sum over all six, over 6, and no mean of the two means."""
    policy = tiny_policy()
    small, large = batch_of([([7, 8], [9])]), batch_of([([7, 9], [30, 31, 32]), ([5], [40, 41])])
    total = sum(-float(policy.logps(batch).sum()) for batch in (small, large))
    found = validation_loss(policy, SFT(), [small, large], Ranks())
    assert abs(found - total / 6) < 1e-5

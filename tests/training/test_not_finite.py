"""Losses and gradients that are not finite: they change nothing that is trained or kept, and are counted and told."""

from typing import Any

import pytest
import torch
from torch import Tensor

import rung
from helpers.edges import TEXTS, tiny_policy, weights
from rung.algorithms.sft import SFT
from rung.batch import Batch, Loss, Outputs
from rung.errors import NonFiniteError
from rung.forward.policy import ReferenceUpdate
from rung.training.early_stopping import BestWeights
from rung.training.run_state import flatten, unflatten
from rung.training.skipped_steps import SkippedSteps
from rung.training.stage import Stage
from rung.training.symptoms import Symptoms

REAL_LOSS = SFT.loss


def opened(**settings: Any) -> Stage:
    return rung.train("sft", model="tiny:llama", data=TEXTS, **{"max_steps": 8, "batch_size": 2, **settings})


def optimizer_state(stage: Stage) -> list[Tensor]:
    states = (stage.optimizer.state[parameter] for parameter in stage.policy.parameters)
    return [value.clone() for state in states for value in state.values()]


def spoil(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """From now on, the loss is spoilt in its value, its gradient or both."""

    def loss(self: SFT, batch: Batch, outputs: Outputs) -> Loss:
        whole = REAL_LOSS(self, batch, outputs)
        value = whole.terms["nll"] * 1.0
        if kind == "gradient":
            value.register_hook(lambda grad: grad * torch.inf)
        changed = {"both": value * torch.nan, "value": value - torch.inf, "gradient": value}[kind]
        return Loss({"nll": changed}, whole.metrics)

    monkeypatch.setattr(SFT, "loss", loss)


@pytest.mark.parametrize("kind", ["both", "value", "gradient"])
def test_a_skipped_step_changes_no_byte_of_weights_and_optimizer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the loss alone is not finite, whose gradient could be applied."""
    stage = opened()
    steps = iter(stage)
    next(steps)
    before, momentum = weights(stage.policy), optimizer_state(stage)
    spoil(monkeypatch, kind)
    step = next(steps)
    assert not step.stepped
    assert all(map(torch.equal, weights(stage.policy).values(), before.values()))
    assert all(map(torch.equal, optimizer_state(stage), momentum))
    assert all(parameter.grad is None for parameter in stage.policy.parameters)
    assert (stage.skipped.total, stage.skipped.in_a_row) == (1, 1)
    monkeypatch.setattr(SFT, "loss", REAL_LOSS)
    assert next(steps).stepped
    assert (stage.skipped.total, stage.skipped.in_a_row) == (1, 0)


def test_one_percent_is_the_limit_of_single_skipped_steps() -> None:
    """3 of 300 steps are 1 %, and 3 of 299 are more."""
    for bad, steps in ((3, 300), (4, 401)):
        allowed = SkippedSteps()
        for number in range(1, steps + 1):
            allowed.count(number, stepped=number % 99 != 1 or number > 99 * bad)
        assert allowed.total == bad
        allowed.check("here")
    allowed.count(402, stepped=False)
    with pytest.raises(NonFiniteError, match="here: the loss or gradient was not finite in 5 of 402 steps"):
        allowed.check("here")


def test_two_skipped_steps_are_never_too_many() -> None:
    allowed = SkippedSteps()
    for number in (1, 2):
        allowed.count(number, stepped=False)
    allowed.check("here")


def test_the_counts_survive_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved after the third skipped step: the stage that goes on does not take another one first."""
    stage = opened()
    steps = iter(stage)
    next(steps)
    spoil(monkeypatch, "both")
    for _ in range(3):
        next(steps)
    again = opened()
    again.load(unflatten(*flatten(stage.state())))
    assert again.skipped == stage.skipped
    assert (again.skipped.total, again.skipped.last_updated) == (3, 1)
    with pytest.raises(NonFiniteError, match="step 4: no finite loss and gradient in 3 consecutive steps"):
        next(iter(again))
    assert again.step == 4


def test_a_checkpoint_without_counts_is_read() -> None:
    stage = opened()
    state = stage.state()
    for key in ("skipped", "token_budget", "empty_steps"):
        del state[key]
    stage.load(state)
    assert stage.skipped == SkippedSteps()


def test_a_rollback_restores_what_was_trained_and_goes_on_with_the_next_data() -> None:
    stage = opened(optimizer="adamw", learning_rate=1e-2, lr_scheduler_type="linear")
    steps = iter(stage)
    for _ in range(2):
        next(steps)
    saved = {name: value.clone() for name, value in weights(stage.policy).items()}
    momentum = optimizer_state(stage)
    tensors, values = flatten(stage.state())
    kept = unflatten({name: tensor.clone() for name, tensor in tensors.items()}, values)
    for _ in range(3):
        next(steps)
    rate, place = stage.optimizer.param_groups[0]["lr"], stage.source.state_dict()
    stage.roll_back(kept)
    assert all(map(torch.equal, weights(stage.policy).values(), saved.values()))
    assert all(map(torch.equal, optimizer_state(stage), momentum))
    assert (stage.step, stage.skipped.rollbacks) == (5, 1)
    assert stage.optimizer.param_groups[0]["lr"] == rate
    assert stage.source.state_dict() == place
    assert [step.stepped for step in stage] == [True] * 3


def test_a_rollback_to_before_the_first_update_empties_the_optimizer() -> None:
    stage = opened()
    start = stage.state()
    next(iter(stage))
    stage.roll_back(start)
    assert not any(stage.optimizer.state.get(parameter) for parameter in stage.policy.parameters)


def test_weights_that_the_last_step_made_infinite_are_an_error() -> None:
    stage = opened(max_steps=1)
    steps = iter(stage)
    assert next(steps).stepped
    with torch.no_grad():
        stage.policy.parameters[0].view(-1)[0] = torch.inf
    with pytest.raises(NonFiniteError, match="step 1: the weights are not finite"):
        next(steps)


def test_a_moving_reference_does_not_follow_weights_that_are_not_finite() -> None:
    policy = tiny_policy(reference_update=ReferenceUpdate(every=1, share=0.5))
    policy.reference = policy.snapshot()
    before = [parameter.clone() for parameter in policy.reference.parameters()]
    with torch.no_grad():
        policy.parameters[-1].view(-1)[0] = torch.inf
    policy.update_reference(1)
    assert all(map(torch.equal, policy.reference.parameters(), before))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_validation_loss_that_is_not_finite_is_never_the_best(loss: float) -> None:
    policy, best = tiny_policy(), BestWeights(threshold=0.0, patience=3)
    best.record(loss, policy)
    assert (best.misses, best.weights) == (1, {})
    best.record(2.0, policy)
    best.record(loss, policy)
    assert (best.loss, best.misses) == (2.0, 1)


def test_the_first_skipped_step_is_told_and_the_summary_counts_them() -> None:
    symptoms = Symptoms(100)
    assert symptoms.observe(1, {"loss": 1.0}) == []
    (words,) = symptoms.observe(2, {"loss": float("nan"), "skipped_steps": 1.0})
    assert words.startswith("step 2 is skipped, because its loss or gradient is not finite; ")
    assert symptoms.observe(3, {"loss": None, "skipped_steps": 2.0}) == []
    (words,) = symptoms.summary()
    assert words.endswith("(2 in all)")


@pytest.mark.parametrize("loss", [float("nan"), None])
def test_a_validation_loss_that_is_not_finite_is_told(loss: float | None) -> None:
    """It is NaN in a running stage, and null in the metrics.jsonl that a resumed one reads."""
    (words,) = Symptoms(9).observe(4, {"eval_loss": loss})
    assert words.startswith("step 4: the loss on the held-out rows is not finite; ")


def test_losses_that_are_not_finite_do_not_count_as_a_loss_that_stays() -> None:
    symptoms = Symptoms(100)
    assert not [words for step in range(1, 60) for words in symptoms.observe(step, {"loss": float("nan")})]

"""A reference that moves: TR-DPO (2404.09656) by its two rules, exact on a resumed stage."""

from typing import Any

import pytest
import torch

import rung
from rung.training.run_state import flatten, unflatten
from rung.training.stage import Stage

ROWS = [{"prompt": f"number {i}", "chosen": str(i), "rejected": "none"} for i in range(8)]


def opened(**settings: Any) -> Stage:
    return rung.train("dpo", model="tiny:llama", data=ROWS, batch_size=4, learning_rate=1e-3, max_steps=6, **settings)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.maths
def test_ema_takes_its_share_of_the_policy_every_so_many_steps() -> None:
    """After two steps: reference = 0.25 policy + 0.75 start; in between it stays."""
    stage = opened(reference="ema", ref_model_sync_steps=2, ref_model_mixup_alpha=0.25)
    start = weights(stage.policy.model)
    steps = iter(stage)
    assert stage.policy.reference is not None
    next(steps)
    for name, weight in weights(stage.policy.reference).items():
        assert torch.equal(weight, start[name])
    next(steps)
    live = weights(stage.policy.model)
    for name, weight in weights(stage.policy.reference).items():
        torch.testing.assert_close(weight, 0.25 * live[name] + 0.75 * start[name])


@pytest.mark.parametrize("adapter", [None, {"lora": {"r": 4}}])
def test_after_a_sync_the_loss_is_that_of_a_first_step(adapter: dict[str, Any] | None) -> None:
    stage = opened(reference="sync", ref_model_sync_steps=3, adapter=adapter)
    losses = [step.loss for step in stage]
    for fresh in (0, 3):
        assert losses[fresh] == pytest.approx(0.6931472, abs=1e-6)
    assert all(abs(loss - 0.6931472) > 1e-4 for loss in (*losses[1:3], *losses[4:]))


@pytest.mark.parametrize("reference", ["ema", "sync"])
def test_a_resumed_stage_has_the_reference_of_before(reference: str) -> None:
    settings = {"reference": reference, "ref_model_sync_steps": 2}
    uninterrupted, stopped, resumed = (opened(**settings) for _ in range(3))
    wanted = [step.loss for step in uninterrupted]
    first = [step.loss for _, step in zip(range(3), stopped, strict=False)]
    resumed.load(unflatten(*flatten(stopped.state())))
    assert first + [step.loss for step in resumed] == wanted

"""Pairs without a reference: `orpo`, `simpo` and `cpo` by hand, against TRL's own trainers, and learning."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import exp, log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.losses import assert_same, batch_and_logps, ours, theirs
from helpers.table_model import LAYOUTS, batch_of_answers, policy_with_values, summed_losses
from helpers.trl import same
from rung.algorithm import Algorithm
from rung.algorithms.cpo import CPO
from rung.algorithms.orpo import ORPO
from rung.algorithms.simpo import SimPO
from rung.batch import Batch, count_denominators
from rung.forward.planner import Layout

CHOSEN = {"pa": exp(-0.7), "ab": exp(-0.1)}  # `ab` behind p: mean -.4, sum -.8
Loss = Callable[[torch.Tensor], torch.Tensor]


def shares(made: Algorithm, layout: Layout, table: dict[str, float], *rows: tuple[str, str]) -> dict[str, float]:
    """Each term of a step over its denominator."""
    policy = policy_with_values(layout, table, {}, {})
    batch = batch_of_answers(*rows)
    denominators = count_denominators(made.terms(), batch)
    return {name: total / float(denominators[name]) for name, total in summed_losses(made, policy, batch).items()}


@pytest.mark.maths
@LAYOUTS
def test_simpo_compares_means_over_tokens(layout: Layout, certify: Certify) -> None:
    """Golden 22. a = (-.4, -1), beta 2, gamma 1: -log sigma(1.2 - 1) = .598139. With alpha .5: + .5 x .8 / 2."""
    table = {**CHOSEN, "pb": exp(-1)}
    rows = (("p", "ab"), ("p", "b"))
    assert shares(SimPO(), layout, table, *rows) == {"pairs": pytest.approx(0.598139, abs=1e-5)}
    found = shares(SimPO(cpo_alpha=0.5), layout, table, *rows)
    assert found == {"pairs": pytest.approx(0.598139, abs=1e-5), "nll": pytest.approx(0.2, abs=1e-5)}
    certify("simpo", "golden", found, {"pairs": 0.598139, "nll": 0.2})


@pytest.mark.maths
@LAYOUTS
def test_orpo_adds_the_odds_to_the_likelihood_of_the_chosen_completion(layout: Layout, certify: Certify) -> None:
    """Golden 22. a = (-.5, -1): log odds .974077, term .320300, times beta .1; NLL .5 a token of the chosen row alone.

    log odds: -.5 - ln(1 - e^-.5) + 1 + ln(1 - e^-1) = .432752 + .541325.
    """
    table = {"pa": exp(-0.5), "ab": exp(-0.5), "pb": exp(-1)}
    found = shares(ORPO(), layout, table, ("p", "ab"), ("p", "b"))
    assert found == {"nll": pytest.approx(0.5, abs=1e-5), "odds": pytest.approx(0.0320300, abs=1e-6)}
    certify("orpo", "golden", found, {"nll": 0.5, "odds": 0.0320300})


@pytest.mark.maths
@LAYOUTS
@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ({}, 0.683197),
        ({"label_smoothing": 0.1}, 0.685197),
        ({"loss_type": "hinge"}, 0.98),
        ({"loss_type": "ipo"}, (0.6 - 5) ** 2),
    ],
    ids=["sigmoid", "smoothed", "hinge", "ipo"],
)
def test_cpo_compares_sums_over_tokens(layout: Layout, given: dict[str, Any], loss: float, certify: Certify) -> None:
    """s = (-.8, -1), beta .1: -log sigma(.02) = .683197, 1 - .02; ipo of means (-.4 + 1 - 5)^2. NLL .8 over 2 tokens.

    Smoothed by .1: .9 x .683197 + .1 x .703197.
    """
    found = shares(CPO.model_validate(given), layout, {**CHOSEN, "pb": exp(-1)}, ("p", "ab"), ("p", "b"))
    assert found == {"pairs": pytest.approx(loss, abs=1e-5), "nll": pytest.approx(0.4, abs=1e-5)}
    certify("cpo", "golden", found, {"pairs": loss, "nll": 0.4})


def logits_of(ids: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
    """Logits (N, 1 + T, V) under which token t + 1 of a row has log-prob `logps[:, t]`; two tokens share the rest."""
    shape = (*ids.shape, 101)
    other = torch.full_like(ids, 100)
    logits = torch.full(shape, -1e4, dtype=logps.dtype)
    logits = logits.scatter(2, other[..., None], torch.log(-torch.expm1(logps))[..., None])
    logits = logits.scatter(2, ids[..., None], logps[..., None])
    return torch.cat([logits, logits[:, :1]], 1)


def trl_loss(trainer: Any, batch: Batch, **fields: Any) -> Loss:
    """The whole of `get_batch_loss_metrics` behind a model whose log-probs are the leaf."""

    def loss(logps: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(batch.num_groups, 1, dtype=torch.long)
        inputs: dict[str, torch.Tensor] = {}
        for side, first in (("chosen", 0), ("rejected", 1)):
            ids, attended, trained = (
                tensor[first::2] for tensor in (batch.completion_ids, batch.completion_mask, batch.loss_mask)
            )
            inputs[f"{side}_input_ids"] = torch.cat([ones, ids], 1)
            inputs[f"{side}_attention_mask"] = torch.cat([ones, attended.long()], 1)
            inputs[f"{side}_labels"] = torch.cat([-100 * ones, torch.where(trained, ids, -100)], 1)
        ids = torch.cat([batch.completion_ids[::2], batch.completion_ids[1::2]])
        logits = logits_of(ids, torch.cat([logps[::2], logps[1::2]]))
        me = SimpleNamespace(
            accelerator=SimpleNamespace(device="cpu", gather_for_metrics=same),
            is_encoder_decoder=False,
            padding_value=0,
            pad_token_id=0,
            aux_loss_enabled=False,
            concatenated_inputs=trainer.concatenated_inputs,
            get_batch_logps=trainer.get_batch_logps,
            **fields,
        )
        for name in ("concatenated_forward", "cpo_loss", "odds_ratio_loss"):
            if hasattr(trainer, name):
                setattr(me, name, partial(getattr(trainer, name), me))
        return trainer.get_batch_loss_metrics(me, lambda *_, **__: SimpleNamespace(logits=logits), inputs)[0]

    return loss


DTYPES = [torch.float32, torch.float64]


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(
    "made",
    [
        CPO(),
        CPO(label_smoothing=0.2, cpo_alpha=0.3),
        CPO(loss_type="hinge", beta=0.4),
        CPO(loss_type="ipo", cpo_alpha=0.0),
        SimPO(),
        SimPO(beta=1.5, simpo_gamma=0.3, cpo_alpha=0.7, label_smoothing=0.1),
    ],
    ids=["cpo", "cpo-smoothed", "cpo-hinge", "cpo-ipo", "simpo", "simpo+nll"],
)
def test_cpo_and_simpo_equal_trl(made: CPO | SimPO, dtype: torch.dtype, seed: int, certify: Certify) -> None:
    from trl.experimental.cpo import CPOTrainer

    batch, logps = batch_and_logps(seed, 2, dtype)
    loss = trl_loss(
        CPOTrainer,
        batch,
        alpha=0.0,
        beta=made.beta,
        label_smoothing=made.label_smoothing,
        cpo_alpha=made.cpo_alpha,
        loss_type=made.loss_type if isinstance(made, CPO) else "simpo",
        simpo_gamma=made.simpo_gamma if isinstance(made, SimPO) else 0.0,
    )
    certify(made.name, "oracle", *assert_same(ours(made, batch, logps), theirs(loss, batch, logps), dtype))


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_orpo_equals_trl_where_the_prompt_is_one_token(beta: float, seed: int, certify: Certify) -> None:
    """TRL trains the prompt's tokens too, of which a prompt of one token has none. It casts to float32."""
    from trl.experimental.orpo import ORPOTrainer

    batch, logps = batch_and_logps(seed, 2, torch.float32)
    both = assert_same(
        ours(ORPO(beta=beta), batch, logps),
        theirs(trl_loss(ORPOTrainer, batch, beta=beta), batch, logps),
        torch.float32,
    )
    certify("orpo", "oracle", *both)


@pytest.mark.oracle
def test_trl_trains_the_prompt_under_orpo_and_rung_does_not() -> None:
    """The first token of each row is the prompt's here: attended, no label. TRL raises it where the row is chosen."""
    from trl.experimental.orpo import ORPOTrainer

    batch, logps = batch_and_logps(0, 2, torch.float32)
    batch = batch.select((batch.lengths.view(-1, 2).amin(1) > 1).repeat_interleave(2))
    logps = logps[: batch.num_rows, : batch.completion_ids.shape[1]]
    prompt = torch.zeros_like(batch.loss_mask)
    prompt[:, 0] = True
    asked = replace(batch, loss_mask=batch.loss_mask & ~prompt)
    leaf = logps.clone().requires_grad_()
    trl_loss(ORPOTrainer, asked, beta=0.1)(leaf).backward()
    assert leaf.grad is not None
    assert bool((leaf.grad[::2, 0] < 0).all())
    assert not bool(leaf.grad[1::2, 0].any())
    assert not bool(ours(ORPO(), asked, logps)[1][:, 0].any())


ALL: list[Algorithm] = [ORPO(), SimPO(), SimPO(cpo_alpha=1.0), CPO(), CPO(loss_type="ipo")]


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_plays_no_part_and_sides_pull_apart(made: Algorithm, seed: int) -> None:
    """Any number in a column that is not trained changes nothing; chosen tokens are raised, rejected ones lowered."""
    batch, logps = batch_and_logps(seed, 2, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9), group=2).loss_mask
    batch = replace(batch, loss_mask=trained, ref_logps=None)
    loss, gradient = ours(made, batch, logps)
    other, found = ours(made, batch, logps.masked_fill(~trained, -7.0))
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)
    if not (isinstance(made, CPO) and made.loss_type == "ipo"):
        assert bool((gradient[::2][trained[::2]] < 0).all())
        assert bool((gradient[1::2][trained[1::2]] > 0).all())


@pytest.mark.maths
@pytest.mark.parametrize(
    ("made", "loss"), [(ORPO(beta=1.0), log(2)), (SimPO(simpo_gamma=0.0), log(2)), (CPO(), log(2))]
)
def test_sides_that_are_as_likely_cost_ln_2(made: Algorithm, loss: float, certify: Certify) -> None:
    """Equal lengths and log-probs: the margin is 0."""
    batch, logps = batch_and_logps(3, 2, torch.float64)
    mask = batch.loss_mask[::2].repeat_interleave(2, 0)
    batch = replace(batch, loss_mask=mask, completion_mask=mask)
    even = logps[::2].repeat_interleave(2, 0)
    term = "odds" if isinstance(made, ORPO) else "pairs"
    nll = float(-(even * mask)[::2].sum() / mask[::2].sum()) if "nll" in made.terms() else 0.0
    assert set(made.terms()) <= {term, "nll"}
    found = ours(made, batch, even)[0]
    assert float(found) == pytest.approx(loss + nll, abs=1e-12)
    certify(made.name, "golden", found, loss + nll)


PAIRS = [{"prompt": f"number {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(8)]


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_a_tiny_model_learns_to_prefer_without_a_reference(made: Algorithm) -> None:
    stage = rung.train(made, model="tiny:llama", data=PAIRS, batch_size=8, max_steps=12, learning_rate=3e-3)
    steps = list(stage)
    assert stage.policy.reference is None
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].metrics["rewards/accuracies"].value() == 1

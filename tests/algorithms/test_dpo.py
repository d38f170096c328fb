"""The losses of `dpo`: numbers derived by hand, TRL's on the same tokens, and what must hold of any of them."""

from collections.abc import Mapping
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.losses import assert_same, batch_and_logps, ours, theirs
from helpers.table_model import LAYOUTS, batch_of_answers, policy_with_values, summed_losses
from helpers.trl import trl_dpo
from rung.algorithms.dpo import DIFFERENCE_LOSSES, DPO, LOSSES
from rung.algorithms.sft import SFT
from rung.forward.planner import Layout

LN2 = log(2)
SMOOTHED = {"robust": 0.1, "exo_pair": 0.001}


def made(loss_type: str, **more: Any) -> DPO:
    """One loss with the smoothing that it needs."""
    given = {"loss_type": loss_type, "label_smoothing": SMOOTHED.get(loss_type, 0.0), **more}
    return DPO.model_validate(given)


GOLDEN = [
    ({}, 0.653947),
    ({"label_smoothing": 0.1}, 0.661947),
    ({"loss_type": "robust", "label_smoothing": 0.1}, 0.643947),
    ({"loss_type": "hinge"}, 0.92),
    ({"loss_type": "ipo"}, 22.325625),
    ({"loss_type": "sigmoid_norm"}, 0.679492),
    ({"loss_type": "exo_pair", "label_smoothing": 0.001}, 2.623969),
    ({"loss_type": "nca_pair"}, 1.366819),
    ({"loss_type": "bco_pair"}, 1.346719),
    ({"loss_type": "sppo_hard"}, 42.34),
    ({"loss_type": "apo_zero"}, 0.980003),
    ({"loss_type": "apo_down"}, 0.992508),
    ({"loss_type": "discopop"}, 0.877901),
    ({"loss_type": "sft"}, -4 * log(0.2)),
    ({"f_divergence_type": "forward_kl"}, 0.656671),
    ({"f_divergence_type": "js_divergence"}, 0.674314),
    ({"f_divergence_type": "alpha_divergence"}, 0.655577),
]


@pytest.mark.maths
@LAYOUTS
@pytest.mark.parametrize(
    ("settings", "loss"), GOLDEN, ids=["-".join(map(str, given.values())) or "sigmoid" for given, _ in GOLDEN]
)
def test_a_pair_of_four_tokens_and_two(layout: Layout, settings: dict[str, Any], loss: float, certify: Certify) -> None:
    """u = 4 x .125 = .5 and v = 2 x -.15 = -.3: d = .8, X = .08, h = .125 + .15 = .275.

    `sigmoid` ln(1 + e^-.08); smoothed .9 x .653947 + .1 x .733947, robust (.9 x .653947 - .1 x .733947) / .8; `hinge`
    1 - .08; `ipo` (.275 - 5)^2; `sigmoid_norm` ln(1 + e^-.0275); `sppo_hard` 4.5^2 + 4.7^2; `apo_zero`
    1 - sigma(.05) + sigma(-.03); `apo_down` sigma(.05) + 1 - sigma(.08). Scores of (u, v): forward KL 1 - e^-u,
    .393469 + .349859; Jensen-Shannon ln 2 + log sigma(u), .219070 + .161261; alpha .5: 2 (1 - e^(-u/2)), .442398 +
    .323668.
    """
    chosen, rejected = ["pa", "ab", "bc", "cd"], ["pe", "ef"]
    reference = {**dict.fromkeys(chosen, 0.2 * exp(-0.125)), **dict.fromkeys(rejected, 0.2 * exp(0.15))}
    policy = policy_with_values(layout, dict.fromkeys(chosen + rejected, 0.2), reference, {})
    dpo = DPO.model_validate(settings)
    batch = dpo.prepare(batch_of_answers(("p", "abcd"), ("p", "ef")), policy)
    found = sum(summed_losses(dpo, policy, batch).values())
    assert found == pytest.approx(loss, abs=1e-5)
    certify("dpo", "golden", found, loss)


@pytest.mark.maths
@pytest.mark.parametrize(("ld_alpha", "loss"), [(0.5, 0.656350), (1.0, 0.649159), (0.0, 0.663588)])
def test_tokens_beyond_the_shorter_side_count_less(ld_alpha: float, loss: float, certify: Certify) -> None:
    """x = (.1, .2, .3) and (-.1, -.2), beta .1: u = .3 + .3 alpha, v = -.3. alpha .5: X = .075, 1: .09, 0: .06."""
    x = {"pa": 0.1, "ab": 0.2, "bc": 0.3, "pe": -0.1, "ef": -0.2}
    policy = policy_with_values(
        "plain", dict.fromkeys(x, 0.2), {pair: 0.2 * exp(-each) for pair, each in x.items()}, {}
    )
    dpo = DPO(ld_alpha=ld_alpha)
    batch = dpo.prepare(batch_of_answers(("p", "abc"), ("p", "ef")), policy)
    found = summed_losses(dpo, policy, batch)["sigmoid"]
    assert found == pytest.approx(loss, abs=1e-5)
    certify("dpo", "golden", found, loss)


@pytest.mark.maths
@LAYOUTS
@pytest.mark.parametrize(("likely", "loss"), [(0.5, 0.162456), (0.8, 0.017901)])
def test_a_pair_is_weighted_by_how_likely_the_policy_finds_it(
    layout: Layout, likely: float, loss: float, certify: Certify
) -> None:
    """p(a) = .5 and the other 15 tokens share .5: sum p^2 = .25 + .25 / 15 = .266667.

    w = .5 / .266667 = 1.875 for a, (.5 / 15) / .266667 = .125 for b; ln 2 x .234375 = .162456. With p(a) = .8 the sum
    is .642667, w = 1.244813 for a and .020747 for b; ln 2 x .025826 = .017901.
    """
    dpo = DPO(use_weighting=True)
    policy = policy_with_values(layout, {"pa": likely}, {"pa": likely}, {})
    batch = dpo.prepare(batch_of_answers(("p", "a"), ("p", "b")), policy)
    found = summed_losses(dpo, policy, batch)["sigmoid"]
    assert found == pytest.approx(loss, abs=1e-5)
    certify("dpo", "golden", found, loss)


@pytest.mark.maths
@LAYOUTS
@pytest.mark.parametrize(("loss_type", "loss"), [("nll", 0.693147), ("dft", 0.346574)])
def test_dft_weighs_a_token_by_its_probability(layout: Layout, loss_type: str, loss: float, certify: Certify) -> None:
    """Golden 23. p = .5: - ln .5 = .693147, and .5 of it. The other row's only trained token is as likely."""
    sft = SFT.model_validate({"loss_type": loss_type})
    policy = policy_with_values(layout, {"pa": 0.5, "qb": 0.5}, {}, {})
    batch = batch_of_answers(("p", "a"), ("q", "b0"))
    found = summed_losses(sft, policy, batch)
    assert found == {loss_type: pytest.approx(2 * loss, abs=1e-5)}
    certify("sft", "golden", found[loss_type], 2 * loss)


AT_THE_REFERENCE: Mapping[str, float] = {
    "sigmoid": LN2,
    "sigmoid_norm": LN2,
    "robust": LN2,
    "hinge": 1,
    "ipo": 1 / (4 * 0.3**2),
    "exo_pair": LN2 * -1 - 0.5 * log(0.999) - 0.5 * log(0.001),
    "discopop": 0.5 * LN2 + 0.5,
    "nca_pair": 2 * LN2,
    "bco_pair": 2 * LN2,
    "sppo_hard": 2 / (2 * 0.3) ** 2,
    "apo_zero": 1,
    "apo_down": 1,
}


@pytest.mark.maths
@pytest.mark.parametrize("loss_type", AT_THE_REFERENCE)
def test_what_a_pair_costs_at_the_reference(loss_type: str, certify: Certify) -> None:
    """u = v = 0, beta .3: sigma is 1/2. `exo_pair` is KL((1/2, 1/2) || (.999, .001)); `sppo_hard` twice 1 / (.6)^2."""
    assert AT_THE_REFERENCE.keys() == LOSSES.keys()
    batch, logps = batch_and_logps(0, 2, torch.float64)
    loss, gradient = ours(made(loss_type, beta=0.3), replace(batch, ref_logps=logps), logps)
    assert float(loss) == pytest.approx(AT_THE_REFERENCE[loss_type], abs=1e-12)
    certify("dpo", "golden", loss, AT_THE_REFERENCE[loss_type])
    trained = batch.loss_mask
    downwards = {"chosen": gradient[::2][trained[::2]] > 0, "rejected": gradient[1::2][trained[1::2]] > 0}
    if (
        loss_type == "discopop"
    ):  # its exponential part weighs more than DPO's there, and its share grows with the margin
        assert bool(downwards["chosen"].all())
        assert not bool(downwards["rejected"].any())
        return
    if loss_type != "apo_down":  # which holds the chosen side there
        assert not bool(downwards["chosen"].any())
    assert bool(downwards["rejected"].all())


@pytest.mark.maths
def test_the_gradient_at_the_reference_is_half_of_beta_and_swapping_sides_flips_it(certify: Certify) -> None:
    """d loss / d log pi_t = -+ beta / 2 / pairs for each trained token of the chosen, of the rejected row."""
    batch, logps = batch_and_logps(1, 2, torch.float64)
    batch = replace(batch, ref_logps=logps)
    _, gradient = ours(DPO(beta=0.3), batch, logps)
    sign = torch.tensor([-1.0, 1.0]).repeat(batch.num_groups)[:, None]
    expected = (sign * 0.15 / batch.num_groups * batch.loss_mask).double()
    torch.testing.assert_close(gradient, expected)
    certify("dpo", "golden", gradient, expected)
    swapped = torch.arange(batch.num_rows).view(-1, 2).flip(1).flatten()
    _, flipped = ours(DPO(beta=0.3), batch.select(swapped), logps[swapped])
    torch.testing.assert_close(flipped, -gradient[swapped])


CASES: list[dict[str, Any]] = [
    *({"loss_type": kind} for kind in ("sigmoid_norm", "robust", "exo_pair", "discopop")),
    *({"loss_type": kind} for kind in ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")),
    *({"loss_type": kind, "f_divergence_type": "forward_kl"} for kind in sorted(DIFFERENCE_LOSSES)),
    *({"loss_type": kind, "f_divergence_type": "js_divergence"} for kind in sorted(DIFFERENCE_LOSSES)),
    *({"loss_type": kind, "f_divergence_type": "alpha_divergence"} for kind in sorted(DIFFERENCE_LOSSES)),
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.2},
    *({"loss_type": kind, "ld_alpha": 0.3, "beta": 0.3} for kind in sorted(LOSSES)),
    *({"loss_type": kind, "use_weighting": True} for kind in ("sigmoid", "ipo", "nca_pair", "apo_down")),
    {"loss_type": ["nca_pair", "apo_zero", "sft"], "loss_weights": [0.7, 0.2, 1.3], "ld_alpha": 0.0},
    {"loss_type": ["discopop", "sppo_hard"], "loss_weights": [2.0, 0.1], "use_weighting": True, "discopop_tau": 0.2},
]


def dtypes(case: Mapping[str, Any]) -> list[torch.dtype]:
    """TRL takes the logarithms of `exo_pair` in float32, and its alpha-divergence knows no float64."""
    single = "exo_pair" in str(case) or case.get("f_divergence_type") == "alpha_divergence"
    return [torch.float32] if single else [torch.float32, torch.float64]


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("case", "dtype"), [(case, dtype) for case in CASES for dtype in dtypes(case)], ids=lambda value: str(value)
)
def test_loss_and_gradient_equal_trl(case: dict[str, Any], seed: int, dtype: torch.dtype, certify: Certify) -> None:
    dpo = DPO.model_validate({"label_smoothing": SMOOTHED.get(str(case.get("loss_type")), 0.0), **case})
    batch, logps = batch_and_logps(seed, 2, dtype)
    mass = (-torch.rand(logps.shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)
    mine = ours(dpo, batch, logps, log_sum_sq_probs=mass)
    certify("dpo", "oracle", *assert_same(mine, theirs(trl_dpo(batch, dpo, mass), batch, logps), dtype))


@pytest.mark.oracle
def test_where_trl_differs() -> None:
    """TRL ignores smoothing with `sigmoid_norm`, and its `sft` term cannot stand beside `use_weighting`."""
    batch, logps = batch_and_logps(0, 2, torch.float64)
    smoothed = DPO(loss_type="sigmoid_norm", label_smoothing=0.1)
    swapped = torch.arange(batch.num_rows).view(-1, 2).flip(1).flatten()
    plain = DPO(loss_type="sigmoid_norm")
    kept, turned = ours(plain, batch, logps)[0], ours(plain, batch.select(swapped), logps[swapped])[0]
    assert float(ours(smoothed, batch, logps)[0]) == pytest.approx(float(0.9 * kept + 0.1 * turned), abs=1e-12)
    assert theirs(trl_dpo(batch, smoothed), batch, logps)[0] == pytest.approx(kept)
    mass = torch.full_like(logps, -1.0)
    weighted = DPO(loss_type=("sigmoid", "sft"), loss_weights=(0.0, 1.0), use_weighting=True)
    nll = ours(DPO(loss_type="sft"), batch, logps)[0]
    assert ours(weighted, batch, logps, log_sum_sq_probs=mass)[0] == nll
    with pytest.raises(RuntimeError, match="written-to tensor"):
        theirs(trl_dpo(batch, weighted, mass), batch, logps)


EVERY = [
    *(made(kind) for kind in LOSSES),
    DPO(loss_type="sft"),
    DPO(ld_alpha=0.4, f_divergence_type="js_divergence", loss_type=("ipo", "hinge", "sft")),
    DPO(use_weighting=True),
]


@pytest.mark.parametrize("dpo", EVERY, ids=lambda dpo: str(dpo.loss_type))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_plays_no_part(dpo: DPO, seed: int) -> None:
    """Any number in a column that is not trained, NaN included, leaves loss and gradient as they were."""
    batch, logps = batch_and_logps(seed, 2, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9), group=2).loss_mask
    batch = replace(batch, loss_mask=trained)
    assert batch.ref_logps is not None
    rubbish = replace(batch, ref_logps=batch.ref_logps.masked_fill(~trained, float("nan")))
    mass = torch.full_like(logps, -1.0)
    loss, gradient = ours(dpo, batch, logps, log_sum_sq_probs=mass)
    nonsense = {"log_sum_sq_probs": mass.masked_fill(~trained, float("nan"))}
    other, found = ours(dpo, rubbish, logps.masked_fill(~trained, -7.0), **nonsense)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)


def test_weights_need_a_readout_that_other_losses_do_not_pay_for() -> None:
    assert "log_sum_sq_probs" in DPO(use_weighting=True).readouts()
    assert "log_sum_sq_probs" not in DPO().readouts()


def test_dft_learns_from_what_it_is_shown() -> None:
    rows = [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in range(8)]
    stage = rung.train(
        SFT(loss_type="dft"), model="tiny:llama", data=rows, batch_size=8, max_steps=12, learning_rate=3e-3
    )
    seen = [step.metrics["mean_token_accuracy"].value() or 0.0 for step in stage]
    assert seen[-1] > seen[0] + 0.2


PAIRS = [{"prompt": f"number {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(8)]


@pytest.mark.parametrize("dpo", [EVERY[2], EVERY[9], *EVERY[13:]], ids=lambda dpo: str(dpo.loss_type))
def test_a_tiny_model_learns_to_prefer(dpo: DPO) -> None:
    """Twelve steps on eight pairs: every pair comes out in order."""
    stage = rung.train(dpo, model="tiny:llama", data=PAIRS, batch_size=8, max_steps=12, learning_rate=3e-3)
    steps = list(stage)
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].metrics["rewards/accuracies"].value() == 1


READS_DIFFERENCE = {"sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "discopop"}


@pytest.mark.parametrize("kind", sorted(LOSSES.keys() | {"sft"}))
@pytest.mark.parametrize(
    ("settings", "readers"),
    [
        ({"f_divergence_type": "forward_kl"}, READS_DIFFERENCE),
        ({"label_smoothing": 0.2}, {"sigmoid", "sigmoid_norm", "robust", "exo_pair"}),
        ({"discopop_tau": 0.1}, {"discopop"}),
        ({"ld_alpha": 0.5}, set(LOSSES)),
        ({"use_weighting": True}, set(LOSSES)),
    ],
    ids=lambda value: "" if isinstance(value, set) else next(iter(value)),
)
def test_a_setting_is_taken_where_the_loss_reads_it_and_nowhere_else(
    kind: str, settings: dict[str, Any], readers: set[str]
) -> None:
    if kind in readers:
        assert made(kind, **settings).terms()
    else:
        with pytest.raises(ValidationError, match=f"`{next(iter(settings))}` has no effect with the loss `{kind}`"):
            made(kind, **settings)

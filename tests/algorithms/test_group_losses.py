"""The losses of the group-relative family by hand: what a token costs, what it counts, and the KL beside it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.group_relative import FAMILY, MEMBERS, one_row
from helpers.losses import ours
from rung.algorithms.cispo import CISPO
from rung.algorithms.gmpo import GMPO
from rung.algorithms.grpo import GRPO
from rung.algorithms.gspo import LUSPO
from rung.algorithms.sapo import SAPO
from rung.algorithms.shared.options import KLEstimator
from rung.algorithms.vespo import VESPO
from rung.metrics import values

NAN = float("nan")


@pytest.mark.maths
@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.5), (1.0, 1.0), (7.0, 5.0)])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_caps_the_weight_of_a_token_and_never_its_gradient(
    ratio: float, weight: float, advantage: float, certify: Certify
) -> None:
    """Cap 5: - weight x A x log pi, and d / d log pi = - weight x A, for gains and losses alike."""
    log_ratio = float(torch.tensor(ratio, dtype=torch.float64).log())
    loss, gradient = ours(CISPO(), *one_row([log_ratio], advantage))
    assert float(loss) == pytest.approx(-weight * advantage * (log_ratio - 2))
    assert float(gradient) == pytest.approx(-weight * advantage)
    certify("cispo", "golden", [loss, gradient], [-weight * advantage * (log_ratio - 2), -weight * advantage])


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "loss"), [(1.0, -2.489837), (-1.0, 2.393585)])
def test_sapo_gates_gains_and_losses_at_their_own_temperature(advantage: float, loss: float, certify: Certify) -> None:
    """rho 1.5. A = 1: 4 sigma(.5) = 2.489837; A = -1: (4 / 1.05) sigma(.525) = 2.393585.

    The slope is rho sech^2-like: d / d log pi = - 4 s (1 - s) rho A, with s the sigmoid.
    """
    batch, logps = one_row([float(torch.tensor(1.5, dtype=torch.float64).log())], advantage)
    found, gradient = ours(SAPO(), batch, logps)
    assert float(found) == pytest.approx(loss, abs=1e-6)
    gate = 1 / (1 + 2.718281828459045 ** (-(1.0 if advantage > 0 else 1.05) * 0.5))
    assert float(gradient) == pytest.approx(-4 * gate * (1 - gate) * 1.5 * advantage)
    certify("sapo", "golden", [found, gradient], [loss, -4 * gate * (1 - gate) * 1.5 * advantage])


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "phi"), [(1.0, 0.790289), (-1.0, 1.158313)])
def test_vespo_weighs_a_completion_by_a_bump_around_ratio_1(advantage: float, phi: float, certify: Certify) -> None:
    """w = 1.2 of two tokens, 1.5 and .8. A >= 0: 1.2^2 e^{-.6}; A < 0: 1.2^3 e^{-.4}. d / d log pi = - phi A / 2."""
    moved = torch.tensor([1.5, 0.8], dtype=torch.float64).log().tolist()
    loss, gradient = ours(VESPO(), *one_row(moved, advantage))
    assert float(loss) == pytest.approx(-phi * advantage * (sum(moved) - 4) / 2, abs=1e-5)
    torch.testing.assert_close(gradient, torch.full_like(gradient, -phi * advantage / 2), atol=1e-5, rtol=0)
    slopes = torch.full_like(gradient, -phi * advantage / 2)
    certify("vespo", "golden", [loss, gradient], [-phi * advantage * (sum(moved) - 4) / 2, slopes])


@pytest.mark.maths
def test_vespo_is_bounded_however_far_a_completion_has_moved() -> None:
    """log w = 40 is taken as 20 and phi vanishes; -40 is taken as log 1e-8: phi = 1e-16 e^3."""
    for moved, phi in ((40.0, 0.0), (-40.0, 1e-16 * 20.085537)):
        loss, _ = ours(VESPO(), *one_row([moved], 1.0))
        assert float(loss) == pytest.approx(-phi * (moved - 2), abs=1e-20)


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "mean", "slopes"), [(1.0, 0.1, [0, 1, 1]), (-1.0, 0.4 / 3, [1, 1, 1])])
def test_gmpo_clips_each_token_and_then_takes_the_geometric_mean(
    advantage: float, mean: float, slopes: list[int], certify: Certify
) -> None:
    """Delta = [.5, -.1, 0], bounds +-.4. A > 0 holds .5 at .4: e^{.3 / 3} = 1.105171; A < 0 does not: e^{.4 / 3}.

    A token that is held gets no gradient, the others coefficient x A / 3 each.
    """
    loss, gradient = ours(GMPO(), *one_row([0.5, -0.1, 0.0], advantage))
    coefficient = 2.718281828459045**mean
    assert coefficient == pytest.approx(1.105171 if advantage > 0 else 1.142631, abs=1e-6)
    assert float(loss) == pytest.approx(-coefficient * advantage)
    wanted = -coefficient * advantage / 3 * torch.tensor([slopes], dtype=torch.float64)
    torch.testing.assert_close(gradient, wanted)
    certify("gmpo", "golden", [loss, gradient], [-coefficient * advantage, wanted])


@pytest.mark.maths
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dapo", 0.8),
        ("cispo", 0.8),
        ("grpo", 4 / 3),
        ("gspo", 4 / 3),
        ("gspo_token", 4 / 3),
        ("rloo", 4 / 3),
        ("luspo", 8 / 3),
        ("dr_grpo", 1 / 3),
    ],
)
def test_what_a_token_counts(name: str, loss: float, certify: Certify) -> None:
    """Golden 11. Tokens that cost 1, 1 | 0 six times | 3, 3: sum 8.

    Over 10 tokens .8; row means 1, 0, 3 over 3 rows 4/3, and so is one ratio a row; row sums over 3 rows 8/3; over 3
    times the limit of 8 tokens 1/3. At ratio 1 a token costs - A; of CISPO, whose ratio is a weight, - A log pi.
    """
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(3, 3), length=(6, 6))
    mask = torch.arange(6) < torch.tensor([[2], [6], [2]])
    old = torch.full((3, 6), -1.0, dtype=torch.float64)
    sign = 1.0 if name == "cispo" else -1.0
    costs = torch.tensor([[1.0], [0.0], [3.0]], dtype=torch.float64) * mask
    batch = replace(batch, completion_mask=mask, loss_mask=mask, old_logps=old, advantages=sign * costs)
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    found, _ = ours(algorithm, replace(batch, max_completion_length=8), old)
    assert float(found) == pytest.approx(loss)
    certify(name, "golden", found, loss)


@pytest.mark.maths
def test_luspo_is_gspo_times_the_length_of_the_row(certify: Certify) -> None:
    """Mean log-ratio .005 over 3 tokens, A = -1: 3 x 1.005013."""
    loss, _ = ours(LUSPO(), *one_row([0.02, -0.01, 0.005], -1.0))
    assert float(loss) == pytest.approx(3 * 1.005013, abs=1e-5)
    certify("luspo", "golden", loss, 3 * 1.005013)


@pytest.mark.maths
@pytest.mark.parametrize(
    ("estimator", "term"),
    [("rho_k3", 1.1 * 0.004837), ("k3", 0.004837), ("k2", 0.005), ("k1", 0.0)],
)
def test_the_kl_in_the_loss(estimator: KLEstimator, term: float, certify: Certify) -> None:
    """x = log pi - log ref = .1, rho 1.1, beta 2: 2 x the estimate; k1 is in the reward and not here."""
    log_ratio = float(torch.tensor(1.1, dtype=torch.float64).log())
    ref = torch.full((1, 1), -2 + log_ratio - 0.1, dtype=torch.float64)
    loss, _ = ours(GRPO(beta=2, kl_estimator=estimator), *one_row([log_ratio], 0.0, ref_logps=ref))
    assert float(loss) == pytest.approx(2 * term, abs=1e-6)
    certify("grpo", "golden", loss, 2 * term)


@pytest.mark.maths
def test_k1_is_summed_over_a_completion_and_taken_off_its_reward(certify: Certify) -> None:
    """beta .5, k1 = (.2, .4) and (.2, 9): R = [1, 0] becomes [.7, -.1]; a tool's token has a KL of 9 and pays nothing.

    The mean is .3: advantages .4 and -.4.
    """
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(2, 2), length=(2, 2))
    old = torch.full((2, 2), -2.0, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=torch.tensor([[True, True], [True, False]]),
        old_logps=old,
        ref_logps=old - torch.tensor([[0.2, 0.4], [0.2, 9.0]], dtype=torch.float64),
        rewards=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    algorithm = GRPO(beta=0.5, kl_estimator="k1", scale_rewards="none")
    credited = algorithm.credit(batch, {})[0]
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages, torch.tensor([[0.4, 0.4], [-0.4, 0.0]], dtype=torch.float64))
    certify("grpo", "golden", credited.advantages, [[0.4, 0.4], [-0.4, 0.0]])


@pytest.mark.maths
@MEMBERS
def test_the_kl_of_whole_completions_is_shown_once_a_rollout(name: str, certify: Certify) -> None:
    """k1 = (.2, .4) and (.2): sums .6 and .2, mean .4; a row without a reward and a tool's token do not count."""
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(3, 3), length=(2, 2))
    old = torch.full((3, 2), -2.0, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=torch.tensor([[True, True], [True, False], [True, True]]),
        old_logps=old,
        ref_logps=old - torch.tensor([[0.2, 0.4], [0.2, 9.0], [5.0, 5.0]], dtype=torch.float64),
        rewards=torch.tensor([1.0, 0.0, NAN], dtype=torch.float64),
    )
    kind = type(FAMILY[name])
    more: dict[str, Any] = {"overlong_buffer": 0} if name == "dapo" else {}
    algorithm = kind(beta=0.1, **more)
    shown = algorithm.rollout_metrics(algorithm.credit(batch, {})[0], {})
    assert values(shown) == {"kl/sequence_sum": pytest.approx(0.4)}
    certify(name, "golden", values(shown), {"kl/sequence_sum": 0.4})
    assert not kind(beta=0, **more).rollout_metrics(batch, {})

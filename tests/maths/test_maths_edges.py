"""The pure functions exactly at their bounds, just beside 0, and where there is nothing: by hand."""

from math import exp, expm1, log, sqrt

import pytest
import torch

from rung.algorithms.dpo import DPO
from rung.batch import Batch
from rung.maths import advantages
from rung.maths import policy_losses as objectives
from rung.maths import preference_losses as pair_losses
from rung.maths import tensors as maths

pytestmark = pytest.mark.maths
NAN = float("nan")


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def row(*numbers: float) -> torch.Tensor:
    return tensor(*numbers)[None]


def close(actual: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(actual.flatten(), tensor(*expected), atol=1e-9, rtol=1e-9)


TRAINED = torch.tensor([[True, True], [True, False], [False, False]])
ONE_GROUP = torch.zeros(2, dtype=torch.long)
NO_ROWS = torch.zeros(0, dtype=torch.long)


def test_a_row_of_one_token_is_its_mean_and_a_row_of_none_is_0() -> None:
    values = torch.stack([tensor(1, 3), tensor(5, NAN), tensor(NAN, NAN)])
    close(maths.masked_mean(values, TRAINED), 2, 5, 0)
    close(maths.sequence_log_ratio(values, torch.zeros(3, 2), TRAINED), 2, 5, 0)
    close(maths.summed_log_ratio(values, torch.zeros(3, 2), TRAINED), 4, 5, 0)


@pytest.mark.parametrize(("apart", "kept"), [(19.5, 19.5), (300.0, 20.0), (-19.5, -19.5), (-300.0, -20.0)])
def test_log_ratios_are_held_within_20(apart: float, kept: float) -> None:
    moved, old, mask = row(apart), row(0), torch.ones(1, 1).bool()
    close(maths.sequence_log_ratio(moved, old, mask), kept)
    close(maths.summed_log_ratio(moved, old, mask), kept)
    close(maths.k3(moved, old), expm1(-kept) + kept)
    close(objectives.sequence_mismatch(moved, old, mask), exp(kept))


@pytest.mark.parametrize(
    ("apart", "log_w"), [((0.0, -16.0), -16.0), ((-15.0, -15.0), log(1e-8)), ((2.0, 0.5), 2.5), ((-300.0, 19.0), -1.0)]
)
def test_the_weight_of_vespo_is_held_where_it_is_next_to_nothing(apart: tuple[float, float], log_w: float) -> None:
    """phi = exp(rate + k log w - rate w), k = .5, rate = .1; a token's log-ratio is at least -20, log w ln 1e-8."""
    found = objectives.gamma_weight(row(*apart), row(0, 0), torch.ones(1, 2).bool(), k=0.5, rate=0.1)
    close(found, exp(0.1 + 0.5 * log_w - 0.1 * exp(log_w)))


def test_the_weight_of_vespo_is_finite_however_large_the_ratio() -> None:
    """log w is 20 at most: with rate 1e-8 the exponent is 1e-8 + 20 k - 1e-8 e^20."""
    found = objectives.gamma_weight(row(18, 18), row(0, 0), torch.ones(1, 2).bool(), k=0.5, rate=1e-8)
    close(found, exp(1e-8 + 10 - 1e-8 * exp(20)))


def test_a_weight_on_a_bound_is_within_it() -> None:
    weights = tensor(0.49, 0.5, 2, 2.01)
    close(objectives.mask_weights(weights, 0.5, 2.0), 0, 0.5, 2, 0)
    close(objectives.truncate_weights(weights, 0.5, 2.0), 0.5, 0.5, 2, 2)


@pytest.mark.parametrize(("advantage", "temperature"), [(1e-3, 2.0), (0.5, 2.0), (0.0, 3.0), (-1e-3, 3.0), (-0.5, 3.0)])
def test_the_gate_has_one_temperature_above_0_and_another_from_0_down(advantage: float, temperature: float) -> None:
    found = objectives.soft_gate(row(1.5), row(advantage), 2.0, 3.0)
    close(found, 4 / temperature / (1 + exp(-0.5 * temperature)))


@pytest.mark.parametrize(
    ("advantage", "held"), [(0.5, -2 + 1 + 0.1), (-0.5, -1 + 3 + 0.1), (0.0, -1 + 3 + 0.1), (2.0, -2 + 1 + 0.1)]
)
def test_a_geometric_mean_is_pessimistic_on_either_side_of_0(advantage: float, held: float) -> None:
    """Log-ratios -2, 3, .1, bounds -1 and 1: held above where A > 0, below where not."""
    found = objectives.geometric_log_ratio(row(-2, 3, 0.1), row(*[advantage] * 3), torch.ones(1, 3).bool(), 1.0, 1.0)
    close(found, held / 3)


@pytest.mark.parametrize(("advantage", "loss"), [(-1e-3, 3e-3), (-0.5, 1.5), (0.0, 9.0), (0.5, 9.0)])
def test_a_dual_clip_touches_negative_advantages_alone(advantage: float, loss: float) -> None:
    close(maths.dual_clip(row(9), row(advantage), 3.0), loss)


@pytest.mark.parametrize(
    ("drift", "advantage", "kept"),
    [(0.5, -1.0, True), (0.51, -1.0, False), (0.51, -1e-3, False), (0.51, 0.0, True), (0.51, 1e-3, True)],
)
def test_a_row_has_drifted_beyond_its_threshold_and_where_it_is_held_against_it(
    drift: float, advantage: float, kept: bool
) -> None:
    mask = torch.ones(1, 1).bool()
    assert objectives.off_policy_mask(row(-1 - drift), row(-1), row(advantage), mask, 0.5).item() is kept


def test_the_highest_of_few_values() -> None:
    """1 + floor(share (n - 1)) of n: of one it is that one, of a hundred and one with share .29 it is 30."""
    one, none = torch.tensor([[True, False]]), torch.tensor([[False, False]])
    assert objectives.top_share_mask(row(1, 9), one, 0.1).equal(one)
    assert objectives.top_share_mask(row(1, 9), none, 0.1).equal(none)
    many = torch.arange(101.0)[None]
    assert objectives.top_share_mask(many, many >= 0, 0.29).sum() == 30
    assert objectives.top_share_mask(many, many >= 0, 1.0).all()


def test_the_ratio_of_vespo_cispo_and_a_sampler_has_no_gradient() -> None:
    leaf, mask = row(0.3).requires_grad_(), torch.ones(1, 1).bool()
    for weight in (
        objectives.capped_weight(leaf.exp(), 5.0),
        objectives.gamma_weight(leaf, row(0), mask, 2.0, 3.0),
        objectives.token_mismatch(leaf, row(0), mask),
        objectives.sequence_mismatch(leaf, row(0), mask),
    ):
        assert not weight.requires_grad


def test_a_group_of_two_and_a_group_of_one() -> None:
    """R = [3, 1]: mean 2, Bessel std sqrt(2); each against the other is 2 and -2. A single row has no spread and no
    advantage, whatever it is divided by."""
    rewards, alone = tensor(3, 1), torch.arange(2)
    close(advantages.group_std(rewards, ONE_GROUP), sqrt(2), sqrt(2))
    close(advantages.leave_one_out(tensor(1, -1), rewards, ONE_GROUP), 2, -2)
    close(advantages.standardise(rewards, ONE_GROUP), 1 / (sqrt(2) + 1e-4), -1 / (sqrt(2) + 1e-4))
    close(advantages.group_std(rewards, alone), 0, 0)
    close(advantages.leave_one_out(tensor(5, 7), rewards, alone), 5, 7)
    close(advantages.standardise(rewards, alone), 0, 0)


def test_a_row_without_a_score_is_no_row_of_its_group() -> None:
    rewards = tensor(3, NAN, 1)
    group = torch.zeros(3, dtype=torch.long)
    close(advantages.group_mean(rewards, group), 2, 2, 2)
    close(advantages.group_std(rewards, group), *[sqrt(2)] * 3)
    close(advantages.centre(rewards, group), 1, 0, -1)
    close(advantages.leave_one_out(tensor(1, 0, -1), rewards, group), 2, 0, -2)


def test_no_rows_have_no_advantages() -> None:
    for credit in (advantages.standardise, advantages.standardise_over_batch, advantages.centre):
        assert credit(tensor(), NO_ROWS).shape == (0,)
    assert advantages.is_mixed(tensor(), NO_ROWS).shape == (0,)


def test_what_does_not_vary_is_whitened_to_0_and_has_nothing_to_explain() -> None:
    mask, nothing = torch.tensor([[True, True, False]]), torch.zeros(1, 3).bool()
    close(advantages.whiten(row(2, 2, 9), mask), 0, 0, 0)
    close(advantages.whiten_keeping_mean(row(2, 2, 9), mask), 2, 2, 0)
    close(advantages.whiten(row(1, 2, 3), nothing), 0, 0, 0)
    close(advantages.whiten(row(1, 2, 3), torch.tensor([[False, True, False]])), 0, 0, 0)
    close(advantages.explained_variance(row(1, 5, 0), row(2, 2, 9), mask), 0)
    close(advantages.explained_variance(row(1, 5, 0), row(1, 5, 9), mask), 1)
    close(advantages.explained_variance(row(1e-4, 0, 0), row(0, 1e-4, 9), mask), -3)


@pytest.mark.parametrize(
    ("logp", "odds"), [(-2e-6, log(exp(-2e-6) / -expm1(-2e-6))), (-1e-6, 13.81550955), (0, 13.81550955)]
)
def test_odds_are_finite_up_to_certainty(logp: float, odds: float) -> None:
    """p = e^-1e-6 at most: log(p / (1 - p)) = 13.815510."""
    torch.testing.assert_close(pair_losses.log_odds(tensor(logp)), tensor(odds), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("log_ratio", "exponent"), [(-79.5, 79.5), (-1000.0, 80.0)])
def test_a_divergence_is_finite_however_unlikely_the_row(log_ratio: float, exponent: float) -> None:
    close(pair_losses.alpha_divergence(tensor(log_ratio), 0.0), -expm1(exponent))


def test_a_side_of_one_token_or_none_is_divided_by_1() -> None:
    """ipo, beta .1: log-ratios .5 of one token and a rejected side of none: (.5 - 5)^2."""
    mask = torch.tensor([[True, False], [False, False]])
    batch = Batch(
        prompt_ids=torch.ones(1, 1, dtype=torch.long),
        prompt_mask=torch.ones(1, 1).bool(),
        prompt_of=ONE_GROUP,
        group_of=ONE_GROUP,
        completion_ids=mask.long(),
        completion_mask=torch.ones_like(mask),
        loss_mask=mask,
        row_ids=("chosen", "rejected"),
        ref_logps=torch.zeros(2, 2, dtype=torch.float64),
    )
    dpo = DPO(loss_type="ipo")
    ratios = dpo._ratios(batch, torch.full((2, 2), 0.5, dtype=torch.float64))
    close(ratios.mean_difference, 0.5)

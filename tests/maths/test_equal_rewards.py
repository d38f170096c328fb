"""Equal rewards teach nothing: advantages are exactly 0, for every statistic, value, number of rows and mask."""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

from rung.maths import advantages as a

pytestmark = pytest.mark.maths
NAN = float("nan")
GROUPS = torch.arange(256).repeat_interleave(7)  # 256 groups of 7: no sum of 7 equal floats is exact in float32
OVER_GROUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "centre": a.centre,
    "standardise": a.standardise,
    "standardise_over_batch": a.standardise_over_batch,
    "standardise_centred": a.standardise_centred,
    "leave_one_out": lambda rewards, groups: a.leave_one_out(a.centre(rewards, groups), rewards, groups),
    "group_std": a.group_std,
    "separate": lambda rewards, groups: a.scale_over_batch(
        a.standardised_sum(torch.stack([rewards, 3 * rewards], 1), torch.tensor([0.3, 0.7]), groups)
    ),
}


@pytest.mark.parametrize("reward", [1.0, 0.7, 0.1, 0.3, -0.2, 1e6 + 0.1, 1e-8])
@pytest.mark.parametrize("statistic", OVER_GROUPS)
def test_equal_rewards_of_groups_have_no_advantage(statistic: str, reward: float) -> None:
    rewards = torch.full((len(GROUPS),), reward)
    assert not OVER_GROUPS[statistic](rewards, GROUPS).any()
    rewards[::5] = NAN
    assert not OVER_GROUPS[statistic](rewards, GROUPS).nan_to_num(0).any()


@pytest.mark.parametrize("reward", [1.0, 0.7, 0.1, 0.3, -0.2])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (16, 96), (256, 512)])
def test_equal_rewards_whitened_over_tokens_have_no_advantage(reward: float, rows: int, width: int) -> None:
    """As REINFORCE++ and PPO credit them: the reward to go of every token of rows of different lengths."""
    lengths = torch.randint(1, width + 1, (rows,), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(width) < lengths[:, None]
    to_go = a.reward_to_go(a.at_last_token(torch.full((rows,), reward), mask), mask)
    assert not a.whiten(to_go, mask).any()
    kept = a.whiten_keeping_mean(to_go, mask)
    assert torch.equal(kept, to_go), "only the variance changes, and there is none"
    assert float(a.explained_variance(to_go + 1, to_go, mask)) == 0


def test_the_mean_of_equal_values_is_their_value() -> None:
    assert torch.equal(a.group_mean(torch.full((len(GROUPS),), 0.7), GROUPS), torch.full((len(GROUPS),), 0.7))


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    """4096 +- 1/512: variance 1/512^2, which float32 sums of 4096 squared could not tell from 0; eps is 1e-8.

    whiten: (1/512) / sqrt(1/512^2 + 1e-8) = 1 / sqrt(1 + 512^2 1e-8).
    """
    apart = 1 / 512
    values = torch.tensor([[4096 - apart, 4096 + apart] * 512])
    expected = 1 / sqrt(1 + 512**2 * 1e-8)
    whitened = a.whiten(values, torch.ones_like(values).bool())
    torch.testing.assert_close(whitened, torch.tensor([[-expected, expected] * 512]), rtol=1e-7, atol=0)
    assert whitened.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_result_has_the_dtype_of_its_rewards(dtype: torch.dtype) -> None:
    rewards = torch.rand(len(GROUPS), dtype=dtype)
    assert {function(rewards, GROUPS).dtype for name, function in OVER_GROUPS.items() if name != "separate"} == {dtype}

"""Advantages from rewards: statistics over groups and rollouts, generalised advantage estimation, whitening.

Pure functions on tensors, called once on a whole rollout, before it is split into updates. N is the number of rows
(completions), T of completion tokens; `group_of` (N,) is the group index of each row. A reward of NaN is a missing one.
Statistics are computed in float64 and returned in the dtype of the values. Equal values have exactly their own mean and
a variance of 0: a division by their std could otherwise turn a rounding error into an advantage.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean(values: Tensor, group_of: Tensor) -> Tensor:
    """For each row, the mean over its group, ignoring NaN; NaN if all values of the group are NaN.

    Shapes: (N,), (N,) int64 -> (N,).

    >>> group_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))
    tensor([2., 2., 5.])
    """
    return _group_mean(values.double(), group_of).to(values.dtype)


def group_std(values: Tensor, group_of: Tensor) -> Tensor:
    """For each row, the Bessel-corrected standard deviation over its group, ignoring NaN; 0 for fewer than two values.

    Shapes: (N,), (N,) int64 -> (N,).

    >>> group_std(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 0])).round(decimals=4)
    tensor([0.5774, 0.5774, 0.5774, 0.5774])
    """
    return _group_std(values.double(), group_of).to(values.dtype)


def is_mixed(values: Tensor, group_of: Tensor) -> Tensor:
    """Whether each group has at least two different values, ignoring NaN.

    Shapes: (N,), (N,) int64 -> (groups,) bool. Source: arXiv 2503.14476, eq. 11.

    >>> is_mixed(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    tensor([False,  True])
    """
    low, high = _group_range(values, group_of)
    return high > low


def overlong_penalty(lengths: Tensor, max_length: int, buffer: int) -> Tensor:
    """DAPO's length penalty: 0 up to `max_length - buffer` tokens, then linearly down to -1 at `max_length` and beyond.

    Shapes: (N,) tokens -> (N,) in [-1, 0]. Source: arXiv 2503.14476, eq. 13, clamped.

    >>> overlong_penalty(torch.tensor([16, 17, 20, 21]), 20, 4)
    tensor([ 0.0000, -0.2500, -1.0000, -1.0000])
    """
    return ((max_length - buffer - lengths) / buffer).clamp(-1, 0)


def centre(rewards: Tensor, group_of: Tensor) -> Tensor:
    """Reward minus the mean of its group; exactly 0 for unscored rows (NaN) and for groups with equal rewards.

    Shapes: (N,), (N,) int64 -> (N,). Source: Dr.GRPO, arXiv 2503.20783, section 3.2.

    >>> centre(torch.tensor([1.0, 0.0, float("nan")]), torch.tensor([0, 0, 0]))
    tensor([ 0.5000, -0.5000,  0.0000])
    """
    return _centred(rewards.double(), group_of).to(rewards.dtype)


def standardise(rewards: Tensor, group_of: Tensor, eps: float = 1e-4) -> Tensor:
    """Group-relative advantage: (R - mean) / (std + eps) over each group, std Bessel-corrected.

    Shapes: (N,), (N,) int64 -> (N,). Source: GRPO, arXiv 2402.03300, section 4.1.2; eps as in TRL.

    >>> standardise(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long)).round(decimals=4)
    tensor([ 0.8659, -0.8659, -0.8659,  0.8659])
    """
    exact = rewards.double()
    return (_centred(exact, group_of) / (_group_std(exact, group_of) + eps)).to(rewards.dtype)


def standardise_over_batch(rewards: Tensor, group_of: Tensor, eps: float = 1e-4) -> Tensor:
    """Rewards centred within each group, divided by the Bessel-corrected std of all raw rewards of the batch.

    Shapes: (N,), (N,) int64 -> (N,). Source: arXiv 2508.08221; TRL's `scale_rewards="batch"`.
    """
    exact, whole = rewards.double(), torch.zeros_like(group_of)
    return (_centred(exact, group_of) / (_group_std(exact, whole) + eps)).to(rewards.dtype)


def standardise_centred(rewards: Tensor, group_of: Tensor, eps: float = 1e-8) -> Tensor:
    """Rewards centred within each group, divided by the Bessel-corrected std of all centred rewards of the batch.

    Shapes: (N,), (N,) int64 -> (N,). `eps` is added to the variance. Source: REINFORCE++-baseline, arXiv 2501.03262.

    >>> standardise_centred(torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]), torch.tensor([0] * 4 + [1] * 4))
    tensor([ 1.0000, -1.0000, -1.0000,  1.0000,  0.5000,  0.5000,  0.5000, -1.5000])
    """
    centred = _centred(rewards.double(), group_of)
    std = _group_std(centred.masked_fill(rewards.isnan(), torch.nan), torch.zeros_like(group_of))
    return (centred * (std**2 + eps).rsqrt()).to(rewards.dtype)


def standardised_sum(columns: Tensor, weights: Tensor, group_of: Tensor) -> Tensor:
    """Weighted sum of the group-relative advantages of each reward; NaN where all rewards are NaN.

    Shapes: (N, K) rewards, (K,), (N,) int64 -> (N,). A missing reward (NaN) adds 0. Source: GDPO, arXiv 2601.05242.

    >>> columns, groups = torch.tensor([[1.0, 20.0], [0.0, 60.0]]), torch.zeros(2, dtype=torch.long)
    >>> standardised_sum(columns, torch.tensor([1.0, 0.5]), groups).round(decimals=3)
    tensor([ 0.3530, -0.3530])
    """
    each = torch.stack([standardise(column.double(), group_of) for column in columns.unbind(1)], 1)
    return (each @ weights.double()).masked_fill(columns.isnan().all(1), torch.nan).to(columns.dtype)


def scale_over_batch(values: Tensor, eps: float = 1e-4) -> Tensor:
    """Divides values, whose mean must be 0, by their Bessel-corrected std; exactly 0 for unscored rows (NaN).

    Shapes: (N,) -> (N,). Source: GDPO, arXiv 2601.05242; eps as in TRL.

    >>> scale_over_batch(torch.tensor([3.0, -3.0, float("nan")])).round(decimals=3)
    tensor([ 0.7070, -0.7070,  0.0000])
    """
    exact, whole = values.double(), torch.zeros(len(values), dtype=torch.long, device=values.device)
    return (exact.nan_to_num(0) / (_group_std(exact, whole) + eps)).to(values.dtype)


def leave_one_out(advantages: Tensor, rewards: Tensor, group_of: Tensor) -> Tensor:
    """Converts the difference from the group mean to that from the mean of the group's other rows: times G / (G - 1).

    Shapes: (N,), (N,), (N,) int64 -> (N,). G is the number of rewards of the group that are not NaN.
    Source: RLOO, arXiv 2402.14740, eq. 7.

    >>> rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long)
    >>> leave_one_out(centre(rewards, groups), rewards, groups)
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """
    scored = _per_group((~rewards.isnan()).to(advantages.dtype), group_of)[group_of]
    return advantages * scored / (scored - 1).clamp(min=1)


def at_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Places each row's score at its last token where `mask` is true; 0 elsewhere and for rows without such tokens.

    Shapes: (N,), (N, T) bool -> (N, T).

    >>> at_last_token(torch.tensor([2.0, 3.0]), torch.tensor([[True, True, False], [False, False, False]]))
    tensor([[0., 2., 0.],
            [0., 0., 0.]])
    """
    upto = mask.cumsum(1)
    last = mask & (upto == upto[:, -1:])
    return torch.where(last, scores[:, None], 0)


def reward_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """For each token, the sum of its reward and those of all later tokens of the row; 0 where `mask` is false.

    Shapes: (N, T), (N, T) bool -> (N, T). The same as `gae` without a critic and without discounting.

    >>> reward_to_go(torch.tensor([[-0.01, -0.02, 1.01]]), torch.ones(1, 3).bool())
    tensor([[0.9800, 0.9900, 1.0100]])
    """
    earned = torch.where(mask, rewards, 0)
    return torch.where(mask, earned.flip(1).cumsum(1).flip(1), 0)


def gae(rewards: Tensor, values: Tensor, end_values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimate, A_t = delta_t + gamma lam A_next with delta_t = r_t + gamma V_next - V_t.

    Shapes: (N, T), (N, T), (N,), (N, T) bool -> (N, T), 0 where `mask` is false. `values` belong to the state before
    each token, `end_values` to the state after the last one: 0 if the row ended there. `next` is the next token where
    `mask` is true, so environment tokens are skipped; A_next is 0 at the last one. Source: arXiv 1506.02438, eq. 16.

    >>> rewards, values = torch.tensor([[-0.1, -0.2, 0.9]]), torch.tensor([[0.5, 0.4, 0.3]])
    >>> gae(rewards, values, torch.zeros(1), torch.ones(1, 3).bool(), gamma=1.0, lam=0.95)
    tensor([[0.0565, 0.2700, 0.6000]])
    """
    advantages = torch.zeros_like(values)
    next_value, next_advantage = end_values, torch.zeros_like(end_values)
    for t in reversed(range(values.shape[1])):
        here = mask[:, t]
        advantage = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * next_advantage
        advantages[:, t] = torch.where(here, advantage, 0)
        next_advantage = torch.where(here, advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
    return advantages


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Normalises to mean 0 and (biased) variance 1 over all tokens where `mask` is true; 0 elsewhere.

    Shapes: (N, T), (N, T) bool -> (N, T). Source: the code released with arXiv 1909.08593.

    >>> whiten(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[-1.,  1.,  0.]])
    """
    return _whitened(values.double(), mask, eps)[0].to(values.dtype)


def whiten_keeping_mean(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """`whiten` with the mean added back: only the variance changes.

    Shapes: (N, T), (N, T) bool -> (N, T). Source: the code released with arXiv 1909.08593, `shift_mean=False`.

    >>> whiten_keeping_mean(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[2., 4., 0.]])
    """
    whitened, mean = _whitened(values.double(), mask, eps)
    return torch.where(mask, whitened + mean, 0).to(values.dtype)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Fraction of the returns' variance that the values explain: 1 is perfect, below 0 is worse than a constant.

    Shapes: (N, T), (N, T), (N, T) bool -> (); 0 where the returns do not vary.

    >>> explained_variance(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]), torch.ones(1, 2).bool())
    tensor(0.7500)
    """
    _, unexplained = _moments(returns.double() - values.double(), mask)
    _, total = _moments(returns.double(), mask)
    return torch.where(total > 0, 1 - unexplained / total, 0).to(returns.dtype)


def adapted_beta(beta: float, kl: float, target: float, horizon: int, num_rows: int) -> float:
    """The new KL coefficient after a rollout: raised if its KL was above the target, lowered if it was below.

    `kl`, measured on `num_rows` completions, and `target` share a unit (nats per sequence or per token). Their relative
    difference is clipped to +-0.2.
    Source: arXiv 1909.08593, section 2.2.

    >>> round(adapted_beta(0.15, kl=9.0, target=6.0, horizon=10_000, num_rows=64), 6)
    0.150192
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * num_rows / horizon)


def _whitened(values: Tensor, mask: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The whitened values, 0 where `mask` is false, and the mean that was subtracted."""
    mean, variance = _moments(values, mask)
    return torch.where(mask, (values - mean) * (variance + eps).rsqrt(), 0), mean


def _moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all tokens where `mask` is true; 0 if there are none."""
    kept = values[mask]
    if not len(kept) or kept.min() == kept.max():
        return kept[:1].sum(), kept.new_zeros(())
    mean = kept.mean()
    return mean, ((kept - mean) ** 2).mean()


def _group_mean(values: Tensor, group_of: Tensor) -> Tensor:
    known = ~values.isnan()
    total = _per_group(torch.where(known, values, 0), group_of)
    low, high = _group_range(values, group_of)
    return torch.where(high == low, low, total / _per_group(known.to(values.dtype), group_of))[group_of]


def _group_std(values: Tensor, group_of: Tensor) -> Tensor:
    known = ~values.isnan()
    centred = torch.where(known, values - _group_mean(values, group_of), 0)
    freedom = _per_group(known.to(values.dtype), group_of) - 1
    return (_per_group(centred**2, group_of) / freedom.clamp(min=1)).sqrt()[group_of]


def _centred(values: Tensor, group_of: Tensor) -> Tensor:
    """The values minus the mean of their group, which for equal values is exactly their own; 0 for NaN."""
    return (values - _group_mean(values, group_of)).nan_to_num(0)


def _group_range(values: Tensor, group_of: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each group, ignoring NaN; (inf, -inf) if there is none."""
    groups = _num_groups(group_of)
    low = values.new_full((groups,), torch.inf).scatter_reduce(0, group_of, values.nan_to_num(torch.inf), "amin")
    high = values.new_full((groups,), -torch.inf).scatter_reduce(0, group_of, values.nan_to_num(-torch.inf), "amax")
    return low, high


def _per_group(values: Tensor, group_of: Tensor) -> Tensor:
    return values.new_zeros(_num_groups(group_of)).index_add(0, group_of, values)


def _num_groups(group_of: Tensor) -> int:
    return int(group_of.max()) + 1 if len(group_of) else 0

"""Alternatives to PPO's clipping as pure functions: caps, gates and weights of the importance ratio.

N rows, T completion tokens, A advantage, rho the ratio pi / pi_old.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rung.maths.tensors import MAX_LOG_RATIO, masked_mean, masked_sum, token_log_ratio

ROUNDING = 1e-6  # 0.29 * 100 is 28.999999999999996 in floats
MIN_LOG_WEIGHT = -18.420680743952367  # log 1e-8, as in VESPO's released code


def capped_weight(ratio: Tensor, cap: float) -> Tensor:
    """min(rho, cap) without a gradient: as the weight of a token's log-prob, it keeps the gradient of capped tokens.

    Shapes: (N, T) or (N, 1) -> the same. Source: CISPO, arXiv 2506.13585, eq. 5.

    >>> capped_weight(torch.tensor([0.5, 1.0, 7.0]), 5.0)
    tensor([0.5000, 1.0000, 5.0000])
    """
    return ratio.detach().clamp(max=cap)


def soft_gate(ratio: Tensor, advantages: Tensor, gain: float, loss: float) -> Tensor:
    """(4 / tau) sigma(tau (rho - 1)), with slope 1 at rho = 1; tau is `gain` where A > 0, else `loss`.

    Shapes: (N, T) or (N, 1), (N, T) -> (N, T). Source: SAPO, arXiv 2511.20347, eq. 5.

    >>> soft_gate(torch.tensor([[1.5, 1.5]]), torch.tensor([[1.0, -1.0]]), 1.0, 1.05)
    tensor([[2.4898, 2.3936]])
    """
    temperature = torch.where(advantages > 0, gain, loss).to(ratio.dtype)
    return 4 / temperature * torch.sigmoid(temperature * (ratio - 1))


def gamma_weight(logps: Tensor, old_logps: Tensor, mask: Tensor, k: float, rate: float) -> Tensor:
    """phi(w) = w^k exp(rate (1 - w)) of each row without a gradient; w is the product of its token ratios.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, 1); phi(1) = 1. Token log-ratios are clamped to +-20; w is clamped to at
    least 1e-8, and log w to at most 20. Source: VESPO, arXiv 2602.10693.

    >>> row = torch.tensor([[1.2]]).log()
    >>> gamma_weight(row, torch.zeros(1, 1), torch.ones(1, 1).bool(), k=2, rate=3)
    tensor([[0.7903]])
    """
    log_ratio = token_log_ratio(logps, old_logps).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    log_w = masked_sum(log_ratio, mask)[:, None].clamp(MIN_LOG_WEIGHT, MAX_LOG_RATIO)
    return (rate + k * log_w - rate * log_w.exp()).exp()


def token_mismatch(old_logps: Tensor, sampled_logps: Tensor, mask: Tensor) -> Tensor:
    """Ratio of the probabilities of each token under pi_old and in the sampler, without a gradient.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, T), 1 where `mask` is false or the sampler's log-prob is NaN.

    >>> sampled = torch.tensor([[-1.0, float("nan")]])
    >>> token_mismatch(torch.tensor([[-1.0, -1.0]]), sampled, torch.ones(1, 2).bool())
    tensor([[1., 1.]])
    """
    return _mismatch(old_logps, sampled_logps, mask).exp()


def sequence_mismatch(old_logps: Tensor, sampled_logps: Tensor, mask: Tensor) -> Tensor:
    """The product of `token_mismatch` over the trained tokens of each row, repeated for each token.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, T), log-ratios clamped to +-20.
    """
    total = _mismatch(old_logps, sampled_logps, mask).sum(1, keepdim=True)
    return total.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().expand_as(old_logps)


def truncate_weights(weights: Tensor, low: float, high: float) -> Tensor:
    """Weights clamped to the bounds: truncated importance sampling.

    Shapes: any -> the same. Source: TRL's `token_truncate` and `sequence_truncate`.

    >>> truncate_weights(torch.tensor([2.7, 1.0, 0.4]), 0.0, 2.0)
    tensor([2.0000, 1.0000, 0.4000])
    """
    return weights.clamp(low, high)


def mask_weights(weights: Tensor, low: float, high: float) -> Tensor:
    """Weights with those outside the bounds set to 0: masked importance sampling.

    Shapes: any -> the same. Source: TRL's `token_mask` and `sequence_mask`.

    >>> mask_weights(torch.tensor([2.7, 1.0, 0.4]), 0.5, 2.0)
    tensor([0., 1., 0.])
    """
    return weights.masked_fill((weights < low) | (weights > high), 0)


def off_policy_mask(logps: Tensor, sampled_logps: Tensor, advantages: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """False where A < 0 and the row's mean log-prob has fallen since sampling by more than `threshold` per token.

    Shapes: (N, T), (N, T), (N, T), (N, T) bool -> (N, T) bool. log sampled - log pi is averaged over trained tokens,
    counting 0 where the sampler gave no log-prob (NaN). Unit: nats. Source: DeepSeek-V3.2, arXiv 2512.02556, eq. 9.

    >>> logps, sampled = torch.tensor([[-2.0, -1.0], [-2.0, -1.0]]), torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    >>> off_policy_mask(logps, sampled, torch.tensor([[-1.0], [1.0]]), torch.ones(2, 2).bool(), 0.4)
    tensor([[False],
            [ True]])
    """
    drift = masked_mean(_mismatch(sampled_logps, logps, mask), mask)[:, None]
    return (advantages >= 0) | (drift <= threshold)


def top_share_mask(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """True where a value is at or above the quantile `1 - share` of all values under the mask; ties are kept.

    Shapes: (N, T), (N, T) bool -> (N, T) bool. 1 + floor(share (n - 1)) of n values are kept, as with `torch.quantile`,
    which accepts no more than 16 million values. Source: arXiv 2506.01939, as in TRL.

    >>> top_share_mask(torch.tensor([[0.3, 2.0, 9.0, 1.0]]), torch.tensor([[True, True, False, True]]), 0.5)
    tensor([[False,  True, False,  True]])
    """
    found = values[mask]
    if not len(found):
        return mask
    kept = 1 + int(share * (len(found) - 1) + ROUNDING)
    return mask & (values >= found.kthvalue(len(found) - kept + 1).values)


def geometric_log_ratio(
    log_ratio: Tensor, advantages: Tensor, mask: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """The mean of log rho over a row's trained tokens, each clipped before the mean.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, 1). Pessimistic like PPO: clipped at `epsilon_high` where A > 0, at
    -`epsilon` where A <= 0. Source: GMPO, arXiv 2507.20673, eq. 4.

    >>> log_ratio, mask = torch.tensor([[0.5, -0.1, 0.0]]), torch.ones(1, 3).bool()
    >>> geometric_log_ratio(log_ratio, torch.ones(1, 3), mask, 0.4, 0.4).exp()
    tensor([[1.1052]])
    """
    clipped = log_ratio.clamp(-epsilon, epsilon_high)
    pessimistic = torch.where(advantages > 0, torch.minimum(log_ratio, clipped), torch.maximum(log_ratio, clipped))
    return masked_mean(pessimistic, mask)[:, None]


def _mismatch(old_logps: Tensor, sampled_logps: Tensor, mask: Tensor) -> Tensor:
    log_ratio = token_log_ratio(old_logps, sampled_logps).detach()
    return torch.where(mask & ~log_ratio.isnan(), log_ratio, 0)

"""Pure functions on tensors: reductions, ratios, clipped objectives, KL estimates.

Letters as in the papers: N rows, T completion tokens, V vocabulary, A advantage, rho the ratio pi / pi_old. Every (N,
T) tensor is aligned with completion tokens. Log-probs are in nats. Losses are not averaged over a batch here: the
training loop divides their sums by denominators that are counted over the whole step.

A readout maps the logits of n tokens (n, V) to one number per token (n,), so that the logits themselves are not kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over tokens where `mask` is true; NaN in other places has no effect.

    Shapes: (N, T), (N, T) bool -> (N,).

    >>> masked_sum(torch.tensor([[1.0, float("nan")]]), torch.tensor([[True, False]]))
    tensor([1.])
    """
    return torch.where(mask, values, 0).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens where `mask` is true, or 0 for a row without any.

    Shapes: (N, T), (N, T) bool -> (N,).

    >>> masked_mean(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), torch.tensor([[True, True], [False, False]]))
    tensor([2., 0.])
    """
    return masked_sum(values, mask) / mask.sum(-1).clamp(min=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax over the vocabulary; a readout.

    Shapes: (n, V) -> (n,). Unit: nats.

    >>> entropy(torch.zeros(1, 4)).exp().round(decimals=4)
    tensor([4.])
    """
    logps = logits.log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def entropy_detached(logits: Tensor) -> Tensor:
    """`entropy` without a gradient: a readout for monitoring.

    Shapes: (n, V) -> (n,). Unit: nats.
    """
    return entropy(logits.detach())


def top_logp(logits: Tensor) -> Tensor:
    """The largest log-prob of the vocabulary, without a gradient: a readout for token accuracy.

    Shapes: (n, V) -> (n,). Unit: nats.
    """
    return logits.detach().log_softmax(-1).amax(-1)


def log_sum_sq_probs(logits: Tensor) -> Tensor:
    """log sum_v p_v^2, a measure of a distribution's concentration, without a gradient; a readout.

    Shapes: (n, V) -> (n,), at most 0. Source: the weight alignment of arXiv 2406.11827, eq. 2.

    >>> log_sum_sq_probs(torch.zeros(1, 4)).exp()
    tensor([0.2500])
    """
    return (2 * logits.detach().log_softmax(-1)).logsumexp(-1)


def forward_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || policy) over the vocabulary, large where the policy misses likely teacher tokens; a readout.

    Shapes: (n, V), (n, V) -> (n,), at least 0. Unit: nats. Source: arXiv 2306.13649, section 2.

    >>> forward_kl(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log())
    tensor([0.0920])
    """
    return _kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1))


def reverse_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(policy || teacher) over the vocabulary, large where the policy favours unlikely teacher tokens; a readout.

    Shapes: (n, V), (n, V) -> (n,), at least 0. Unit: nats. Source: arXiv 2306.13649, section 2.

    >>> reverse_kl(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log())
    tensor([0.0851])
    """
    return _kl(logits.log_softmax(-1), teacher_logits.log_softmax(-1))


def jensen_shannon(logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(policy || m) with m = beta teacher + (1 - beta) policy; a readout.

    Shapes: (n, V), (n, V) -> (n,), from 0 to ln 2. Unit: nats. `beta` lies strictly between 0 and 1; the divergence
    goes to 0 at both ends. Source: arXiv 2306.13649, eq. 1.

    >>> jensen_shannon(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.5)
    tensor([0.0219])
    """
    own, teacher = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    mixture = torch.logaddexp(own + math.log1p(-beta), teacher + math.log(beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(own, mixture)


def _kl(logps: Tensor, other_logps: Tensor) -> Tensor:
    return (logps.exp() * (logps - other_logps)).sum(-1)


def token_log_ratio(logps: Tensor, old_logps: Tensor) -> Tensor:
    """log rho of each token: log pi - log pi_old.

    Shapes: (N, T), (N, T) -> (N, T). Source: arXiv 1707.06347.
    """
    return logps - old_logps


def sequence_log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """log s of each row: the mean of log pi - log pi_old over its trained tokens, normalised for length.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, 1), clamped to +-20; 0 for a row without trained tokens.
    Source: GSPO, arXiv 2507.18071, eq. 7.

    >>> sequence_log_ratio(torch.tensor([[0.02, -0.01, 0.005]]), torch.zeros(1, 3), torch.ones(1, 3).bool()).exp()
    tensor([[1.0050]])
    """
    mean = masked_mean(token_log_ratio(logps, old_logps), mask)
    return mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)[:, None]


def sequence_token_log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """The value of `sequence_log_ratio` at each token, with the gradient of that token's log-prob alone.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, T). Source: GSPO-token, arXiv 2507.18071, eq. 14.
    """
    return sequence_log_ratio(logps, old_logps, mask).detach() + logps - logps.detach()


def summed_log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """Log importance ratio of each row as a sequence: the sum of log pi - log pi_old over its trained tokens.

    Shapes: (N, T), (N, T), (N, T) bool -> (N, 1), clamped to +-20. Source: RLOO, arXiv 2402.14740, as in TRL.

    >>> summed_log_ratio(torch.tensor([[0.02, -0.01, 0.005]]), torch.zeros(1, 3), torch.ones(1, 3).bool()).exp()
    tensor([[1.0151]])
    """
    total = masked_sum(token_log_ratio(logps, old_logps), mask)
    return total.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)[:, None]


def clipped_objective(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """PPO's pessimistic loss per token, -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A).

    Shapes: (N, T) or (N, 1), (N, T) -> (N, T). Source: arXiv 1707.06347, eq. 7; two bounds: arXiv 2503.14476, eq. 8.

    >>> clipped_objective(torch.tensor([[1.5, 0.7]]), torch.tensor([[1.0, -1.0]]), 0.2, 0.28)
    tensor([[-1.2800,  0.8000]])
    """
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def dual_clip(loss: Tensor, advantages: Tensor, delta: float) -> Tensor:
    """Bounds the loss of tokens with a negative advantage by -delta A.

    Shapes: (N, T), (N, T) -> (N, T). Source: arXiv 1912.09729, eq. 5.

    >>> dual_clip(torch.tensor([[20.0]]), torch.tensor([[-1.0]]), 3.0)
    tensor([[3.]])
    """
    return torch.where(advantages < 0, torch.minimum(loss, -delta * advantages), loss)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """PPO's pessimistic value loss per token: half the larger squared error of V and of V clipped around V_old.

    Shapes: (N, T), (N, T), (N, T) -> (N, T). `cliprange` is in units of reward. Source: arXiv 1909.08593 in its
    released code.

    >>> clipped_value_loss(torch.tensor([0.9]), torch.tensor([0.5]), torch.tensor([1.0]), 0.2)
    tensor([0.0450])
    """
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Unbiased, signed estimate of KL(policy || reference) for each sampled token: log pi - log ref.

    Shapes: (N, T), (N, T) -> (N, T). Unit: nats. As a loss its expected gradient is 0: use it in rewards.
    Source: http://joschu.net/blog/kl-approx.html.
    """
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Half the square of k1 for each sampled token: biased, but as a loss its gradient is that of KL(policy || ref).

    Shapes: (N, T), (N, T) -> (N, T). Unit: nats. For on-policy tokens. Source: as for `k1`.

    >>> k2(torch.tensor([0.1, -0.2]), torch.zeros(2))
    tensor([0.0050, 0.0200])
    """
    return k1(logps, ref_logps) ** 2 / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Non-negative, unbiased estimate of KL(policy || reference) for each sampled token: exp(-x) - 1 + x, x = k1.

    Shapes: (N, T), (N, T) -> (N, T). Unit: nats. x is clamped to +-20, because exp would overflow.
    Source: arXiv 2402.03300, eq. 4.

    >>> k3(torch.tensor([0.1, -0.2]), torch.zeros(2))
    tensor([0.0048, 0.0214])
    """
    x = (logps - ref_logps).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-x) + x

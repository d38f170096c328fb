"""Losses of preference pairs as pure functions of the log-ratios of both sides.

Letters: u and v are the log-ratios log pi - log ref of the chosen and of the rejected row, summed over trained tokens;
`margin` is beta (u - v), `chosen` and `rejected` are beta u and beta v. Every function maps (pairs,) to (pairs,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MAX_EXPONENT = 80.0  # exp of much more overflows float32
MAX_LOG_PROB = -1e-6  # upper bound of a mean log-prob; a probability of 1 would have infinite odds


def sigmoid(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """DPO's loss, -log sigma(margin); with smoothing, conservative DPO.

    `label_smoothing` is the assumed fraction of pairs with swapped labels, in [0, 0.5).
    Source: arXiv 2305.18290, eq. 7; smoothing: https://ericmitchell.ai/cdpo.pdf, eq. 3.

    >>> sigmoid(torch.tensor([0.08])), sigmoid(torch.tensor([0.08]), 0.1)
    (tensor([0.6539]), tensor([0.6619]))
    """
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def robust(margin: Tensor, label_smoothing: float) -> Tensor:
    """Robust DPO: an unbiased estimate of DPO's loss if a fraction `label_smoothing`, in [0, 0.5), of pairs is swapped.

    Source: arXiv 2403.00409.

    >>> robust(torch.tensor([0.08]), 0.1)
    tensor([0.6439])
    """
    kept, swapped = (1 - label_smoothing) * logsigmoid(margin), label_smoothing * logsigmoid(-margin)
    return (swapped - kept) / (1 - 2 * label_smoothing)


def hinge(margin: Tensor) -> Tensor:
    """SLiC's loss, max(0, 1 - margin).

    Source: arXiv 2305.10425; margin as in arXiv 2309.06657.

    >>> hinge(torch.tensor([0.08]))
    tensor([0.9200])
    """
    return torch.relu(1 - margin)


def ipo(difference: Tensor, beta: float) -> Tensor:
    """IPO's loss, (h - 1 / (2 beta))^2, of the difference h = u / |chosen| - v / |rejected|.

    Source: arXiv 2310.12036, eq. 17; averaged per token as in TRL.

    >>> ipo(torch.tensor([0.5 / 4 + 0.3 / 2]), 0.1)
    tensor([22.3256])
    """
    return (difference - 1 / (2 * beta)) ** 2


def exo(margin: Tensor, label_smoothing: float) -> Tensor:
    """EXO's loss, KL(q || p) with q = sigma(margin) of the policy and p = 1 - `label_smoothing` of the labels.

    `label_smoothing` in (0, 0.5). Source: arXiv 2402.00856, eq. 16.

    >>> exo(torch.tensor([0.08]), 0.001)
    tensor([2.6240])
    """
    q = margin.sigmoid()
    kept = logsigmoid(margin) - math.log1p(-label_smoothing)
    return q * kept + (1 - q) * (logsigmoid(-margin) - math.log(label_smoothing))


def nca(chosen: Tensor, rejected: Tensor) -> Tensor:
    """NCA's loss: classifies the chosen side as a policy sample, and both sides, at half weight, as reference samples.

    Source: arXiv 2402.05369.

    >>> nca(torch.tensor([0.05]), torch.tensor([-0.03]))
    tensor([1.3668])
    """
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2


def bco(chosen: Tensor, rejected: Tensor) -> Tensor:
    """BCO's loss on pairs: binary classification of each side, without the paper's running reward shift.

    Source: arXiv 2404.04656.

    >>> bco(torch.tensor([0.05]), torch.tensor([-0.03]))
    tensor([1.3467])
    """
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo_hard(u: Tensor, v: Tensor, beta: float) -> Tensor:
    """SPPO's loss if the chosen side always wins: u is regressed to 1 / (2 beta), v to its negative.

    Source: arXiv 2405.00675, eq. 4.7.

    >>> sppo_hard(torch.tensor([0.5]), torch.tensor([-0.3]), 0.1)
    tensor([42.3400])
    """
    return (u - 1 / (2 * beta)) ** 2 + (v + 1 / (2 * beta)) ** 2


def apo_zero(chosen: Tensor, rejected: Tensor) -> Tensor:
    """APO-zero's loss: raises the chosen side and lowers the rejected side, independently.

    Source: arXiv 2408.06266, eq. 7.

    >>> apo_zero(torch.tensor([0.05]), torch.tensor([-0.03]))
    tensor([0.9800])
    """
    return 1 - chosen.sigmoid() + rejected.sigmoid()


def apo_down(chosen: Tensor, rejected: Tensor) -> Tensor:
    """APO-down's loss: lowers both sides, the rejected side further.

    Source: arXiv 2408.06266, eq. 8.

    >>> apo_down(torch.tensor([0.05]), torch.tensor([-0.03]))
    tensor([0.9925])
    """
    return chosen.sigmoid() + 1 - (chosen - rejected).sigmoid()


def discopop(margin: Tensor, tau: float) -> Tensor:
    """DiscoPOP's loss: blends from DPO's loss to the exponential loss, exp(-margin), as the margin grows.

    Source: arXiv 2406.08414, eq. 5. `tau` > 0 is the width of the transition. The product of the exponential loss and
    its weight is computed in log space: at a very negative margin the loss would overflow, while its weight is 0.

    >>> discopop(torch.tensor([0.08, -500.0]), 0.05)
    tensor([  0.8779, 500.0000])
    """
    return (-margin / tau).sigmoid() * -logsigmoid(margin) + (logsigmoid(margin / tau) - margin).exp()


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """ORPO's log odds ratio, log odds(chosen) - log odds(rejected), of log-probs averaged over tokens.

    `chosen` and `rejected` are clamped to at most -1e-6. Source: arXiv 2403.07691, eq. 4 and 7.

    >>> odds_ratio(torch.tensor([-0.5]), torch.tensor([-1.0]))
    tensor([0.9741])
    """
    return log_odds(chosen) - log_odds(rejected)


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of log-probs, which are clamped to at most -1e-6.

    >>> log_odds(torch.tensor([0.25]).log())
    tensor([-1.0986])
    """
    bounded = logp.clamp(max=MAX_LOG_PROB)
    return bounded - (-torch.expm1(bounded)).log()


def alpha_divergence(log_ratio: Tensor, alpha: float) -> Tensor:
    """The score f'(exp(x)) of a log-ratio x under the alpha-divergence, (exp((alpha - 1) x) - 1) / (alpha - 1).

    `alpha` 0 is the forward KL, 1 - exp(-x); at 1 it is undefined, with the limit x, the reverse KL. The exponent is
    clamped to at most 80. Source: arXiv 2309.16240.

    >>> alpha_divergence(torch.tensor([0.5]), 0.5), alpha_divergence(torch.tensor([0.5]), 0.0)
    (tensor([0.4424]), tensor([0.3935]))
    """
    return torch.expm1(((alpha - 1) * log_ratio).clamp(max=MAX_EXPONENT)) / (alpha - 1)


def js_divergence(log_ratio: Tensor) -> Tensor:
    """The score f'(exp(x)) of a log-ratio x under the Jensen-Shannon divergence, log 2 + log sigma(x).

    Source: arXiv 2309.16240.

    >>> js_divergence(torch.tensor([0.0]))
    tensor([0.])
    """
    return math.log(2) + logsigmoid(log_ratio)

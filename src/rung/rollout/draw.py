"""Draws tokens from logits by pure functions: top-k, top-p and min-p, and sampling with a given uniform number."""

from __future__ import annotations

import torch
from torch import Tensor

from rung.sampling import Sampling

_BLOCK = 512  # weights are summed in blocks first; one float64 cumulative sum over 152k tokens takes 7 times as long


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The token drawn for each row with its uniform random number, and the token's log-prob before truncation.

    Log-probs are in nats at the sampling temperature (at 1 for greedy decoding, which ignores the uniforms).
    Shapes: (n, V) float32, (n,) float64 in [0, 1) -> (n,) int64, (n,) float32. Raises nothing.

    >>> logits = torch.tensor([[0.5, 0.2, 0.3]]).log()
    >>> greedy = Sampling(max_completion_length=1, temperature=0)
    >>> token, logp = draw(logits, torch.tensor([0.9]).double(), greedy)
    >>> token.item(), round(logp.exp().item(), 3)
    (0, 0.5)
    """
    if sampling.temperature == 0:
        logps = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logps = (logits / sampling.temperature).log_softmax(-1)
        kept = truncate(logps, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)
        tokens = inverse_cdf(kept.exp(), uniforms)
    return tokens, logps.gather(1, tokens[:, None])[:, 0]


def keep_top_k(logps: Tensor, top_k: int) -> Tensor:
    """A mask that is true for the `top_k` most likely tokens of each row, and for tokens as likely as the last of them.

    Shapes: (n, V) -> (n, V) bool. `top_k` is at least 1. Raises nothing.

    >>> keep_top_k(torch.tensor([[0.5, 0.2, 0.3]]).log(), 2).tolist()
    [[True, False, True]]
    """
    smallest = logps.topk(min(top_k, logps.shape[-1]), dim=-1).values[:, -1:]
    return logps >= smallest


def keep_top_p(logps: Tensor, top_p: float) -> Tensor:
    """A mask that is true for the most likely tokens of each row, as few as have together `top_p` of the probability.

    Probabilities are normalised by their sum over the row. The token that reaches `top_p` is kept, so that at least one
    is, and tokens as likely as this one are kept too. Shapes: (n, V) -> (n, V) bool. `top_p` in (0, 1]. Raises nothing.
    Source: arXiv 1904.09751, section 3.1.

    >>> keep_top_p(torch.tensor([[0.5, 0.2, 0.3]]).log(), 0.6).tolist()
    [[True, False, True]]
    """
    vocabulary = logps.shape[-1]
    mass = logps.exp().sum(-1, keepdim=True, dtype=torch.float64)
    for width in (min(_BLOCK, vocabulary), vocabulary):  # sorting the whole vocabulary is slow and rarely needed
        ordered = logps.topk(width, dim=-1).values
        shares = ordered.double().exp() / mass
        held = shares.cumsum(-1)
        if (held[:, -1] >= top_p).all():
            break
    last = ((held - shares) < top_p).sum(-1, keepdim=True) - 1
    return logps >= ordered.gather(-1, last)


def keep_min_p(logps: Tensor, min_p: float) -> Tensor:
    """A mask that is true for tokens at least `min_p` times as likely as the most likely token of the row.

    Shapes: (n, V) -> (n, V) bool. `min_p` in [0, 1]. Raises nothing. Source: arXiv 2407.01082, section 3.

    >>> keep_min_p(torch.tensor([[0.5, 0.2, 0.3]]).log(), 0.5).tolist()
    [[True, False, True]]
    """
    return logps.exp() >= min_p * logps.amax(-1, keepdim=True).exp()


def truncate(logps: Tensor, *, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The log-probs, with -inf for tokens that top-k, top-p or min-p drop; they are not renormalised.

    Top-k is applied first, then top-p and min-p, each to the remaining tokens, as in transformers. Shapes: (n, V) ->
    (n, V). `top_k` 0, `top_p` 1 and `min_p` 0 drop nothing. Raises nothing.

    >>> truncate(torch.tensor([[0.5, 0.2, 0.3]]).log(), top_k=2, top_p=0.6, min_p=0.0).exp()
    tensor([[0.5000, 0.0000, 0.0000]])
    """
    if top_k > 0:
        logps = logps.where(keep_top_k(logps, top_k), -torch.inf)
    if top_p < 1.0:
        logps = logps.where(keep_top_p(logps, top_p), -torch.inf)
    if min_p > 0.0:
        logps = logps.where(keep_min_p(logps, min_p), -torch.inf)
    return logps


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws a token for each row, with probabilities proportional to `weights`, by inverting the cumulative sum.

    The token is the first one at which the cumulative weight, divided by the total, exceeds the uniform number; its
    weight is never zero. Weights are summed in float64, first by blocks of 512 and then within the selected block, so
    that a large vocabulary is summed only once.
    Shapes: (n, V) non-negative with a positive entry in each row, (n,) float64 in [0, 1) -> (n,) int64. Raises nothing.

    >>> weights = torch.tensor([[0.0, 1.0, 3.0]])
    >>> [inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)).item() for u in (0.0, 0.24, 0.25, 0.99)]
    [1, 1, 2, 2]
    """
    vocabulary = weights.shape[1]
    size = min(_BLOCK, vocabulary)
    blocks = torch.nn.functional.pad(weights, (0, -vocabulary % size)).unflatten(1, (-1, size))
    edges = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms[:, None] * edges[:, -1:]
    block = _pick(edges, target)
    below = torch.nn.functional.pad(edges, (1, 0)).gather(1, block)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, size))[:, 0].cumsum(-1, dtype=torch.float64)
    tokens = block * size + _pick(inside, target - below)
    return tokens[:, 0].clamp(max=vocabulary - 1)  # only NaN weights give an index beyond the vocabulary


def _pick(cdf: Tensor, target: Tensor) -> Tensor:
    """(n, 1) the first index at which the cumulative sum exceeds the target.

    If there is none, because of rounding, the last index with a positive weight. `right=True` is necessary: a target of
    0 must select the first index with a positive weight, not an earlier one with weight 0.
    """
    last = torch.searchsorted(cdf, cdf[:, -1:].contiguous()).clamp(max=cdf.shape[1] - 1)
    return torch.searchsorted(cdf, target, right=True).minimum(last)

"""Hidden states to log-probs: the only place where logits of a whole vocabulary exist."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rung.algorithm import Readout

LOGITS_BYTES = 256 * 2**20  # logits of more than this are made in chunks and made again in the backward pass


def score(
    causal_lm: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float, readouts: tuple[Readout, ...]
) -> tuple[Tensor, ...]:
    """Log-probs of the targets, and the readouts of their logits, chunk by chunk; logits never leave this function.

    Shapes: (n, H), (n,) int64 -> (n,) and (n,) for each readout, float32.
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        scaled = logits(causal_lm, hidden).float() / temperature
        logps = scaled.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return logps, *(readout(scaled) for readout in readouts)

    size = max(1, LOGITS_BYTES // (4 * causal_lm.config.vocab_size))
    if len(hidden) <= size:
        return chunk(hidden, targets)
    pieces = [
        checkpoint(chunk, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return tuple(torch.cat(same) for same in zip(*pieces, strict=True))


def logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(n, H) -> (n, V): the LM head, with the scaling and soft cap that a few families put behind it."""
    config = causal_lm.config
    head = causal_lm.get_output_embeddings()
    assert head is not None, "a causal LM has a head"
    raw = head(hidden) / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return raw if cap is None else torch.tanh(raw / cap) * cap

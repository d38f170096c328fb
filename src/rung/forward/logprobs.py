"""Hidden states to log-probs: the only place where logits of a whole vocabulary exist."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rung.batch import Readout, TeacherReadout

LOGITS_BYTES = 256 * 2**20  # logits of more than this are made in chunks and made again in the backward pass


@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """A teacher, its hidden states at the tokens that are scored, and what is read of both models' logits."""

    causal_lm: PreTrainedModel
    hidden: Tensor  # (n, H), of a width of its own
    readouts: tuple[TeacherReadout, ...]


def target_logps(
    causal_lm: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    readouts: tuple[Readout, ...],
    teaching: TeacherInputs | None = None,
) -> tuple[Tensor, ...]:
    """Log-probs of the targets, and the readouts of their logits, chunk by chunk; logits never leave this function.

    Shapes: (n, H), (n,) int64 -> (n,) and (n,) for each readout, the teacher's last, float32.
    """

    def chunk(hidden: Tensor, targets: Tensor, taught: Tensor | None = None) -> tuple[Tensor, ...]:
        scaled = head_logits(causal_lm, hidden).float() / temperature
        logps = scaled.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        read = tuple(readout(scaled) for readout in readouts)
        if teaching is None or taught is None:
            return logps, *read
        with torch.no_grad():
            teachers = head_logits(teaching.causal_lm, taught).float() / temperature
        # Heads of one family are padded to different sizes: what one of them lacks is the id of no token.
        width = min(scaled.shape[-1], teachers.shape[-1])
        return logps, *read, *(readout(scaled[:, :width], teachers[:, :width]) for readout in teaching.readouts)

    inputs = [hidden, targets, *([teaching.hidden] if teaching is not None else [])]
    heads = [causal_lm, *([teaching.causal_lm] if teaching is not None else [])]
    size = max(1, LOGITS_BYTES // (4 * sum(head.config.vocab_size for head in heads)))
    if len(hidden) <= size:
        return chunk(*inputs)
    split = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    pieces = [checkpoint(chunk, *piece, use_reentrant=False) for piece in split]
    return tuple(torch.cat(same) for same in zip(*pieces, strict=True))


def head_logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(n, H) -> (n, V): the LM head, with the scaling and soft cap that a few families put behind it."""
    config = causal_lm.config
    head = causal_lm.get_output_embeddings()
    assert head is not None, "a causal LM has a head"
    raw = head(hidden) / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return raw if cap is None else torch.tanh(raw / cap) * cap

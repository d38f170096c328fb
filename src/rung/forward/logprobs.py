"""Log-probs from hidden states: the only code in training that computes logits over the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rung.batch import Readout, TeacherReadout
from rung.models.vocabulary import without_unused

LOGITS_BYTES = 256 * 2**20  # larger logits are computed in chunks and recomputed in the backward pass


@dataclass(frozen=True, slots=True)
class TeacherInputs:
    """A teacher, its hidden states at the trained tokens, and the readouts that compare both models' logits."""

    causal_lm: PreTrainedModel
    hidden: Tensor  # (n, H), where H may differ from the policy's
    readouts: tuple[TeacherReadout, ...]


def target_logps(
    causal_lm: PreTrainedModel,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    readouts: tuple[Readout, ...],
    teacher: TeacherInputs | None = None,
) -> tuple[Tensor, ...]:
    """Log-probs of the target tokens and readouts of their logits, computed in chunks so that logits are not kept.

    Shapes: (n, H), (n,) int64 -> (n,) and (n,) for each readout, teacher readouts last, float32. A readout is a
    function of the logits that returns one number per token, such as the entropy.
    """

    def chunk(hidden: Tensor, targets: Tensor, teacher_hidden: Tensor | None = None) -> tuple[Tensor, ...]:
        scaled = head_logits(causal_lm, hidden).float() / temperature
        logps = scaled.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        read = tuple(readout(scaled) for readout in readouts)
        if teacher is None or teacher_hidden is None:
            return logps, *read
        with torch.no_grad():
            teacher_logits = head_logits(teacher.causal_lm, teacher_hidden).float() / temperature
        # Models of one family pad their LM heads to different sizes; ids in only one of the heads belong to no token.
        width = min(scaled.shape[-1], teacher_logits.shape[-1])
        shared = scaled[:, :width], teacher_logits[:, :width]
        return logps, *read, *(readout(*shared) for readout in teacher.readouts)

    inputs = [hidden, targets, *([teacher.hidden] if teacher is not None else [])]
    heads = [causal_lm, *([teacher.causal_lm] if teacher is not None else [])]
    size = max(1, LOGITS_BYTES // (4 * sum(head.config.vocab_size for head in heads)))
    if len(hidden) <= size:
        return chunk(*inputs)
    split = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    pieces = [checkpoint(chunk, *piece, use_reentrant=False) for piece in split]
    return tuple(torch.cat(same) for same in zip(*pieces, strict=True))


def head_logits(causal_lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits (n, V) of hidden states (n, H), with the logit scaling and soft cap of some model families.

    V is the number of tokens, without the rows that pad the head.
    """
    config = causal_lm.config
    head = causal_lm.get_output_embeddings()
    assert head is not None, "the causal LM has no output embeddings"
    raw = (
        without_unused(causal_lm, head(hidden))
        / getattr(config, "logits_scaling", 1.0)
        * getattr(config, "logit_scale", 1.0)
    )
    cap = getattr(config, "final_logit_softcapping", None)
    return raw if cap is None else torch.tanh(raw / cap) * cap

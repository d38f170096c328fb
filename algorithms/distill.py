"""Distillation: the policy learns a teacher's next-token distribution, on its own samples or on given answers.

    p_s, p_t = softmax(logits / temperature) of the policy and of the teacher
    beta = 0:  D = KL(p_t || p_s), the forward KL: mode-covering, the policy covers all that is likely under the teacher
    beta = 1:  D = KL(p_s || p_t), the reverse KL: mode-seeking, the policy keeps to the teacher's most likely tokens
    between:   D = beta KL(p_t || m) + (1 - beta) KL(p_s || m),  m = beta p_t + (1 - beta) p_s
    loss = sum_i sum_t m_it D_it / sum_i sum_t m_it

Source: Agarwal et al. 2024 (arXiv 2306.13649), eq. 1 and 2; on the policy's own samples it is on-policy distillation.
`beta` 0 and 1 are special cases, because the generalised Jensen-Shannon divergence goes to 0 at both. No gradient flows
through the sampling of tokens.

How we differ from TRL: one temperature, the stage's, applies to sampling and to both distributions, while GKDTrainer's
applies only to sampling; the sums run over the whole optimizer step; LM heads of different sizes with one tokenizer are
compared on the ids that both have.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, Need
from rung.batch import Batch, Denominator, Loss, Outputs, Readout, TeacherReadout
from rung.maths.tensors import entropy, entropy_detached, forward_kl, jensen_shannon, masked_sum, reverse_kl
from rung.metrics import mean_of


class Distill(Algorithm):
    """Distillation from a teacher, on the policy's own samples or on given completions.

    Defaults: completions, beta (TRL's DistillationTrainer).
    """

    name: ClassVar = "distill"
    reads_rewards: ClassVar = False

    completions: Literal["policy", "data"] = "policy"
    """Answers to train on: samples of the current policy, or those in the data."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """Divergence: 0 is the forward KL, 1 the reverse KL, between them the generalised Jensen-Shannon divergence."""

    def data_kind(self) -> DataKind:
        """Prompts to sample from, or given answers."""
        return "prompts" if self.completions == "policy" else "text"

    def needs(self) -> frozenset[Need]:
        """A teacher model."""
        return frozenset({"teacher"})

    def terms(self) -> Mapping[str, Denominator]:
        """The divergence, a mean over trained tokens."""
        return {"divergence": "tokens"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, for metrics."""
        return {"entropy": entropy_detached}

    def teacher_readouts(self) -> Mapping[str, TeacherReadout]:
        """The divergence selected by `beta`, and the teacher's entropy."""
        ends: dict[float, TeacherReadout] = {0.0: forward_kl, 1.0: reverse_kl}
        divergence = ends.get(self.beta) or partial(jensen_shannon, beta=self.beta)
        return {"divergence": divergence, "teacher_entropy": teacher_entropy}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed divergence of the trained tokens."""
        mask, read = batch.loss_mask, outputs.readouts
        return Loss(
            {"divergence": masked_sum(read["divergence"], mask).sum()},
            {name: mean_of(read[name], mask) for name in ("entropy", "teacher_entropy")},
        )


def teacher_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Entropy of the teacher, (n, V), (n, V) -> (n,) in nats; a teacher readout."""
    return entropy(teacher_logits)

"""Distillation: the policy learns the next-token distribution of a teacher, at each token of its own or given answers.

    p_s, p_t = softmax(logits / temperature) of the policy and of the teacher
    beta = 0:  D = KL(p_t || p_s), the forward KL, which spreads over all that the teacher finds likely
    beta = 1:  D = KL(p_s || p_t), the reverse KL, which keeps to where the teacher is sure
    between:   D = beta KL(p_t || m) + (1 - beta) KL(p_s || m),  m = beta p_t + (1 - beta) p_s
    loss = sum_i sum_t m_it D_it / sum_i sum_t m_it

Source: Agarwal et al. 2024 (arXiv 2306.13649), eq. 1 and 2; on the policy's own samples it is on-policy distillation.
The ends of `beta` are special cases: the generalised Jensen-Shannon divergence itself goes to 0 there. No gradient
flows through which tokens were sampled.

How we differ from TRL: one temperature, the stage's, in sampling and in both distributions, where GKDTrainer's only
samples; the sums run over the whole optimizer step; heads of different sizes over one tokenizer are compared on the
ids that both have.
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
    """Whose answers are learnt on: the policy's, sampled as it learns, or those of the data."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """Which divergence: 0 forward KL, 1 reverse KL, between them the generalised Jensen-Shannon divergence."""

    def data_kind(self) -> DataKind:
        """Prompts to sample from, or given answers."""
        return "prompts" if self.completions == "policy" else "text"

    def needs(self) -> frozenset[Need]:
        """A teacher."""
        return frozenset({"teacher"})

    def terms(self) -> Mapping[str, Denominator]:
        """A mean over trained tokens."""
        return {"divergence": "tokens"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, for metrics."""
        return {"entropy": entropy_detached}

    def teacher_readouts(self) -> Mapping[str, TeacherReadout]:
        """The divergence that `beta` chooses, and the entropy of the teacher."""
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

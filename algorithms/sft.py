"""Supervised fine-tuning: the negative log-likelihood of the trained tokens.

    loss = - sum_i sum_t m_it log pi(y_it | x_i, y_i<t) / sum_i sum_t m_it

Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. Trained tokens (m): every token of raw text after the first,
the completion of a prompt-completion row, the assistant turns of a chat with their end-of-turn tokens.

How we differ: the sums run over the whole optimizer step, all parts and ranks, so the weight of a token does not depend
on the micro-batch size or on the lengths of the other rows in its micro-batch.

`loss_type: dft` is dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629, eq. 9): the loss of each token is multiplied
by the token's probability, without a gradient through it, so unlikely tokens do not dominate the gradient.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from rung.algorithm import Algorithm, DataKind
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.maths.tensors import entropy_detached, masked_sum, top_logp
from rung.metrics import mean_of


class SFT(Algorithm):
    """Supervised fine-tuning on text, prompt-completion rows or chats.

    Defaults: loss_type (arXiv 2203.02155); assistant_only_loss (rung; TRL trains every turn).
    """

    name: ClassVar = "sft"

    loss_type: Literal["nll", "dft"] = "nll"
    """Negative log-likelihood (`nll`), or the same times the probability of each token (`dft`, dynamic fine-tuning)."""
    assistant_only_loss: bool = True
    """Train only the assistant turns of a chat; if false, every turn after the first prompt."""

    def data_kind(self) -> DataKind:
        """Texts, chats, or prompts with completions."""
        return "text"

    def trains_on(self) -> Literal["assistant", "all"]:
        """Whether only the assistant turns or all turns are trained."""
        return "assistant" if self.assistant_only_loss else "all"

    def terms(self) -> Mapping[str, Denominator]:
        """The loss, a mean over trained tokens, named after `loss_type`."""
        return {self.loss_type: "tokens"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics."""
        return {"entropy": entropy_detached, "top_logp": top_logp}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed negative log-likelihood of the trained tokens, times their probability for `dft`."""
        mask, logps = batch.loss_mask, outputs.logps
        weighted = logps * logps.detach().exp() if self.loss_type == "dft" else logps
        return Loss(
            {self.loss_type: -masked_sum(weighted, mask).sum()},
            {
                "mean_token_accuracy": mean_of((outputs.logps >= outputs.readouts["top_logp"]).float(), mask),
                "entropy": mean_of(outputs.readouts["entropy"], mask),
            },
        )

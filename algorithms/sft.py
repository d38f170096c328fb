"""Supervised fine-tuning: the negative log-likelihood of the trained tokens.

    loss = - sum_i sum_t m_it log pi(y_it | x_i, y_i<t) / sum_i sum_t m_it

Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5. What is trained (m): every token of raw text after the
first, the completion of a prompt-completion row, the assistant's turns of a chat with their end-of-turn tokens.

How we differ: the sums run over the whole optimizer step, all parts and ranks, so the micro-batch size does not weight
tokens by the length of their neighbours.
"""

from typing import ClassVar, Literal

from rung.algorithm import Algorithm
from rung.batch import Batch, Loss, Outputs
from rung.maths import entropy_detached, masked_sum, top_logp
from rung.metrics import mean_of


class SFT(Algorithm):
    """Supervised fine-tuning on text, prompt-completion rows or chats.

    Defaults: assistant_only_loss (rung; TRL trains every turn).
    """

    name: ClassVar = "sft"
    needs: ClassVar = frozenset({"text"})
    terms: ClassVar = {"nll": "tokens"}
    readouts: ClassVar = {"entropy": entropy_detached, "top_logp": top_logp}

    assistant_only_loss: bool = True
    """Train the assistant's turns of a chat alone; else every turn after the first prompt."""

    def trains_on(self) -> Literal["assistant", "all"]:
        """The assistant's turns, or all."""
        return "assistant" if self.assistant_only_loss else "all"

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed negative log-likelihood of the trained tokens."""
        mask = batch.loss_mask
        return Loss(
            {"nll": -masked_sum(outputs.logps, mask).sum()},
            {
                "mean_token_accuracy": mean_of((outputs.logps >= outputs.readouts["top_logp"]).float(), mask),
                "entropy": mean_of(outputs.readouts["entropy"], mask),
            },
        )

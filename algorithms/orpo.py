"""Odds ratio preference optimisation: fine-tuning on the chosen rows plus an odds ratio penalty on the rejected ones.

    a    = mean_t m log pi of a row,  odds = exp(a) / (1 - exp(a))
    loss = - sum_chosen m log pi / sum_chosen m
         + beta times the mean over pairs of - log sigma(log odds_chosen - log odds_rejected)

m is the loss mask. Source: Hong et al. 2024 (arXiv 2403.07691), eq. 4, 6 and 7. There is no reference model; the first
term regularises the policy.

How we differ from TRL: the negative log-likelihood is that of the chosen completion, as in the paper, while TRL also
trains the prompt tokens. It is a mean over the chosen tokens of the whole step, not of a micro-batch. Mean log-probs
are clamped to at most -1e-6, to keep the odds finite.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from rung.algorithm import Algorithm, DataKind
from rung.algorithms.shared.pairs import chosen_nll, chosen_tokens, margins, observed, sides
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.maths.preference_losses import odds_ratio
from rung.maths.tensors import entropy_detached, masked_mean, top_logp
from rung.metrics import mean_of


class ORPO(Algorithm):
    """Odds ratio preference optimisation on pairs, without a reference.

    Defaults: beta (arXiv 2403.07691).
    """

    name: ClassVar = "orpo"
    keep_together: ClassVar = "group"
    group_size: ClassVar = 2

    beta: PositiveFloat = 0.1
    """Weight of the odds ratio loss; the paper's lambda."""

    def data_kind(self) -> DataKind:
        """Preference pairs."""
        return "pairs"

    def terms(self) -> Mapping[str, Denominator]:
        """The negative log-likelihood is a mean over chosen tokens, the odds ratio loss a mean over pairs."""
        return {"nll": chosen_tokens, "odds": "groups"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics."""
        return {"entropy": entropy_detached, "top_logp": top_logp}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed terms over the pairs of a part; rows alternate chosen, rejected."""
        chosen, rejected = sides(masked_mean(outputs.logps, batch.loss_mask))
        log_odds = odds_ratio(chosen, rejected)
        agreement = logsigmoid(log_odds)
        terms = {"nll": chosen_nll(batch, outputs).sum(), "odds": -self.beta * agreement.sum()}
        odds = {"log_odds_chosen": mean_of(log_odds), "log_odds_ratio": mean_of(agreement)}
        return Loss(terms, {**margins(self.beta * chosen, self.beta * rejected), **odds, **observed(batch, outputs)})

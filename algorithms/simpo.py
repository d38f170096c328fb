"""Simple preference optimisation: the reward of an answer is its mean log-prob, without a reference.

    a    = mean_t m log pi of a row
    loss = - log sigma(beta (a_chosen - a_rejected) - gamma), mean over pairs

Source: Meng et al. 2024 (arXiv 2405.14734), eq. 6. The mean takes away what length alone would gain; gamma is the
margin that a pair must have. `cpo_alpha` adds the negative log-likelihood of the chosen rows, a mean over their tokens.

How we differ from TRL, where this is a loss of `CPOTrainer`: `beta` and `simpo_gamma` have the paper's values and not
CPO's 0.1 and 0.5, and `cpo_alpha`, which is 1 there, is 0.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from rung import pair_losses
from rung.algorithm import Algorithm
from rung.batch import Batch, Loss, Outputs, Unit
from rung.errors import ConfigError
from rung.maths import entropy_detached, masked_mean, top_logp
from rung.pairs import chosen_nll, chosen_tokens, margins, observed, sides


class SimPO(Algorithm):
    """Simple preference optimisation on pairs, without a reference.

    Defaults: beta, simpo_gamma, cpo_alpha (arXiv 2405.14734).
    """

    name: ClassVar = "simpo"
    needs: ClassVar = frozenset({"pairs"})
    unit: ClassVar = "group"
    group_size: ClassVar = 2
    readouts: ClassVar = {"entropy": entropy_detached, "top_logp": top_logp}

    beta: PositiveFloat = 2.0
    """What a nat a token is worth."""
    simpo_gamma: NonNegativeFloat = 1.0
    """The margin that the chosen row must have; half of `beta` at first, at most `beta`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs believed to be swapped."""
    cpo_alpha: NonNegativeFloat = 0.0
    """Coefficient of the negative log-likelihood of the chosen rows."""

    def refuse(self) -> None:
        """Refuses a margin that no pair has, such as the default one at DPO's beta."""
        if self.simpo_gamma > self.beta:
            nats = self.simpo_gamma / self.beta
            what = f"`simpo_gamma` {self.simpo_gamma:g} at `beta` {self.beta:g} asks for {nats:g} nats a token"
            raise ConfigError(what, "take the paper's 1 at `beta` 2; it is searched from 0 to `beta`")

    def units(self) -> Mapping[str, Unit]:
        """Pairs; chosen tokens for the negative log-likelihood."""
        return {"pairs": "groups", "nll": chosen_tokens} if self.cpo_alpha else {"pairs": "groups"}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss over the pairs of a part; rows alternate chosen, rejected."""
        chosen, rejected = sides(self.beta * masked_mean(outputs.logps, batch.loss_mask))
        margin = chosen - rejected - self.simpo_gamma
        terms = {"pairs": pair_losses.sigmoid(margin, self.label_smoothing).sum()}
        if self.cpo_alpha:
            terms["nll"] = self.cpo_alpha * chosen_nll(batch, outputs).sum()
        return Loss(terms, {**margins(chosen, rejected), **observed(batch, outputs)})

"""Simple preference optimisation: the reward of an answer is its mean log-prob, without a reference.

    a    = mean_t m log pi of a row
    loss = - log sigma(beta (a_chosen - a_rejected) - gamma), mean over pairs

m is the loss mask. Source: Meng et al. 2024 (arXiv 2405.14734), eq. 6. The mean removes the dependence on length; gamma
is the target margin of a pair. `cpo_alpha` adds the negative log-likelihood of the chosen rows, a mean over their
tokens.

How we differ from TRL, where this is a loss of `CPOTrainer`: the defaults of `beta` and `simpo_gamma` are the paper's,
not CPO's 0.1 and 0.5, and `cpo_alpha` defaults to 0 instead of 1.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from rung.algorithm import Algorithm, DataKind
from rung.algorithms.shared.pairs import chosen_nll, chosen_tokens, margins, observed, sides
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.errors import ConfigError
from rung.maths import preference_losses as pair_losses
from rung.maths.tensors import entropy_detached, masked_mean, top_logp


class SimPO(Algorithm):
    """Simple preference optimisation on pairs, without a reference.

    Defaults: beta, simpo_gamma, cpo_alpha (arXiv 2405.14734).
    """

    name: ClassVar = "simpo"
    keep_together: ClassVar = "group"
    group_size: ClassVar = 2

    beta: PositiveFloat = 2.0
    """Scale of the reward, which is beta times the mean log-prob of an answer."""
    simpo_gamma: NonNegativeFloat = 1.0
    """Target reward margin between the chosen and the rejected row; half of `beta` is a good start, at most `beta`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed fraction of pairs with swapped labels."""
    cpo_alpha: NonNegativeFloat = 0.0
    """Coefficient of the negative log-likelihood of the chosen rows."""

    def data_kind(self) -> DataKind:
        """Preference pairs."""
        return "pairs"

    def check_settings(self) -> None:
        """Raises ConfigError for a margin that no pair can reach, such as the default margin with DPO's beta."""
        if self.simpo_gamma > self.beta:
            nats = self.simpo_gamma / self.beta
            what = f"`simpo_gamma` {self.simpo_gamma:g} at `beta` {self.beta:g} requires {nats:g} nats per token"
            raise ConfigError(what, "use the paper's `simpo_gamma` 1 at `beta` 2, or a value between 0 and `beta`")

    def terms(self) -> Mapping[str, Denominator]:
        """The preference loss, a mean over pairs, and the negative log-likelihood, a mean over chosen tokens."""
        return {"pairs": "groups", "nll": chosen_tokens} if self.cpo_alpha else {"pairs": "groups"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics."""
        return {"entropy": entropy_detached, "top_logp": top_logp}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss over the pairs of a part; rows alternate chosen, rejected."""
        chosen, rejected = sides(self.beta * masked_mean(outputs.logps, batch.loss_mask))
        margin = chosen - rejected - self.simpo_gamma
        terms = {"pairs": pair_losses.sigmoid(margin, self.label_smoothing).sum()}
        if self.cpo_alpha:
            terms["nll"] = self.cpo_alpha * chosen_nll(batch, outputs).sum()
        return Loss(terms, {**margins(chosen, rejected), **observed(batch, outputs)})

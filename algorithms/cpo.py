"""Contrastive preference optimisation: DPO's loss without a reference, plus the likelihood of the chosen rows.

    s    = sum_t m log pi of a row
    loss = mean over pairs of - log sigma(beta (s_chosen - s_rejected))
         + alpha (- sum_chosen m log pi / sum_chosen m)

m is the loss mask. Source: Xu et al. 2024 (arXiv 2401.08417), eq. 3. The losses `hinge` and `ipo` (on mean log-probs)
are those of `dpo`.

How we differ from TRL: the negative log-likelihood is a mean over the chosen tokens of the whole step, not of a
micro-batch; `simpo` is a separate algorithm with its own defaults.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import Algorithm, DataKind
from rung.algorithms.shared.pairs import chosen_nll, chosen_tokens, margins, observed, sides
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.errors import ConfigError
from rung.maths import preference_losses as pair_losses
from rung.maths.tensors import entropy_detached, masked_mean, masked_sum, top_logp


class CPO(Algorithm):
    """Contrastive preference optimisation on pairs, without a reference.

    Defaults: beta, cpo_alpha, loss_type (arXiv 2401.08417).
    """

    name: ClassVar = "cpo"
    keep_together: ClassVar = "group"
    group_size: ClassVar = 2

    beta: PositiveFloat = 0.1
    """Scale of the log-prob difference between the chosen and the rejected row."""
    cpo_alpha: NonNegativeFloat = 1.0
    """Coefficient of the negative log-likelihood of the chosen rows."""
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Preference loss of each pair."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed fraction of pairs with swapped labels; `sigmoid` only."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_smoothing and self.loss_type != "sigmoid":
            what = f"`label_smoothing` has no effect with `loss_type: {self.loss_type}`"
            raise ConfigError(what, "leave out `label_smoothing`, or set `loss_type: sigmoid`")
        return self

    def data_kind(self) -> DataKind:
        """Preference pairs."""
        return "pairs"

    def terms(self) -> Mapping[str, Denominator]:
        """The preference loss, a mean over pairs, and the negative log-likelihood, a mean over chosen tokens."""
        return {"pairs": "groups", "nll": chosen_tokens} if self.cpo_alpha else {"pairs": "groups"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics."""
        return {"entropy": entropy_detached, "top_logp": top_logp}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed terms over the pairs of a part; rows alternate chosen, rejected."""
        reduce = masked_mean if self.loss_type == "ipo" else masked_sum
        chosen, rejected = sides(reduce(outputs.logps, batch.loss_mask))
        terms = {"pairs": self._pair_loss(chosen - rejected).sum()}
        if self.cpo_alpha:
            terms["nll"] = self.cpo_alpha * chosen_nll(batch, outputs).sum()
        return Loss(terms, {**margins(self.beta * chosen, self.beta * rejected), **observed(batch, outputs)})

    def _pair_loss(self, difference: Tensor) -> Tensor:
        match self.loss_type:
            case "sigmoid":
                return pair_losses.sigmoid(self.beta * difference, self.label_smoothing)
            case "hinge":
                return pair_losses.hinge(self.beta * difference)
            case "ipo":
                return pair_losses.ipo(difference, self.beta)

"""Direct preference optimisation: a pair's implied reward margin, without a reward model.

    u = sum_t m (log pi - log ref) of the chosen row, v of the rejected row
    loss = - log sigma(beta (u - v)), mean over pairs

Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. `loss_type` is one of, or a weighted list of,
`sigmoid` (with `label_smoothing`: conservative DPO), `ipo` (arXiv 2310.12036), `hinge` (SLiC, arXiv 2305.10425) and
`sft` (the negative log-likelihood of the chosen rows).

How we differ from TRL: `label_smoothing` acts on `sigmoid` and is refused elsewhere; the `sft` term is a mean over the
chosen tokens of the whole step, not of a micro-batch; the first completion token is trained whatever the prompt.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import Algorithm
from rung.batch import Batch, Loss, Outputs, Unit
from rung.maths import entropy_detached, hinge_pair, ipo_pair, masked_mean, masked_sum, sigmoid_pair, top_logp
from rung.metrics import Metric, mean_of

LossType = Literal["sigmoid", "ipo", "hinge", "sft"]


def chosen_tokens(batch: Batch) -> Tensor:
    """Trained tokens of the chosen rows: the denominator of the `sft` term."""
    return batch.loss_mask[::2].sum()


class DPO(Algorithm):
    """Direct preference optimisation on pairs, against a frozen reference.

    Defaults: beta, loss_type (arXiv 2305.18290).
    """

    name: ClassVar = "dpo"
    needs: ClassVar = frozenset({"pairs", "reference"})
    unit: ClassVar = "group"
    group_size: ClassVar = 2
    readouts: ClassVar = {"entropy": entropy_detached, "top_logp": top_logp}

    beta: PositiveFloat = 0.1
    """Strength of the pull towards the reference."""
    loss_type: LossType | tuple[LossType, ...] = "sigmoid"
    """One loss, or several to be added."""
    loss_weights: tuple[float, ...] | None = None
    """A weight for each of `loss_type`; 1 each without them."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs believed to be swapped; `sigmoid` only."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = self._types()
        if not kinds:
            raise ValueError("`loss_type` names no loss; give at least one")
        if len(set(kinds)) < len(kinds):
            raise ValueError("`loss_type` names a loss twice; give it once with a larger weight")
        if self.loss_weights is not None and len(self.loss_weights) != len(kinds):
            raise ValueError(
                f"`loss_weights` has {len(self.loss_weights)} numbers for {len(kinds)} losses; give one each"
            )
        if self.label_smoothing and "sigmoid" not in kinds:
            raise ValueError("`label_smoothing` acts on `sigmoid` alone; set it to 0 or add `sigmoid` to `loss_type`")
        return self

    def units(self) -> dict[str, Unit]:
        """`sft` is a mean over chosen tokens, everything else over pairs."""
        return {kind: chosen_tokens if kind == "sft" else "groups" for kind in self._types()}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss of each type over the pairs of a part; rows alternate chosen, rejected."""
        assert batch.ref_logps is not None
        mask = batch.loss_mask
        log_ratio = outputs.logps - batch.ref_logps
        chosen, rejected = pairs(self.beta * masked_sum(log_ratio, mask))
        losses = {
            "sigmoid": lambda: sigmoid_pair(chosen - rejected, self.label_smoothing),
            "hinge": lambda: hinge_pair(chosen - rejected),
            "ipo": lambda: ipo_pair(*pairs(masked_mean(log_ratio, mask)), self.beta),
            "sft": lambda: -masked_sum(outputs.logps, mask)[::2],
        }
        terms = {kind: weight * losses[kind]().sum() for kind, weight in self._weights().items()}
        return Loss(terms, {**margins(chosen, rejected), **observed(batch, outputs)})

    def _types(self) -> tuple[LossType, ...]:
        return (self.loss_type,) if isinstance(self.loss_type, str) else self.loss_type

    def _weights(self) -> dict[LossType, float]:
        return dict(zip(self._types(), self.loss_weights or (1.0,) * len(self._types()), strict=True))


def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
    """(2 x pairs,) -> chosen (pairs,), rejected (pairs,)."""
    chosen, rejected = values.view(-1, 2).unbind(1)
    return chosen, rejected


def margins(chosen: Tensor, rejected: Tensor) -> dict[str, Metric]:
    """TRL's metrics of the implied rewards, each a mean over pairs."""
    return {
        "rewards/chosen": mean_of(chosen),
        "rewards/rejected": mean_of(rejected),
        "rewards/accuracies": mean_of((chosen > rejected).float()),
        "rewards/margins": mean_of(chosen - rejected),
    }


def observed(batch: Batch, outputs: Outputs) -> dict[str, Metric]:
    """Log-probs of both sides (means over pairs), entropy and token accuracy (means over trained tokens)."""
    chosen, rejected = pairs(masked_sum(outputs.logps, batch.loss_mask))
    return {
        "logps/chosen": mean_of(chosen),
        "logps/rejected": mean_of(rejected),
        "entropy": mean_of(outputs.readouts["entropy"], batch.loss_mask),
        "mean_token_accuracy": mean_of((outputs.logps >= outputs.readouts["top_logp"]).float(), batch.loss_mask),
    }

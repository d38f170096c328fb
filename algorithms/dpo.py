"""Direct preference optimisation: fits the implicit reward margin of each pair, without a reward model.

    u = sum_t m (log pi - log ref) of the chosen row, v of the rejected row
    loss = - log sigma(beta (u - v)), mean over pairs

m is the loss mask. Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. `loss_type` is one loss or a list of losses,
which are weighted by `loss_weights`; each is a pure function in `rung.maths.preference_losses`, with its source, but
for `sft`, the negative log-likelihood of the chosen rows. For losses of u - v, `f_divergence_type` replaces u and v by
f'(exp u) and f'(exp v) of another divergence (arXiv 2309.16240); `ld_alpha` scales the tokens beyond the length of the
shorter side (arXiv 2409.06411); `use_weighting` weights each pair by its probability under the policy (arXiv
2406.11827).

How we differ from TRL: `label_smoothing` also applies to `sigmoid` and `sigmoid_norm`; a setting that no selected loss
uses is an error; the `sft` term is a mean over the chosen tokens of the whole step, not of a micro-batch, and is not
weighted by `use_weighting`, a combination on which TRL fails; the first completion token is always trained. `bco_pair`
has no running reward shift, as in TRL 1.16 and unlike the paper. `aot`, which sorts a batch, is not supported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, Need
from rung.algorithms.shared.pairs import chosen_nll, chosen_tokens, damped_tails, margins, observed, sides
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.errors import ConfigError
from rung.maths import preference_losses as losses
from rung.maths.tensors import entropy_detached, log_sum_sq_probs, masked_mean, masked_sum, top_logp

LossType = Literal[
    "sigmoid",
    "sigmoid_norm",
    "robust",
    "hinge",
    "ipo",
    "exo_pair",
    "discopop",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "sft",
]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Inputs of the pair losses, all (pairs,): the log-ratios u and v, and the differences of their scores.

    The score of a log-ratio x is f'(exp x) of the chosen divergence.
    """

    u: Tensor
    v: Tensor
    difference: Tensor  # difference of scores; u - v under the reverse KL
    mean_difference: Tensor  # same, each score divided by its number of trained tokens


class DPO(Algorithm):
    """Direct preference optimisation on pairs, against a frozen reference.

    Defaults: beta, loss_type, f_divergence_type (arXiv 2305.18290); f_alpha_divergence_coef (TRL); discopop_tau (arXiv
    2406.08414).
    """

    name: ClassVar = "dpo"
    keep_together: ClassVar = "group"
    group_size: ClassVar = 2

    beta: PositiveFloat = 0.1
    """Scale of the implicit rewards; larger values keep the policy closer to the reference."""
    loss_type: LossType | tuple[LossType, ...] = "sigmoid"
    """One loss, or several losses that are summed."""
    loss_weights: tuple[NonNegativeFloat, ...] | None = None
    """Weight of each loss in `loss_type`; null means 1 each."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed fraction of pairs with swapped labels."""
    f_divergence_type: Divergence = "reverse_kl"
    """Divergence from the reference, for losses of the difference between both sides."""
    f_alpha_divergence_coef: NonNegativeFloat = 0.5
    """Alpha of `alpha_divergence`: 0 is the forward KL, and the limit at 1 is the reverse KL."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of tokens beyond the length of the pair's shorter side; null means 1."""
    use_weighting: bool = False
    """Weight each pair by the policy's probability of both sides."""
    discopop_tau: PositiveFloat = 0.05
    """Width of the transition between the two losses of `discopop`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = self._types()
        if not kinds:
            raise ConfigError("`loss_type` is empty", "give at least one loss")
        if len(set(kinds)) < len(kinds):
            raise ConfigError("`loss_type` lists a loss twice", "list each loss once, and weight it in `loss_weights`")
        if self.loss_weights is not None and len(self.loss_weights) != len(kinds):
            what = f"`loss_weights` has {len(self.loss_weights)} numbers for {len(kinds)} losses"
            raise ConfigError(what, "give one number per loss")
        for setting, readers in SETTING_READERS.items():
            changed = getattr(self, setting) != type(self).model_fields[setting].default
            if changed and not readers & set(kinds):
                what = f"`{setting}` has no effect with the loss {' and '.join(f'`{kind}`' for kind in kinds)}"
                remedy = f"leave out `{setting}`, or use a loss that reads it: {', '.join(sorted(readers))}"
                raise ConfigError(what, remedy)
        if not self.label_smoothing and (smooth := {"robust", "exo_pair"} & set(kinds)):
            what = f"`{min(smooth)}` needs `label_smoothing`, which is 0"
            raise ConfigError(what, "set `label_smoothing`: 0.1 is usual for `robust`, 1e-3 for `exo_pair`")
        changed = self.f_alpha_divergence_coef != 0.5
        if changed and self.f_divergence_type != "alpha_divergence":
            what = f"`f_alpha_divergence_coef` has no effect with `f_divergence_type: {self.f_divergence_type}`"
            raise ConfigError(what, "leave out `f_alpha_divergence_coef`, or set `f_divergence_type: alpha_divergence`")
        if self.f_alpha_divergence_coef == 1:
            what = "`f_alpha_divergence_coef` is 1, for which the divergence is not defined"
            raise ConfigError(what, "set `f_divergence_type: reverse_kl`, the limit at 1, or use another number")
        return self

    def data_kind(self) -> DataKind:
        """Preference pairs."""
        return "pairs"

    def needs(self) -> frozenset[Need]:
        """A reference model."""
        return frozenset({"reference"})

    def check_settings(self) -> None:
        """Raises ConfigError for a loss with weight 0."""
        unused = [kind for kind, weight in self._weights().items() if not weight]
        if unused:
            what = f"`loss_weights` is 0 for `{unused[0]}`, so this loss has no effect"
            raise ConfigError(what, "leave this loss out of `loss_type`, and its weight out of `loss_weights`")

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics; with `use_weighting` also `log_sum_sq_probs`."""
        measured: dict[str, Readout] = {"entropy": entropy_detached, "top_logp": top_logp}
        return {**measured, "log_sum_sq_probs": log_sum_sq_probs} if self.use_weighting else measured

    def terms(self) -> dict[str, Denominator]:
        """`sft` is a mean over chosen tokens; every other loss is a mean over pairs."""
        return {kind: chosen_tokens if kind == "sft" else "groups" for kind in self._types()}

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss of each type over the pairs of a part; rows alternate chosen, rejected."""
        ratios = self._ratios(batch, outputs.logps)
        weights = pair_weights(batch, outputs) if self.use_weighting else 1.0
        terms = {
            kind: weight * (chosen_nll(batch, outputs) if kind == "sft" else weights * LOSSES[kind](self, ratios)).sum()
            for kind, weight in self._weights().items()
        }
        return Loss(terms, {**margins(self.beta * ratios.u, self.beta * ratios.v), **observed(batch, outputs)})

    def _ratios(self, batch: Batch, logps: Tensor) -> Ratios:
        assert batch.ref_logps is not None
        mask = batch.loss_mask
        log_ratio = logps - batch.ref_logps
        if self.ld_alpha is not None:
            log_ratio = damped_tails(log_ratio, mask, self.ld_alpha)
        total = masked_sum(log_ratio, mask)
        scores = DIVERGENCES[self.f_divergence_type](total, self.f_alpha_divergence_coef)
        chosen, rejected = sides(scores)
        mean_chosen, mean_rejected = sides(scores / mask.sum(1).clamp(min=1))
        return Ratios(*sides(total), chosen - rejected, mean_chosen - mean_rejected)

    def _types(self) -> tuple[LossType, ...]:
        return (self.loss_type,) if isinstance(self.loss_type, str) else self.loss_type

    def _weights(self) -> dict[LossType, float]:
        return dict(zip(self._types(), self.loss_weights or (1.0,) * len(self._types()), strict=True))


LOSSES: Mapping[LossType, Callable[[DPO, Ratios], Tensor]] = {
    "sigmoid": lambda dpo, pair: losses.sigmoid(dpo.beta * pair.difference, dpo.label_smoothing),
    "sigmoid_norm": lambda dpo, pair: losses.sigmoid(dpo.beta * pair.mean_difference, dpo.label_smoothing),
    "robust": lambda dpo, pair: losses.robust(dpo.beta * pair.difference, dpo.label_smoothing),
    "hinge": lambda dpo, pair: losses.hinge(dpo.beta * pair.difference),
    "ipo": lambda dpo, pair: losses.ipo(pair.mean_difference, dpo.beta),
    "exo_pair": lambda dpo, pair: losses.exo(dpo.beta * pair.difference, dpo.label_smoothing),
    "discopop": lambda dpo, pair: losses.discopop(dpo.beta * pair.difference, dpo.discopop_tau),
    "nca_pair": lambda dpo, pair: losses.nca(dpo.beta * pair.u, dpo.beta * pair.v),
    "bco_pair": lambda dpo, pair: losses.bco(dpo.beta * pair.u, dpo.beta * pair.v),
    "sppo_hard": lambda dpo, pair: losses.sppo_hard(pair.u, pair.v, dpo.beta),
    "apo_zero": lambda dpo, pair: losses.apo_zero(dpo.beta * pair.u, dpo.beta * pair.v),
    "apo_down": lambda dpo, pair: losses.apo_down(dpo.beta * pair.u, dpo.beta * pair.v),
}
DIVERGENCES: Mapping[Divergence, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": lambda log_ratio, alpha: log_ratio,
    "forward_kl": lambda log_ratio, alpha: losses.alpha_divergence(log_ratio, 0.0),
    "js_divergence": lambda log_ratio, alpha: losses.js_divergence(log_ratio),
    "alpha_divergence": losses.alpha_divergence,
}
DIFFERENCE_LOSSES = frozenset({"sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "discopop"})
SETTING_READERS: Mapping[str, frozenset[str]] = {
    "label_smoothing": frozenset({"sigmoid", "sigmoid_norm", "robust", "exo_pair"}),
    "discopop_tau": frozenset({"discopop"}),
    "f_divergence_type": DIFFERENCE_LOSSES,
    "ld_alpha": frozenset(LOSSES),
    "use_weighting": frozenset(LOSSES),
}


def pair_weights(batch: Batch, outputs: Outputs) -> Tensor:
    """(pairs,) weights w(chosen) w(rejected), w = exp(mean_t log(p_t / sum_v p_v^2)), without a gradient.

    Source: WPO, arXiv 2406.11827, eq. 2.
    """
    alignment = outputs.logps.detach() - outputs.readouts["log_sum_sq_probs"]
    chosen, rejected = sides(masked_mean(alignment, batch.loss_mask).exp())
    return chosen * rejected

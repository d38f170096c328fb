"""Direct preference optimisation: a pair's implied reward margin, without a reward model.

    u = sum_t m (log pi - log ref) of the chosen row, v of the rejected row
    loss = - log sigma(beta (u - v)), mean over pairs

Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. `loss_type` is one of `LOSSES` or a weighted list of them; each
is a pure function in `rung.maths.preference_losses`, with its source. `sft` is the negative log-likelihood of the
chosen rows. Losses of u - v may use scores f'(exp u), f'(exp v) of another divergence (`f_divergence_type`,
arXiv 2309.16240); `ld_alpha` weights the tokens beyond the shorter side (arXiv 2409.06411), `use_weighting` weights a
pair by its probability under the policy (arXiv 2406.11827).

How we differ from TRL: `label_smoothing` acts on `sigmoid` and `sigmoid_norm` too; a setting that no loss reads is
refused; the `sft` term is a mean over the chosen tokens of the whole step, not of a micro-batch, and stands unweighted
beside `use_weighting`, where TRL fails; the first completion token is trained whatever the prompt. `bco_pair` has no
running shift, as in TRL 1.16 and unlike its paper. There is no `aot`, which sorts a batch.
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
    """What a loss may read of each pair, all (pairs,): log-ratios, and differences of their scores."""

    u: Tensor
    v: Tensor
    difference: Tensor  # of the scores; u - v under the reverse KL
    mean_difference: Tensor  # of the scores, each divided by the number of trained tokens of its side


class DPO(Algorithm):
    """Direct preference optimisation on pairs, against a frozen reference.

    Defaults: beta, loss_type, f_divergence_type (arXiv 2305.18290); f_alpha_divergence_coef (TRL); discopop_tau (arXiv
    2406.08414).
    """

    name: ClassVar = "dpo"
    keep_together: ClassVar = "group"
    group_size: ClassVar = 2

    beta: PositiveFloat = 0.1
    """Strength of the pull towards the reference."""
    loss_type: LossType | tuple[LossType, ...] = "sigmoid"
    """One loss, or several to be added."""
    loss_weights: tuple[NonNegativeFloat, ...] | None = None
    """A weight for each of `loss_type`; 1 each without them."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs believed to be swapped."""
    f_divergence_type: Divergence = "reverse_kl"
    """The divergence from the reference, for losses of the difference of both sides."""
    f_alpha_divergence_coef: NonNegativeFloat = 0.5
    """The alpha of `alpha_divergence`: 0 is the forward KL, towards 1 it becomes the reverse KL."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """The weight of tokens beyond the shorter side of a pair; None = 1."""
    use_weighting: bool = False
    """Weigh each pair by the policy's probability of both sides."""
    discopop_tau: PositiveFloat = 0.05
    """How sharply `discopop` goes from one of its losses to the other."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = self._types()
        if not kinds:
            raise ConfigError("`loss_type` names no loss", "give at least one")
        if len(set(kinds)) < len(kinds):
            raise ConfigError("`loss_type` names a loss twice", "give it once with a larger weight")
        if self.loss_weights is not None and len(self.loss_weights) != len(kinds):
            what = f"`loss_weights` has {len(self.loss_weights)} numbers for {len(kinds)} losses"
            raise ConfigError(what, "give one each")
        for setting, readers in READ_BY.items():
            changed = getattr(self, setting) != type(self).model_fields[setting].default
            if changed and not readers & set(kinds):
                what = f"`{setting}` has no effect on {', '.join(f'`{kind}`' for kind in kinds)}"
                raise ConfigError(what, f"leave it out, or take a loss that reads it: {', '.join(sorted(readers))}")
        if not self.label_smoothing and (smooth := {"robust", "exo_pair"} & set(kinds)):
            what = f"`{min(smooth)}` is made of `label_smoothing`, which is 0"
            raise ConfigError(what, "set `label_smoothing`: 0.1 is usual for `robust`, 1e-3 for `exo_pair`")
        changed = self.f_alpha_divergence_coef != 0.5
        if changed and self.f_divergence_type != "alpha_divergence":
            what = f"`f_alpha_divergence_coef` has no effect on `f_divergence_type: {self.f_divergence_type}`"
            raise ConfigError(what, "leave it out, or set `f_divergence_type: alpha_divergence`")
        if self.f_alpha_divergence_coef == 1:
            what = "`f_alpha_divergence_coef` is 1, where the divergence is not defined"
            raise ConfigError(what, "take its limit, `f_divergence_type: reverse_kl`, or another number")
        return self

    def data_kind(self) -> DataKind:
        """Preference pairs."""
        return "pairs"

    def needs(self) -> frozenset[Need]:
        """A reference."""
        return frozenset({"reference"})

    def check_settings(self) -> None:
        """Raises ConfigError for a loss with weight 0."""
        unused = [kind for kind, weight in self._weights().items() if not weight]
        if unused:
            raise ConfigError(f"`loss_weights` is 0 for `{unused[0]}`", "leave this loss out of `loss_type`")

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy and the most likely token's log-prob, for metrics; with `use_weighting` what its weights need."""
        measured: dict[str, Readout] = {"entropy": entropy_detached, "top_logp": top_logp}
        return {**measured, "log_sum_sq_probs": log_sum_sq_probs} if self.use_weighting else measured

    def terms(self) -> dict[str, Denominator]:
        """`sft` is a mean over chosen tokens, every other loss a mean over pairs."""
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
OF_THE_DIFFERENCE = frozenset({"sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "discopop"})
READ_BY: Mapping[str, frozenset[str]] = {
    "label_smoothing": frozenset({"sigmoid", "sigmoid_norm", "robust", "exo_pair"}),
    "discopop_tau": frozenset({"discopop"}),
    "f_divergence_type": OF_THE_DIFFERENCE,
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

"""Options of group-relative algorithms: the names allowed in a config, and the function behind each name."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from rung.maths.advantages import centre, standardise, standardise_centred, standardise_over_batch
from rung.maths.policy_losses import mask_weights, sequence_mismatch, token_mismatch, truncate_weights
from rung.maths.tensors import (
    k2,
    k3,
    sequence_log_ratio,
    sequence_token_log_ratio,
    summed_log_ratio,
    token_log_ratio,
)

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KLEstimator = Literal["rho_k3", "k3", "k2", "k1"]
Level = Literal["token", "sequence", "sequence_token", "sequence_sum"]
Reduction = Literal["row_mean", "token_mean", "row_sum", "constant"]
Scale = Literal["group", "batch", "centred", "none"]

ADVANTAGES: dict[Scale, Callable[[Tensor, Tensor], Tensor]] = {
    "group": standardise,
    "batch": standardise_over_batch,
    "centred": standardise_centred,
    "none": centre,
}
LOG_RATIOS: dict[Level, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token": lambda logps, old_logps, mask: token_log_ratio(logps, old_logps),
    "sequence": sequence_log_ratio,
    "sequence_token": sequence_token_log_ratio,
    "sequence_sum": summed_log_ratio,
}
MISMATCHES: dict[Correction, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "token_truncate": token_mismatch,
    "token_mask": token_mismatch,
    "sequence_truncate": sequence_mismatch,
    "sequence_mask": sequence_mismatch,
}
BOUNDED: dict[Correction, Callable[[Tensor, float, float], Tensor]] = {
    "token_truncate": truncate_weights,
    "token_mask": mask_weights,
    "sequence_truncate": truncate_weights,
    "sequence_mask": mask_weights,
}
# KL penalties that are added to the loss; `k1` is missing because it is subtracted from the reward.
PENALTIES: dict[KLEstimator, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "rho_k3": lambda logps, old_logps, ref_logps: token_log_ratio(logps, old_logps).exp() * k3(logps, ref_logps),
    "k3": lambda logps, old_logps, ref_logps: k3(logps, ref_logps),
    "k2": lambda logps, old_logps, ref_logps: k2(logps, ref_logps),
}

"""Group sequence policy optimisation: one ratio per completion, the geometric mean of its token ratios.

    s_i  = exp(mean_t (log pi - log pi_old))
    loss = mean_i - min(s_i A_i, clip(s_i, 1 - 3e-4, 1 + 4e-4) A_i)

Source: Zheng et al. 2025 (arXiv 2507.18071), eq. 5. `gspo_token` is eq. 13 of the paper: the ratio of each token has
the value of s_i and the gradient of the token's own log-prob. It equals `gspo` if all tokens of a row have the same
advantage, and allows different ones. `luspo` (arXiv 2602.05261) multiplies the loss of a row by its length, so the
weight of an answer is proportional to its length. Advantages are GRPO's. Without clipping this is REINFORCE with a
baseline, so the paper makes 4 updates per rollout and uses narrow bounds, which suit a mean over tokens. With GRPO's
bound of 0.2 nothing would ever be clipped.

How we differ from the paper: the mean log-ratio is clamped to +-20; with `beta` (0 in the paper) the KL term is
multiplied by the token ratio, as in `grpo`, not by the sequence ratio.
"""

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.options import Level, Reduction


class GSPO(GRPO):
    """Group sequence policy optimisation: GRPO with the ratio of the whole completion.

    Defaults: epsilon, epsilon_high, beta, importance_sampling_level (arXiv 2507.18071).
    """

    name: ClassVar = "gspo"

    epsilon: float = Field(default=3e-4, gt=0, lt=1)
    epsilon_high: PositiveFloat | None = 4e-4
    beta: NonNegativeFloat = 0.0
    importance_sampling_level: Level = "sequence"


class GSPOToken(GSPO):
    """GSPO-token (arXiv 2507.18071, eq. 13): the sequence ratio with a gradient per token."""

    name: ClassVar = "gspo_token"
    importance_sampling_level: Level = "sequence_token"


class LUSPO(GSPO):
    """Length-unbiased sequence policy optimisation (arXiv 2602.05261): GSPO with each row's loss times its length.

    Defaults: reduction (arXiv 2602.05261).
    """

    name: ClassVar = "luspo"
    reduction: Reduction = "row_sum"

"""Group sequence policy optimisation: one ratio for a whole completion, the geometric mean of its tokens' ratios.

    s_i  = exp(mean_t (log pi - log pi_old))
    loss = mean_i - min(s_i A_i, clip(s_i, 1 - 3e-4, 1 + 4e-4) A_i)

Source: Zheng et al. 2025 (arXiv 2507.18071), eq. 5; `gspo_token` is its eq. 13, where each token has the value of s_i
and a gradient of its own: equal to `gspo` while the tokens of a row share an advantage, open to advantages by token.
`luspo` (arXiv 2602.05261) multiplies the loss of a row by its length, so that a long answer weighs by its tokens.
Advantages are GRPO's. Where nothing is clipped this is REINFORCE with a baseline: so the paper makes 4 updates of each
rollout, and its bounds are as narrow as a mean over tokens needs. At GRPO's 0.2 nothing is ever clipped.

How we differ from the paper: the mean log-ratio is clamped to +-20; with `beta` (0 in the paper) the KL term has the
ratio of its own token, as in `grpo`, and not that of the sequence.
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
    """GSPO-token (arXiv 2507.18071, eq. 13): the sequence's ratio with a gradient for each token."""

    name: ClassVar = "gspo_token"
    importance_sampling_level: Level = "sequence_token"


class LUSPO(GSPO):
    """Length-unbiased sequence policy optimisation (arXiv 2602.05261): GSPO with each row times its length.

    Defaults: reduction (arXiv 2602.05261).
    """

    name: ClassVar = "luspo"
    reduction: Reduction = "row_sum"

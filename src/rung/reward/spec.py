"""What a config says of rewards: one entry each, and one policy for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from rung.reward.decorator import Role


class RewardSpec(BaseModel):
    """One reward of a config; `role` None means the function's own, `label` is its name in metrics.

    A gate passes at `score >= threshold`; without a threshold, above 0. A row that fails one gets `fail_value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    weight: float = 1.0
    role: Role | None = None
    args: Mapping[str, Any] = Field(default_factory=dict)
    columns: Mapping[str, str] = Field(default_factory=dict)
    threshold: float | None = None
    fail_value: float = 0.0
    label: str | None = None


class RewardPolicy(BaseModel):
    """How rewards become one number a row, and what a failing one does.

    `on_error`        `drop_row`: a row with a failed reward is unscored; `abstain`: the reward is left out; `raise`.
    `max_error_rate`  share of failed calls of one reward, over its last 1,000, above which training stops.
    `timeout_s`       deadline for rewards that declare none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: tuple[float, float] | None = None
    on_error: Literal["drop_row", "abstain", "raise"] = "drop_row"
    max_error_rate: float = Field(default=0.02, ge=0, le=1)
    timeout_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _clip_is_an_interval(self) -> RewardPolicy:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip {list(self.clip)}: the lowest value comes first and differs from the highest")
        return self

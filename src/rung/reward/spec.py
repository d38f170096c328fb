"""Config models of rewards: one entry per reward, and one policy for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from rung.reward.decorator import Role


class RewardSpec(BaseModel):
    """One reward of a config; `role` None is the function's declared role, `label` is the reward's name in metrics.

    A row passes a gate with `score >= threshold`, without a threshold with `score > 0`; otherwise it gets `fail_value`.
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
    """How rewards are combined into one number per row, and what happens when one fails.

    `on_error`        `drop_row`: the row is unscored; `abstain`: the reward abstains; `raise`: training stops.
    `max_error_rate`  training stops above this share of failed calls of one reward, over its last 1,000.
    `timeout_s`       timeout in seconds for rewards that declare none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: tuple[float, float] | None = None
    on_error: Literal["drop_row", "abstain", "raise"] = "drop_row"
    max_error_rate: float = Field(default=0.02, ge=0, le=1)
    timeout_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _clip_is_an_interval(self) -> RewardPolicy:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"the first value of `clip` {list(self.clip)} must be lower than the second")
        return self

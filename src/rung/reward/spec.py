"""The config models for rewards: `RewardSpec` for each reward, and one `RewardPolicy` for all rewards together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from rung.reward.decorator import Role


class RewardSpec(BaseModel):
    """The entry of one reward in a config; `label` is its name in metrics, by default `name` without module or file.

    If `role` is None, the role is the one that the function declares. A row passes a gate if `score >= threshold` or,
    without a threshold, if `score > 0`; otherwise its total is `fail_value`. `columns` maps parameters of the function
    to columns of the data or to standard fields. `concurrency` is the number of calls at the same time. `env` names the
    environment variables that the function needs although they hold secrets (see `rung.reward.environment`).
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
    concurrency: PositiveInt | None = None
    env: tuple[str, ...] = ()


class RewardPolicy(BaseModel):
    """How rewards are combined into one number per row, and what happens if a reward fails.

    `clip`            the range to which the total of a row is limited.
    `on_error`        what a failure means: `drop_row`: the row is unscored; `abstain`: the reward abstains; `raise`:
                      training stops.
    `max_error_rate`  training stops if one reward fails on a larger share of its last 1,000 calls.
    `timeout_s`       the deadline of a call, in seconds, of rewards that declare none, except those of `rung.rewards`;
                      None: they have none, and run in the training process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    clip: tuple[float, float] | None = None
    on_error: Literal["drop_row", "abstain", "raise"] = "drop_row"
    max_error_rate: float = Field(default=0.02, ge=0, le=1)
    timeout_s: PositiveFloat | None = 60.0

    @model_validator(mode="after")
    def _clip_is_an_interval(self) -> RewardPolicy:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"the first value of `clip` {list(self.clip)} must be lower than the second")
        return self

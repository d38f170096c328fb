"""The config of a gate, which decides after a stage whether its model replaces the previous one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat


class Guard(BaseModel):
    """A metric that must not get worse by `tolerance` or more, in its own unit (0.02 of a rate is two points)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    tolerance: NonNegativeFloat


def _no_repeats(guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
    names = [guard.metric for guard in guards]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"guard each metric once; repeated: {', '.join(sorted(repeated))}")
    return guards


class GateConfig(BaseModel):
    """The conditions for promoting a stage: `metric` improves by more than `min_gain`, and all guards hold.

    `on_gate` is what happens after a stage that is not promoted: with `continue`, the next stage starts from the last
    accepted model; with `stop`, no further stage is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    min_gain: float = 0.0
    guards: Annotated[tuple[Guard, ...], AfterValidator(_no_repeats)] = Field(default=())
    on_gate: Literal["continue", "stop"] = "continue"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the gate reads: `metric` and those of the guards."""
        return (self.metric, *(guard.metric for guard in self.guards))

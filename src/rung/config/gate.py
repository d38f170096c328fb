"""What a config says of a gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat


class Guard(BaseModel):
    """A metric that must not fall by `tolerance` or more, in the metric's own unit (0.02 is two points of a rate)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    tolerance: NonNegativeFloat


def _each_once(guards: tuple[Guard, ...]) -> tuple[Guard, ...]:
    names = [guard.metric for guard in guards]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"guarded more than once: {', '.join(sorted(repeated))}")
    return guards


class GateConfig(BaseModel):
    """What a stage must show to be promoted: one metric that gains more than `min_gain`, and guards that all hold.

    `on_gate` says how the path goes on where the stage is not promoted: from the last promoted model, or not at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    min_gain: float = 0.0
    guards: Annotated[tuple[Guard, ...], AfterValidator(_each_once)] = Field(default=())
    on_gate: Literal["continue", "stop"] = "continue"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the gate reads, so that they can be checked before anything is computed."""
        return (self.metric, *(guard.metric for guard in self.guards))

"""The smaller blocks of a config, which stages and evaluations are made of, and the base class of all blocks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from rung.agents.tools import ToolSpec
from rung.reward import RewardSpec
from rung.utils.secrets import redacted

Auto = Literal["auto"]
Stop = Annotated[str, Field(min_length=1)]


def as_named(value: Any) -> Any:
    """Converts a string to the mapping `{"name": string}`; returns anything else unchanged."""
    return {"name": value} if isinstance(value, str) else value


RewardSpecs = tuple[Annotated[RewardSpec, BeforeValidator(as_named)], ...]
ToolSpecs = tuple[Annotated[ToolSpec, BeforeValidator(as_named)], ...]
EnvironmentFactory = str | dict[str, str]


class Section(BaseModel):
    """The base class of all config blocks: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_secrets(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return redacted(dump(self))


class TokenBatch(Section):
    """A batch size in tokens, for raw text."""

    tokens: PositiveInt


class RolloutConfig(Section):
    """How completions are sampled for training. `batch_size` is the number of prompts per rollout, over all ranks.

    `sampler` is a registered name, `pkg.module:Class` or `./file.py:Class`; `local` samples from the policy itself.
    """

    batch_size: PositiveInt | Auto = "auto"
    max_completion_length: PositiveInt | Auto = "auto"
    temperature: PositiveFloat = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0, lt=1)
    stop: tuple[Stop, ...] = ()
    skip_special_tokens: bool = True
    sampler: str = "local"


class UpdatesConfig(Section):
    """The optimizer steps on one rollout: `epochs` passes over it, each split into `minibatches` steps."""

    epochs: PositiveInt | Auto = "auto"
    minibatches: PositiveInt | Auto = "auto"


class Adapter(Section):
    """The adapter that a stage trains instead of the whole model; `lora` has the keys of `peft.LoraConfig`.

    With `load_in_4bit`, the base weights are quantised while the stage trains (QLoRA).
    """

    lora: dict[str, Any]
    load_in_4bit: bool = False


class EarlyStopping(Section):
    """Stops training if the held-out loss does not fall by more than `threshold` in `patience` evaluations in a row."""

    threshold: NonNegativeFloat = 0.0
    patience: PositiveInt = 1

"""The keys of a path and of its stages: frozen models that know no other keys.

A value `auto` depends on the size of the model; `rung.config.defaults` fills it from `configs/defaults/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
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
    PrivateAttr,
    field_validator,
    model_validator,
)

from rung.config.gate import GateConfig
from rung.errors import ConfigError
from rung.reward import RewardPolicy, RewardSpec
from rung.utils.messages import did_you_mean
from rung.utils.names import safe_name

Auto = Literal["auto"]
DataEntry = str | dict[str, Any]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Stop = Annotated[str, Field(min_length=1)]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]


def as_named(value: Any) -> Any:
    """A plain word as the mapping that it stands for, `{name: word}`; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


RewardSpecs = tuple[Annotated[RewardSpec, BeforeValidator(as_named)], ...]


class Section(BaseModel):
    """A mapping of the config: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class TokenBatch(Section):
    """A batch size in tokens, for raw text."""

    tokens: PositiveInt


class RolloutConfig(Section):
    """How completions are sampled for training. `batch_size` counts prompts per rollout over all ranks.

    `sampler` is `local` (the policy itself), `pkg.module:Class`, `./file.py:Class` or a registered name.
    """

    batch_size: PositiveInt | Auto = "auto"
    max_completion_length: PositiveInt | Auto = "auto"
    temperature: PositiveFloat = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0, lt=1)
    stop: tuple[Stop, ...] = ()
    sampler: str = "local"


class UpdatesConfig(Section):
    """What is learnt from one rollout: `epochs` passes over it, each cut into `minibatches` optimizer steps."""

    epochs: PositiveInt | Auto = "auto"
    minibatches: PositiveInt | Auto = "auto"


class Adapter(Section):
    """Train an adapter and not the whole model; inside `lora` are the keys of `peft.LoraConfig`.

    With `load_in_4bit` what lies below it is quantised while the stage trains.
    """

    lora: dict[str, Any]
    load_in_4bit: bool = False


class EarlyStopping(Section):
    """Stop where the validation loss has not fallen by more than `threshold` in `patience` evaluations."""

    threshold: NonNegativeFloat = 0.0
    patience: PositiveInt = 1


class StageConfig(Section):
    """One rung: an algorithm, what it learns from, and how.

    `start` is the key `from`: an earlier stage, `run:NAME/stage` or a folder; by default the last promoted policy.
    `batch_size` counts prompts, pairs or rows an optimizer step over all ranks. Of `num_train_epochs` and `max_steps`
    one is given at most. `reference` is `start`, the weights that this stage starts from, an earlier stage, or one that
    moves: every `ref_model_sync_steps` steps `sync` makes it the policy, and `ema` gives the policy the share
    `ref_model_mixup_alpha` in it (TR-DPO, 2404.09656). `critic`
    is where values come from: a `head` on the policy, a model of its own that begins as `start` does, or one that
    begins as an earlier stage, such as a reward model. `teacher` is a model to learn from: an earlier stage, or what
    `model` of a path may be.
    """

    name: str
    start: str | None = Field(None, alias="from")
    algorithm: Annotated[dict[str, Any], BeforeValidator(as_named)]
    data: DataEntry | None = None
    rewards: RewardSpecs | None = None
    adapter: Adapter | None = None
    reference: str = "start"
    ref_model_sync_steps: PositiveInt | None = None
    ref_model_mixup_alpha: float | None = Field(None, gt=0, lt=1)
    critic: str | None = None
    teacher: str | None = None
    optimizer: str = "adamw"
    learning_rate: PositiveFloat | Auto = "auto"
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    batch_size: PositiveInt | TokenBatch | Auto = "auto"
    num_train_epochs: PositiveFloat | None = None
    max_steps: PositiveInt | None = None
    rollout: RolloutConfig = RolloutConfig()
    updates: UpdatesConfig = UpdatesConfig()
    max_prompt_length: PositiveInt | Auto = "auto"
    max_length: PositiveInt | Auto = "auto"
    on_overlong: Literal["drop", "error", "truncate"] = "drop"
    on_bad_row: Literal["error", "skip", "quarantine"] = "error"
    token_budget: PositiveInt | Auto = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    early_stopping: EarlyStopping | None = None
    shots: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    gate: GateConfig | None = None
    eval_steps: PositiveInt | None = None
    save_steps: PositiveInt = 100
    seed: Seed | None = None

    @field_validator("adapter", mode="before")
    @classmethod
    def _none_is_a_word(cls, adapter: object) -> object:
        return None if adapter == "none" else adapter

    @field_validator("rollout", "updates", mode="before")
    @classmethod
    def _nothing_is_the_default(cls, block: object) -> object:
        return {} if block is None else block

    @field_validator("algorithm")
    @classmethod
    def _algorithm_has_a_name(cls, algorithm: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(algorithm.get("name"), str):
            raise ConfigError("`algorithm` has no name", "write `algorithm: NAME`, or `algorithm: {name: NAME, ...}`")
        return algorithm

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if self.num_train_epochs is not None and self.max_steps is not None:
            what = f"stage `{self.name}` has both `num_train_epochs` and `max_steps`"
            raise ConfigError(what, "keep one: the other follows from the data")
        return self


class EvaluateConfig(Section):
    """What every stage is measured on. Gates read `validation`; `test` is read once, when the path has finished.

    `metrics` are rewards by another name. `shots` examples, drawn from the data `shots_from`, stand before a question;
    each number of them is a measurement of its own, and the first one is the gate's. Decoding is greedy at
    temperature 0.
    """

    validation: DataEntry | None = None
    test: DataEntry | None = None
    metrics: RewardSpecs = ()
    shots: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    shots_from: DataEntry | None = None
    max_completion_length: PositiveInt | Auto = "auto"
    temperature: NonNegativeFloat = 0.0
    stop: tuple[Stop, ...] = ()
    sampler: str = "local"


class PathConfig(Section):
    """A path: a model, what there is to learn from, how it is judged, and the stages that it climbs.

    `data` names the data that stages refer to; a stage may also spell its data out. `rewards`, `gate` and `seed` hold
    for every stage without its own. Runs are written to `output`/`name`.
    """

    name: str
    model: str
    data: dict[str, DataEntry] = {}
    rewards: RewardSpecs = ()
    reward_policy: RewardPolicy = RewardPolicy()
    evaluate: EvaluateConfig = EvaluateConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    gate: GateConfig | None = None
    seed: Seed = 42
    trackers: tuple[str, ...] = ("jsonl",)
    output: str = "runs"

    _base: Path = PrivateAttr(default_factory=Path)

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: where the config file lies, or where the command was given."""
        return self._base

    def at(self, base: Path) -> PathConfig:
        """The same config with relative paths starting from `base`."""
        copied = self.model_copy()
        copied._base = base
        return copied

    def with_stages(self, stages: Mapping[str, Mapping[str, Any]]) -> PathConfig:
        """The same config with some values of some stages replaced; the values are not validated again."""
        changed = tuple(stage.model_copy(update=dict(stages.get(stage.name, {}))) for stage in self.stages)
        return self.model_copy(update={"stages": changed})

    def data_of(self, spec: DataEntry) -> DataEntry:
        """What a data key means: the data of that name where there is one, else the spec itself.

        Raises ConfigError for a plain word that is neither a name nor a file.
        """
        if not isinstance(spec, str) or spec in self.data:
            return self.data[spec] if isinstance(spec, str) else spec
        if re.fullmatch(r"[\w-]+", spec) and not (self.base / spec).exists():
            raise ConfigError(f"`{spec}` is neither a name in `data` nor a file", did_you_mean(spec, self.data))
        return spec

    def rewards_of(self, stage: StageConfig) -> tuple[RewardSpec, ...]:
        """The rewards of a stage: its own or the path's."""
        return self.rewards if stage.rewards is None else stage.rewards

    def gate_of(self, stage: StageConfig) -> GateConfig | None:
        """The gate of a stage: its own or the path's."""
        return self.gate if stage.gate is None else stage.gate

    def shots_of(self, stage: StageConfig) -> tuple[int, ...]:
        """How many shots a stage is measured with: its own numbers or those of `evaluate`."""
        return self.evaluate.shots if stage.shots is None else stage.shots

    def seed_of(self, stage: StageConfig) -> int:
        """The seed of a stage: its own or the path's."""
        return self.seed if stage.seed is None else stage.seed

    def dump(self) -> dict[str, Any]:
        """The config as plain YAML values, keys spelled as a user spells them."""
        return self.model_dump(mode="json", by_alias=True)

    @field_validator("evaluate", mode="before")
    @classmethod
    def _nothing_is_measured(cls, evaluate: object) -> object:
        return EvaluateConfig() if evaluate is None else evaluate

    @field_validator("name")
    @classmethod
    def _safe(cls, name: str) -> str:
        return safe_name(name, "run")

    @model_validator(mode="after")
    def _stages_look_back(self) -> PathConfig:
        names = [safe_name(stage.name, "stage") for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if stage.name in names[:number]:
                raise ConfigError(f"two stages are called `{stage.name}`", "give each stage a name of its own")
            if stage.name in RESERVED or stage.name in PathConfig.model_fields:
                raise ConfigError(
                    f"a stage cannot be called `{stage.name}`", "the word has a meaning here: take another"
                )
            earlier = ", ".join(names[:number]) or "none"
            if stage.start in names[number:]:
                what = f"stage `{stage.name}` starts from `{stage.start}`, which does not come before it"
                raise ConfigError(what, f"start from an earlier stage ({earlier}), or move `{stage.start}` up")
            if stage.teacher in names[number:]:
                what = f"stage `{stage.name}` has the teacher `{stage.teacher}`, which does not come before it"
                raise ConfigError(what, f"use an earlier stage ({earlier}), a folder, a hub id or `run:NAME/stage`")
            for key, words in (("reference", ("start", *MOVING_REFERENCES)), ("critic", (None, "head", "start"))):
                as_named = getattr(stage, key)
                if as_named not in (*words, *names[:number]):
                    what = f"stage `{stage.name}` has the {key} `{as_named}`, which is no stage before it"
                    choices = ", ".join(f"`{word}`" for word in words if word)
                    raise ConfigError(what, f"use {choices}, or an earlier stage ({earlier})")
        return self


MOVING_REFERENCES = ("ema", "sync")  # words for a reference that moves
RESERVED = frozenset({"start", "head", *MOVING_REFERENCES, "stages"})

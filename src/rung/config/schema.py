"""The keys of a config (those of the path and those of its stages), as frozen pydantic models.

`auto` stands for a value that depends on the model size; `rung.config.defaults` reads it from `configs/defaults/`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from rung.config.blocks import (
    Adapter,
    Auto,
    EarlyStopping,
    EnvironmentFactory,
    RewardSpecs,
    RolloutConfig,
    Section,
    Stop,
    TokenBatch,
    ToolSpecs,
    UpdatesConfig,
    as_named,
)
from rung.config.gate import GateConfig
from rung.data.mixtures import Mixture, mixture
from rung.data.report import MAX_BAD_SHARE
from rung.errors import ConfigError
from rung.reward import RewardPolicy, RewardSpec
from rung.utils.allowed_code import AllowedCode
from rung.utils.messages import did_you_mean
from rung.utils.names import safe_name

DataEntry = str | dict[str, Any] | list[str | dict[str, Any]]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]


class StageConfig(Section):
    """One stage: an algorithm, its data and its training settings.

    `start` (in YAML `from`) is the model to train: an earlier stage, `run:NAME/stage` or a folder; by default the last
    accepted policy. `batch_size` is the number of prompts, pairs or rows per optimizer step, over all ranks. At most
    one of `num_train_epochs` and `max_steps` may be set. `reference` is `start` (the weights that this stage starts
    from), an earlier stage, or a word for a reference that is updated every `ref_model_sync_steps` steps: `sync` sets
    it to the policy, `ema` to an average with weight `ref_model_mixup_alpha` for the policy (TR-DPO, arXiv 2404.09656).
    `critic` is `head` (a value head on the policy), or a separate model, initialised from `start` (the weights that
    this stage starts from) or from an earlier stage, such as a reward model. `teacher` is the model to distill: an
    earlier stage, or whatever the key `model` of the path accepts. A step with nothing to train is left out;
    `max_empty_steps` of them in a row end the run with an error. A policy that is sampled may call `tools`, and the
    public methods of an environment. `environment_factory` is the name of what makes it, or has such names by the value
    of the column `environment`. Calls are answered in at most `max_tool_calling_iterations` turns of a completion, each
    with at most `max_tool_result_tokens` tokens.
    """

    name: str
    start: str | None = Field(None, alias="from")
    algorithm: Annotated[dict[str, Any], BeforeValidator(as_named)]
    data: DataEntry | None = None
    rewards: RewardSpecs | None = None
    tools: ToolSpecs = ()
    environment_factory: EnvironmentFactory | None = None
    max_tool_calling_iterations: PositiveInt | None = None
    max_tool_result_tokens: PositiveInt | None = None
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
    max_bad_share: float = Field(MAX_BAD_SHARE, ge=0, le=1)
    token_budget: PositiveInt | Auto = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    early_stopping: EarlyStopping | None = None
    shots: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    gate: GateConfig | None = None
    eval_steps: PositiveInt | None = None
    save_steps: PositiveInt = 100
    max_empty_steps: PositiveInt = 20
    seed: Seed | None = None

    @field_validator("adapter", mode="before")
    @classmethod
    def _none_means_no_adapter(cls, adapter: object) -> object:
        return None if adapter == "none" else adapter

    @field_validator("rollout", "updates", mode="before")
    @classmethod
    def _null_means_defaults(cls, block: object) -> object:
        return {} if block is None else block

    @field_validator("algorithm")
    @classmethod
    def _check_algorithm_name(cls, algorithm: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(algorithm.get("name"), str):
            raise ConfigError("`algorithm` has no name", "write `algorithm: NAME`, or `algorithm: {name: NAME, ...}`")
        return algorithm

    @model_validator(mode="after")
    def _check_length(self) -> StageConfig:
        if self.num_train_epochs is not None and self.max_steps is not None:
            what = f"stage `{self.name}` has both `num_train_epochs` and `max_steps`"
            raise ConfigError(what, "keep one of them; the other is computed from it and the size of the data")
        return self


class EvaluateConfig(Section):
    """How the stages are evaluated. Gates use the data `validation`; `test` is used once, after the last stage.

    `metrics` has the same entries as `rewards`. `shots` lists numbers of few-shot examples, which are drawn from the
    data `shots_from` and put before each question; the evaluation is repeated for each number, and gates use the
    first. Temperature 0 is greedy decoding. `tools` are those that a model may call, as in a stage.
    """

    validation: DataEntry | None = None
    test: DataEntry | None = None
    metrics: RewardSpecs = ()
    shots: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    shots_from: DataEntry | None = None
    tools: ToolSpecs = ()
    environment_factory: EnvironmentFactory | None = None
    max_tool_calling_iterations: PositiveInt | None = None
    max_tool_result_tokens: PositiveInt | None = None
    max_completion_length: PositiveInt | Auto = "auto"
    temperature: NonNegativeFloat = 0.0
    stop: tuple[Stop, ...] = ()
    skip_special_tokens: bool = True
    sampler: str = "local"


class PathConfig(Section):
    """The config of a path: a model and the stages that train it one after another, with data, rewards and evaluation.

    `chat_template` replaces that of the model: a file, or `trl` for the training template that TRL has for it.
    `data` gives names to data sets, to which stages refer; a stage may also define its data itself. `rewards`, `gate`
    and `seed` apply to every stage that does not set its own. The files of a run are written to `output`/`name`.
    """

    name: str
    model: str
    chat_template: str | None = None
    prompt_template: str | None = None
    system: str | None = None
    data: dict[str, DataEntry] = Field(default_factory=dict)
    rewards: RewardSpecs = ()
    reward_policy: RewardPolicy = RewardPolicy()
    evaluate: EvaluateConfig = EvaluateConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    gate: GateConfig | None = None
    seed: Seed = 42
    date: datetime.date | Literal["today"] = "today"
    trackers: tuple[str, ...] = ("jsonl",)
    output: str = "runs"

    _base: Path = PrivateAttr(default_factory=Path)
    _code: AllowedCode | None = PrivateAttr(default=None)

    @property
    def base(self) -> Path:
        """The folder that relative paths are resolved against: that of the config file, or the working folder."""
        return self._base

    @property
    def code(self) -> AllowedCode | None:
        """The code that the config may name; None allows everything."""
        return self._code

    def at(self, base: Path) -> PathConfig:
        """A copy of the config with relative paths resolved against `base`."""
        copied = self.model_copy()
        copied._base = base
        return copied

    def with_code(self, code: AllowedCode | None) -> PathConfig:
        """A copy of the config that may only name the code that `code` allows; None allows everything."""
        copied = self.model_copy()
        copied._code = code
        return copied

    def with_stages(self, stages: Mapping[str, Mapping[str, Any]]) -> PathConfig:
        """A copy of the config with new values for stages, `{stage name: {key: value}}`, which are not validated."""
        changed = tuple(stage.model_copy(update=dict(stages.get(stage.name, {}))) for stage in self.stages)
        return self.model_copy(update={"stages": changed})

    def data_of(self, spec: DataEntry) -> str | dict[str, Any] | Mixture:
        """The data that an entry refers to: if it is a name in `data`, the data of that name, else the entry itself.

        A list is a mixture, whose entries may be names too. Raises ConfigError for a plain word that is neither a name
        in `data` nor a file.
        """
        if isinstance(spec, str) and spec in self.data:
            spec = self.data[spec]
        elif isinstance(spec, str) and re.fullmatch(r"[\w-]+", spec) and not (self.base / spec).exists():
            raise ConfigError(f"`{spec}` is neither a name in `data` nor a file", did_you_mean(spec, self.data))
        if not isinstance(spec, list):
            return spec
        return mixture([self.data_of(entry) if isinstance(entry, str) else entry for entry in spec])

    def rewards_of(self, stage: StageConfig) -> tuple[RewardSpec, ...]:
        """The rewards of a stage: its own if it sets any, else those of the path."""
        return self.rewards if stage.rewards is None else stage.rewards

    def gate_of(self, stage: StageConfig) -> GateConfig | None:
        """The gate of a stage: its own if it sets one, else that of the path, which may be None."""
        return self.gate if stage.gate is None else stage.gate

    def shots_of(self, stage: StageConfig) -> tuple[int, ...]:
        """The numbers of shots with which a stage is evaluated: its own if it sets any, else those of `evaluate`."""
        return self.evaluate.shots if stage.shots is None else stage.shots

    def seed_of(self, stage: StageConfig) -> int:
        """The seed of a stage: its own if it sets one, else that of the path."""
        return self.seed if stage.seed is None else stage.seed

    def dump(self) -> dict[str, Any]:
        """The config as plain YAML values without secrets, with keys as users write them (`from`, not `start`)."""
        return self.model_dump(mode="json", by_alias=True)

    @field_validator("evaluate", mode="before")
    @classmethod
    def _null_means_no_evaluation(cls, evaluate: object) -> object:
        return EvaluateConfig() if evaluate is None else evaluate

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return safe_name(name, "run")

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str) -> str:
        if not output or not output.isprintable():
            raise ConfigError(f"`output` is {output!r}", "name a folder")
        return output

    @model_validator(mode="after")
    def _check_stage_names(self) -> PathConfig:
        names = [safe_name(stage.name, "stage") for stage in self.stages]
        for number, stage in enumerate(self.stages):
            if stage.name in names[:number]:
                raise ConfigError(f"two stages are called `{stage.name}`", "give each stage a different name")
            if stage.name.casefold() in [name.casefold() for name in names[:number]]:
                what = f"the stage names `{stage.name}` and an earlier one differ only in upper and lower case"
                raise ConfigError(what, "choose another name: on some file systems both would have the same folder")
            if stage.name.casefold() in FILES or stage.name.casefold().endswith(ENDINGS):
                what = f"a stage cannot be called `{stage.name}`, which may be the name of a file of the run"
                raise ConfigError(what, "choose a name without a file type, such as `first`")
            if stage.name in RESERVED or stage.name in PathConfig.model_fields:
                what = f"a stage cannot be called `{stage.name}`, which is a config key or a reserved word"
                raise ConfigError(what, "choose another name")
            earlier = ", ".join(names[:number]) or "none"
            if stage.start in names[number:]:
                what = f"stage `{stage.name}` starts from `{stage.start}`, which is not an earlier stage"
                raise ConfigError(
                    what, f"start from an earlier stage ({earlier}), or move `{stage.start}` before this stage"
                )
            if stage.teacher in names[number:]:
                what = f"stage `{stage.name}` has the teacher `{stage.teacher}`, which is not an earlier stage"
                raise ConfigError(what, f"use an earlier stage ({earlier}), a folder, a hub id or `run:NAME/stage`")
            for key, words in (("reference", ("start", *UPDATED_REFERENCES)), ("critic", (None, "head", "start"))):
                value = getattr(stage, key)
                if value not in (*words, *names[:number]):
                    what = f"stage `{stage.name}` has the {key} `{value}`, which is not an earlier stage"
                    choices = ", ".join(f"`{word}`" for word in words if word)
                    raise ConfigError(what, f"use {choices}, or an earlier stage ({earlier})")
        return self


UPDATED_REFERENCES = ("ema", "sync")  # values of `reference` that update it during training
# Names in the folder of a run that are not those of stages, in lower case.
FILES = frozenset({"done", "start", "lock"})
ENDINGS = (".yaml", ".json", ".jsonl", ".md", ".html", ".svg", ".lock")
RESERVED = frozenset({"start", "head", *UPDATED_REFERENCES, "stages"})

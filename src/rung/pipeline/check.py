"""Checks a path before it runs, without training or sampling: the command `rung check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.artifacts.locate import locate
from rung.config import PathConfig, StageConfig
from rung.config.algorithms import make_algorithm
from rung.errors import ConfigError, Faults, error_context
from rung.models.adapters import check_base, is_adapter
from rung.models.load import (
    check_same_tokenizer,
    load_meta_model,
    load_model,
    load_tokenizer,
    num_positions,
    read_config,
)
from rung.models.lora import check_adapter
from rung.models.reward_model import check_can_be_reward_model
from rung.models.stops import stop_ids
from rung.models.vocabulary import check_special_tokens, num_embeddings
from rung.pipeline.agents import check_agent
from rung.pipeline.evaluations import SETS, Evaluations, EvaluationSet
from rung.pipeline.model_size import resolve_by_model, size_of_model
from rung.pipeline.notices import (
    cut_answers_of_evaluation,
    cut_answers_of_rollout,
    shared_prompts,
    unread_columns,
    unused_template,
)
from rung.pipeline.requirements import check_requirements
from rung.pipeline.stage_data import StageData, check_ids, check_positions, read_stage_data
from rung.pipeline.stage_rewards import check_rewards
from rung.pipeline.stage_settings import resolved, stage_settings
from rung.rollout.samplers import SAMPLERS
from rung.training.optimizers import check_schedule, find_optimizer
from rung.training.trackers import make_trackers
from rung.utils.allowed_code import only_allowed
from rung.utils.messages import did_you_mean
from rung.utils.user_files import code_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.algorithm import Algorithm
    from rung.config.schema import DataEntry


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of `check`: the resolved config, a summary row for each stage, and notes for the user.

    `data` (by stage) and `evaluations` were loaded for the checks and are used again by the run.
    """

    config: PathConfig
    rows: list[dict[str, Any]]
    notes: list[str]
    evaluations: Evaluations
    data: dict[str, StageData]


def check(config: PathConfig) -> Checked:
    """Resolves and checks a path; raises UserError for every mistake that can be found before training.

    The data, the tokenizer, the shapes of the model, algorithms, rewards and metrics are loaded; no model is run, and
    nothing is written. The notes name each file of Python code that the config made rung run.
    """
    with only_allowed(config.code):
        checked = _check(resolve_by_model(config))
    checked.notes.extend(code_lines(config.base))
    return checked


def _check(config: PathConfig) -> Checked:
    faults = Faults()
    with faults.collect():
        make_trackers(config.trackers, Path(), project="", run_name="", base=config.base)
    evaluations: Evaluations | None = None  # checked before the stages, since its remedy for a bad row helps both
    with faults.collect():
        evaluations = Evaluations(config)
        evaluations.check()
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    with faults.collect():
        loaded = load_meta_model(locate(config.model, base=config.base, runs=Path(config.output)))
    if evaluations is None or loaded is None:
        faults.raise_found()
    assert evaluations is not None, "an error was raised otherwise"
    assert loaded is not None, "an error was raised otherwise"
    size = size_of_model(config)
    checked = Checked(config, [], [], evaluations, {})
    checked.notes.append(f"{config.model} is a {size} model and gets the defaults of configs/defaults/{size}.yaml")
    for stage in config.stages:
        with faults.collect():
            _check_stage(checked, stage, *loaded, faults)
    if not faults.found:
        checked.notes.extend(_check_evaluations(config, evaluations, *loaded))
    faults.raise_found()
    return checked


def _check_stage(
    checked: Checked,
    stage: StageConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    faults: Faults,
) -> None:
    """Checks a stage, and adds its row, notes and data to `checked`; collects errors of independent checks."""
    config, evaluations = checked.config, checked.evaluations
    algorithm = make_algorithm(stage.algorithm, config.base)
    with faults.collect():
        check_requirements(algorithm, stage)
    with faults.collect():
        if algorithm.makes_policy():
            _check_gate(config, stage, evaluations)
    with faults.collect():
        _check_start(config, stage)
    if not faults.found:  # the models from which earlier stages start are looked up again
        _check_same_tokenizers(config, stage)
    row: dict[str, Any] = {"stage": stage.name, "algorithm": algorithm.name, "from": _start(config, stage)}
    row |= dict.fromkeys(("data", "rows", "lr", "batch", "length"))
    if algorithm.data_kind() is not None:
        read, columns = _check_training(config, stage, algorithm, model, tokenizer, faults)
        checked.data[stage.name] = read
        columns |= evaluations.metrics.columns_read(read.report.columns)
        row |= _training_columns(stage, len(read.train))
        unused = [*unused_template(config, read, tokenizer), *cut_answers_of_rollout(stage, read, tokenizer)]
        lines = (
            *read.report.lines(),
            *unread_columns(read.report.columns, columns),
            *unused,
            *_notes(algorithm, stage),
        )
        checked.notes.extend(f"{stage.name}: {line}" for line in lines)
        checked.notes.extend(shared_prompts(stage.name, read, evaluations))
    checked.rows.append(row)


def _notes(algorithm: Algorithm, stage: StageConfig) -> list[str]:
    """The notes of a stage's algorithm on its settings (see `Algorithm.notes`)."""
    if algorithm.data_kind() != "prompts":
        return algorithm.notes(1)
    return algorithm.notes(resolved(stage.updates.epochs) * resolved(stage.updates.minibatches))


def _check_training(
    config: PathConfig,
    stage: StageConfig,
    algorithm: Algorithm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    faults: Faults,
) -> tuple[StageData, set[str]]:
    """Checks the optimizer, adapter, sampler, data and rewards of a stage.

    Returns its data, and those of their columns that the rewards read.
    """
    place = f"stage `{stage.name}`"
    with faults.collect(), error_context(place):
        find_optimizer(stage.optimizer, config.base)
    with faults.collect(), error_context(place):
        check_schedule(stage.lr_scheduler_type, resolved(stage.learning_rate))
    with faults.collect(), error_context(place):
        if stage.adapter is not None:
            check_adapter(model, stage.adapter.lora)
    with faults.collect(), error_context(place):
        if not algorithm.makes_policy():
            check_can_be_reward_model(model.config, tokenizer)
        check_special_tokens(model, tokenizer)
    with faults.collect(), error_context(place):
        SAMPLERS.find(stage.rollout.sampler, config.base)
    settings = stage_settings(stage, config, algorithm)
    with faults.collect(), error_context(place):
        if settings.samples:
            check_agent(settings.toolbox, model, tokenizer, SAMPLERS.find(stage.rollout.sampler, config.base))
    data = read_stage_data(settings, tokenizer, stop_ids(model, tokenizer))
    check_positions(settings, data.all, num_positions(model))
    check_ids(data.all, num_embeddings(model), tokenizer)
    if stage.teacher is not None and stage.teacher not in [other.name for other in config.stages]:
        check_positions(settings, data.train, _teacher_positions(config, stage), "teacher")
    return data, check_rewards(settings, data.train, tokenizer) if settings.samples else set()


def _check_gate(config: PathConfig, stage: StageConfig, evaluations: Evaluations) -> None:
    """Raises ConfigError for a gate that cannot be decided; a mistake that stages share is told for the first one."""
    gate = config.gate_of(stage)
    if gate is None:
        return
    earlier = [config.gate_of(other) for other in _policies(config.stages[: config.stages.index(stage)], config)]
    if not evaluations.validation and not any(earlier):
        what = f"stage `{stage.name}` has a gate, but `evaluate.validation` has no items to evaluate"
        raise ConfigError(what, "set `evaluate.validation`, or remove the gate")
    for metric in gate.metrics if evaluations.validation and gate not in earlier else ():
        if metric not in evaluations.goals:
            what = f"the gate of stage `{stage.name}` reads `{metric}`, which is not a metric"
            raise ConfigError(what, did_you_mean(metric, evaluations.goals))


def _policies(stages: Sequence[StageConfig], config: PathConfig) -> list[StageConfig]:
    """The stages that make a policy."""
    return [stage for stage in stages if make_algorithm(stage.algorithm, config.base).makes_policy()]


def _check_evaluations(
    config: PathConfig, evaluations: Evaluations, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """A line with the size of each evaluation set, and warnings.

    Raises UserError for an item whose few-shot prompt does not fit the model, for any number of shots.
    """
    evaluations.metrics.check_policy(tokenizer)
    told: list[str] = []
    sets: list[EvaluationSet] = [each for each in SETS if evaluations.items(each)]
    for evaluation_set in sets:
        for num_shots in sorted({count for stage in config.stages for count in config.shots_of(stage)}):
            longest = evaluations.check_prompts(evaluation_set, num_shots, model, tokenizer)
            shots = f" with {num_shots} shots" if num_shots else ""
            size = len(evaluations.items(evaluation_set))
            told.append(f"{evaluation_set}: {size} items, the longest prompt has {longest} tokens{shots}")
        told += cut_answers_of_evaluation(evaluations, evaluation_set, tokenizer)
    return told


def _start(config: PathConfig, stage: StageConfig) -> str:
    """The model from which a stage starts, in words: `last promoted` if a gate decides it during the run."""
    earlier = _policies(config.stages[: config.stages.index(stage)], config)
    if stage.start is not None or not earlier:
        return stage.start or config.model
    trains = make_algorithm(earlier[-1].algorithm, config.base).data_kind() is not None
    return "last promoted" if trains and config.gate_of(earlier[-1]) is not None else earlier[-1].name


def _check_start(config: PathConfig, stage: StageConfig) -> None:
    """Raises ConfigError if the start, reference or teacher of a stage is not a policy, or the start does not exist."""
    policies = (
        (stage.start, "starts from"),
        (stage.reference, "has the reference"),
        (stage.teacher, "has the teacher"),
    )
    for name, verb in policies:
        named = next((other for other in config.stages if other.name == name), None)
        if named is not None and not make_algorithm(named.algorithm, config.base).makes_policy():
            what = f"stage `{stage.name}` {verb} `{named.name}`, which is a reward model and not a policy"
            raise ConfigError(what, "name a policy; a reward model can be the `critic`, or the `model` of a reward")
    earlier = [other.name for other in config.stages[: config.stages.index(stage)]]
    if stage.start is None or stage.start in earlier:
        return
    with error_context(f"stage `{stage.name}`: from"):
        start = locate(stage.start, base=config.base, runs=Path(config.output))
        if Path(start).is_dir() or start != stage.start:
            read_config(start)
            check_base(start, locate(config.model, base=config.base, runs=Path(config.output)))
            if is_adapter(start):
                load_model(start, seed=config.seed)  # compares the adapter with the weights of its base
            return
    what = f"stage `{stage.name}` starts from `{stage.start}`, which is neither an earlier stage nor a folder"
    raise ConfigError(what, f"use an earlier stage ({', '.join(earlier) or 'none'}), `run:NAME/stage` or a folder")


def _check_same_tokenizers(config: PathConfig, stage: StageConfig) -> None:
    """Raises ConfigError if the reference, critic or teacher is a stage with another tokenizer than this stage.

    Checked only if it is certain from which initial models both stages descend.
    """
    for key in ("reference", "critic", "teacher"):
        other = next((each for each in config.stages if each.name == getattr(stage, key)), None)
        own, theirs = sorted(origins(config, stage)), sorted(origins(config, other) if other else ())
        if len(own) == len(theirs) == 1 and own != theirs:
            with error_context(f"stage `{stage.name}`"):
                check_same_tokenizer(theirs[0], load_tokenizer(own[0]), key)


def origins(config: PathConfig, stage: StageConfig) -> set[str]:
    """The locations of the initial models from which a stage may descend.

    There can be several, since it is not known before the run which stage will be the last accepted one.
    """
    earlier = config.stages[: config.stages.index(stage)]
    named = next((other for other in earlier if other.name == stage.start), None)
    if named is not None:
        return origins(config, named)
    if stage.start is not None:
        return {locate(stage.start, base=config.base, runs=Path(config.output))}
    policies = _policies(earlier, config)
    model = locate(config.model, base=config.base, runs=Path(config.output))
    return {model}.union(*(origins(config, other) for other in policies))


def _teacher_positions(config: PathConfig, stage: StageConfig) -> int | None:
    """The number of positions of a teacher that is not a stage; None if it is unlimited.

    Raises ConfigError if the teacher has another tokenizer than the policy.
    """
    assert stage.teacher is not None
    with error_context(f"stage `{stage.name}`: teacher"):
        location = locate(stage.teacher, base=config.base, runs=Path(config.output))
        teacher, _ = load_meta_model(location)
        own = origins(config, stage)
        if len(own) == 1:
            check_same_tokenizer(location, load_tokenizer(*own), "teacher")
        return num_positions(teacher)


def _named(data: DataEntry | None) -> str:
    """A short name of the data of a stage: the entry itself, its `path` or `name`, or all names of a mixture."""
    if isinstance(data, list):
        return " + ".join(_named(entry) for entry in data)
    return str(data.get("path") or data.get("name")) if isinstance(data, dict) else str(data)


def _training_columns(stage: StageConfig, num_rows: int) -> dict[str, Any]:
    batch = stage.batch_size if isinstance(stage.batch_size, int) else str(stage.batch_size)
    return {
        "data": _named(stage.data),
        "rows": num_rows,
        "lr": stage.learning_rate,
        "batch": batch,
        "length": f"{stage.max_steps} steps" if stage.max_steps else f"{stage.num_train_epochs:g} epochs",
    }

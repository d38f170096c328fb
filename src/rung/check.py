"""`rung check`: everything about a path that can be known before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rung.config import PathConfig, StageConfig, resolve
from rung.config.sizes import kind_of, size_of_model
from rung.data.report import Report
from rung.errors import ConfigError, within
from rung.exam import Exam, ExamSet
from rung.locate import locate
from rung.registry import algorithm as find_algorithm
from rung.registry import hint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.algorithm import Algorithm


class Checked(NamedTuple):
    """A path that can run: its config without any `auto`, a row for each stage, and what is worth a look."""

    config: PathConfig
    rows: list[dict[str, Any]]
    notes: list[str]


def check(config: PathConfig) -> Checked:
    """The resolved config and a summary; raises UserError for whatever can be known not to work.

    Reads data, tokenizer and the shape of the model, and finds algorithms, rewards and metrics; no model is run and
    nothing is written.
    """
    from rung.models import load_outline
    from rung.opening import check_needs
    from rung.tracking import make_trackers

    config = resolve(config)
    make_trackers(config.trackers, Path(), project="", run_name="")
    exam = Exam(config)
    exam.check()
    model, tokenizer = load_outline(locate(config.model, base=config.base, runs=Path(config.output)))
    rows, notes = (
        [],
        [f"{config.model} is {size_of_model(config)}: defaults of configs/defaults/{size_of_model(config)}.yaml"],
    )
    for stage in config.stages:
        algorithm = find_algorithm(stage.algorithm, config.base)
        check_needs(algorithm, stage)
        if algorithm.makes_policy():
            _check_gate(config, stage, exam)
        _check_start(config, stage)
        _check_families(config, stage)
        row: dict[str, Any] = {"stage": stage.name, "algorithm": algorithm.name, "from": stage.start}
        row |= dict.fromkeys(("data", "rows", "lr", "batch", "length"))
        if kind_of(algorithm):
            num_rows, report = _check_training(config, stage, algorithm, model, tokenizer)
            row |= _learns(stage, num_rows)
            notes += [f"{stage.name}: {line}" for line in (*report.lines(), *_notes(algorithm, stage))]
        rows.append(row)
    _check_exam(config, exam, model, tokenizer)
    return Checked(config, rows, notes)


def _notes(algorithm: Algorithm, stage: StageConfig) -> list[str]:
    """What the algorithm finds worth a look, where its data are sampled."""
    from rung.stage_data import resolved

    if "prompts" not in algorithm.requires():
        return algorithm.notes(1)
    return algorithm.notes(resolved(stage.updates.epochs) * resolved(stage.updates.minibatches))


def _check_training(
    config: PathConfig,
    stage: StageConfig,
    algorithm: Algorithm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[int, Report]:
    """Reads and encodes a stage's data as training does, and holds rewards, adapter and optimizer against them.

    How many rows there are to learn from, and what happened to the others.
    """
    from rung.models import check_adapter, num_positions
    from rung.optimizers import check_schedule, find_optimizer
    from rung.reward_models import check_judge
    from rung.stage_data import check_rewards, check_room, encode_examples, read_examples, resolved

    with within(f"stage `{stage.name}`"):
        find_optimizer(stage.optimizer, config.base)
        check_schedule(stage.lr_scheduler_type, resolved(stage.learning_rate))
        if stage.adapter is not None:
            check_adapter(model, stage.adapter.lora)
        if "final" in algorithm.requires():
            check_judge(model.config, tokenizer)
    examples, report = read_examples(algorithm, stage, config)
    encoded, _ = encode_examples(algorithm, stage, examples, tokenizer, report, num_positions(model))
    if stage.teacher is not None and stage.teacher not in [other.name for other in config.stages]:
        check_room(algorithm, stage, encoded, _teacher_positions(config, stage), "teacher")
    if "prompts" in algorithm.requires():
        check_rewards(algorithm, stage, config, encoded, tokenizer)
    return len(encoded), report


def _check_gate(config: PathConfig, stage: StageConfig, exam: Exam) -> None:
    gate = config.gate_of(stage)
    if gate is None:
        return
    if not exam.validation:
        what = f"stage `{stage.name}` has a gate, and `evaluate.validation` names no items for it to read"
        raise ConfigError(what, "name them, or remove the gate")
    for metric in gate.metrics:
        if metric not in exam.goals:
            raise ConfigError(
                f"the gate of stage `{stage.name}` reads `{metric}`, which is no metric", hint(metric, exam.goals)
            )


def _check_exam(config: PathConfig, exam: Exam, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every item can be asked, with every number of shots, of the model that the path begins with, and be measured."""
    exam.metrics.check_policy(tokenizer)
    exam_sets: tuple[ExamSet, ...] = ("validation", "test")
    for num_shots in sorted({count for stage in config.stages for count in config.shots_of(stage)}):
        for exam_set in exam_sets:
            if getattr(exam, exam_set):
                exam.check_prompts(exam_set, num_shots, model, tokenizer)


def _check_start(config: PathConfig, stage: StageConfig) -> None:
    from rung.adapters import check_base, is_adapter
    from rung.models import load_model, read_config

    policies = (
        (stage.start, "starts from"),
        (stage.reference, "has the reference"),
        (stage.teacher, "has the teacher"),
    )
    for name, does in policies:
        named = next((other for other in config.stages if other.name == name), None)
        if named is not None and not find_algorithm(named.algorithm, config.base).makes_policy():
            what = f"stage `{stage.name}` {does} `{named.name}`, which judges answers and gives none"
            raise ConfigError(what, "name a policy; a reward model is named as `critic`, or in a reward")
    earlier = [other.name for other in config.stages[: config.stages.index(stage)]]
    if stage.start is None or stage.start in earlier:
        return
    with within(f"stage `{stage.name}`: from"):
        start = locate(stage.start, base=config.base, runs=Path(config.output))
        if Path(start).is_dir() or start != stage.start:
            read_config(start)
            check_base(start, locate(config.model, base=config.base, runs=Path(config.output)))
            if is_adapter(start):
                load_model(start, seed=config.seed)  # only its weights tell whether they are those that it knows
            return
    what = f"stage `{stage.name}` starts from `{stage.start}`, which is neither an earlier stage nor a folder"
    raise ConfigError(what, f"earlier stages: {', '.join(earlier) or 'none'}; or `run:NAME/stage`, or a folder")


def _check_families(config: PathConfig, stage: StageConfig) -> None:
    """Raises ConfigError where another stage's model reads other tokens than this one writes, if both are known."""
    from rung.models import check_tokens, load_tokenizer

    for key in ("reference", "critic", "teacher"):
        other = next((each for each in config.stages if each.name == getattr(stage, key)), None)
        own, theirs = sorted(_origins(config, stage)), sorted(_origins(config, other) if other else ())
        if len(own) == len(theirs) == 1 and own != theirs:
            with within(f"stage `{stage.name}`"):
                check_tokens(theirs[0], load_tokenizer(own[0]), key)


def _origins(config: PathConfig, stage: StageConfig) -> set[str]:
    """The models that a stage may go back to; one, but where it starts from the last promoted of several."""
    earlier = config.stages[: config.stages.index(stage)]
    named = next((other for other in earlier if other.name == stage.start), None)
    if named is not None:
        return _origins(config, named)
    if stage.start is not None:
        return {locate(stage.start, base=config.base, runs=Path(config.output))}
    policies = (other for other in earlier if find_algorithm(other.algorithm, config.base).makes_policy())
    model = locate(config.model, base=config.base, runs=Path(config.output))
    return {model}.union(*(_origins(config, other) for other in policies))


def _teacher_positions(config: PathConfig, stage: StageConfig) -> int | None:
    """How many tokens a teacher from outside of the path takes; ConfigError where the policy cannot learn from it."""
    from rung.models import check_tokens, load_outline, load_tokenizer, num_positions

    assert stage.teacher is not None
    with within(f"stage `{stage.name}`: teacher"):
        location = locate(stage.teacher, base=config.base, runs=Path(config.output))
        outline, _ = load_outline(location)
        own = _origins(config, stage)
        if len(own) == 1:
            check_tokens(location, load_tokenizer(*own), "teacher")
        return num_positions(outline)


def _learns(stage: StageConfig, num_rows: int) -> dict[str, Any]:
    batch = stage.batch_size if isinstance(stage.batch_size, int) else str(stage.batch_size)
    return {
        "data": stage.data if isinstance(stage.data, str) else "its own",
        "rows": num_rows,
        "lr": stage.learning_rate,
        "batch": batch,
        "length": f"{stage.max_steps} steps" if stage.max_steps else f"{stage.num_train_epochs:g} epochs",
    }

"""`rung check`: everything about a path that can be known before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rung.config import PathConfig, StageConfig, resolve
from rung.config.sizes import kind_of, size_of_model
from rung.data.report import Report
from rung.errors import ConfigError, UserError
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
    from rung.stage_data import resolved
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
        if algorithm.makes_policy():
            _check_gate(config, stage, exam)
        _check_start(config, stage)
        row: dict[str, Any] = {"stage": stage.name, "algorithm": algorithm.name, "from": stage.start}
        row |= dict.fromkeys(("data", "rows", "lr", "batch", "length"))
        if kind_of(algorithm):
            num_rows, report = _check_training(config, stage, algorithm, model, tokenizer)
            row |= _learns(stage, num_rows)
            updates = resolved(stage.updates.epochs) * resolved(stage.updates.minibatches)
            notes += [f"{stage.name}: {line}" for line in (*report.lines(), *algorithm.notes(updates))]
        rows.append(row)
    _check_exam(config, exam, model, tokenizer)
    return Checked(config, rows, notes)


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
    from rung.opening import check_needs
    from rung.optimizers import check_schedule, find_optimizer
    from rung.reward_models import check_judge
    from rung.stage_data import check_rewards, encode_examples, read_examples, resolved

    check_needs(algorithm, stage)
    with _naming(stage):
        find_optimizer(stage.optimizer, config.base)
        check_schedule(stage.lr_scheduler_type, resolved(stage.learning_rate))
        if stage.adapter is not None:
            check_adapter(model, stage.adapter.lora)
        if "final" in algorithm.requires():
            check_judge(model.config, tokenizer)
    examples, report = read_examples(algorithm, stage, config)
    encoded, _ = encode_examples(algorithm, stage, examples, tokenizer, report, num_positions(model))
    if "prompts" in algorithm.requires():
        check_rewards(stage, config, encoded, tokenizer)
    return len(encoded), report


@contextmanager
def _naming(stage: StageConfig, key: str = "") -> Iterator[None]:
    """ConfigErrors from inside with the stage, and the key, in front."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"stage `{stage.name}`: {key}{error.what}", error.remedy) from None


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

    for name, does in ((stage.start, "starts from"), (stage.reference, "has the reference")):
        named = next((other for other in config.stages if other.name == name), None)
        if named is not None and not find_algorithm(named.algorithm, config.base).makes_policy():
            what = f"stage `{stage.name}` {does} `{named.name}`, which judges answers and gives none"
            raise ConfigError(what, "name a policy; a reward model is named as `critic`, or in a reward")
    earlier = [other.name for other in config.stages[: config.stages.index(stage)]]
    if stage.start is None or stage.start in earlier:
        return
    with _naming(stage, "from: "):
        start = locate(stage.start, base=config.base, runs=Path(config.output))
        if Path(start).is_dir() or start != stage.start:
            read_config(start)
            check_base(start, locate(config.model, base=config.base, runs=Path(config.output)))
            if is_adapter(start):
                load_model(start, seed=config.seed)  # only its weights tell whether they are those that it knows
            return
    what = f"stage `{stage.name}` starts from `{stage.start}`, which is neither an earlier stage nor a folder"
    raise ConfigError(what, f"earlier stages: {', '.join(earlier) or 'none'}; or `run:NAME/stage`, or a folder")


def _learns(stage: StageConfig, num_rows: int) -> dict[str, Any]:
    batch = stage.batch_size if isinstance(stage.batch_size, int) else str(stage.batch_size)
    return {
        "data": stage.data if isinstance(stage.data, str) else "its own",
        "rows": num_rows,
        "lr": stage.learning_rate,
        "batch": batch,
        "length": f"{stage.max_steps} steps" if stage.max_steps else f"{stage.num_train_epochs:g} epochs",
    }

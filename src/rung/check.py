"""`rung check`: everything about a path that can be known before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rung.config import PathConfig, StageConfig, resolve
from rung.config.sizes import kind_of, size_of_model
from rung.data.report import Report
from rung.errors import ConfigError, UserError
from rung.exam import Exam
from rung.locate import REMEDY, TINY, locate
from rung.registry import algorithm as find_algorithm
from rung.registry import hint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.algorithm import Algorithm


class Checked(NamedTuple):
    """A path that can run: its config without any `auto`, a row for each stage, and what is worth a look."""

    config: PathConfig
    rows: list[dict[str, Any]]
    notes: list[str]


def check(config: PathConfig) -> Checked:
    """The resolved config and a summary; raises UserError for whatever can be known not to work.

    Reads data and tokenizer and finds algorithms, rewards and metrics; no model is run and nothing is written.
    """
    from rung.tracking import make_trackers

    config = resolve(config)
    make_trackers(config.trackers, Path(), project="", run_name="")
    exam = Exam(config)
    exam.check()
    tokenizer = open_tokenizer(locate(config.model, base=config.base, runs=Path(config.output)))
    rows, notes = (
        [],
        [f"{config.model} is {size_of_model(config)}: defaults of configs/defaults/{size_of_model(config)}.yaml"],
    )
    for stage in config.stages:
        algorithm = find_algorithm(stage.algorithm, config.base)
        _check_gate(config, stage, exam)
        _check_shots(config, stage, exam)
        _check_start(config, stage)
        row: dict[str, Any] = {"stage": stage.name, "algorithm": algorithm.name, "from": stage.start}
        row |= dict.fromkeys(("data", "rows", "lr", "batch", "length"))
        if kind_of(algorithm):
            num_rows, report = _check_training(config, stage, algorithm, tokenizer)
            row |= _learns(stage, num_rows)
            notes += [f"{stage.name}: {line}" for line in report.lines()]
        rows.append(row)
    return Checked(config, rows, notes)


def open_tokenizer(location: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, without its weights; ConfigError where there is none."""
    if location.startswith(TINY):
        from rung.models import load_model

        return load_model(location)[1]
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of `{location}` cannot be read: {str(error).splitlines()[0]}", REMEDY
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_training(
    config: PathConfig, stage: StageConfig, algorithm: Algorithm, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, Report]:
    """Reads and encodes a stage's data as training does, and holds its rewards and adapter against them.

    How many rows there are to learn from, and what happened to the others.
    """
    from rung.opening import encode_examples, open_rewards, read_examples

    examples, report = read_examples(algorithm, stage, config, config.seed_of(stage))
    encoded, _ = encode_examples(algorithm, stage, examples, tokenizer, report)
    if "prompts" in algorithm.requires():
        open_rewards(stage, config, encoded).close()
    if stage.adapter is not None:
        _check_lora(stage, stage.adapter.lora)
    return len(encoded), report


def _check_lora(stage: StageConfig, lora: dict[str, Any]) -> None:
    from peft import LoraConfig

    known = LoraConfig.__dataclass_fields__
    for key in lora:
        if key not in known:
            raise ConfigError(f"stage `{stage.name}`: unknown key `adapter.lora.{key}`", hint(key, known))


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


def _check_shots(config: PathConfig, stage: StageConfig, exam: Exam) -> None:
    for count in config.shots_of(stage) if exam.validation or exam.test else ():
        if len(exam.shots(count)) < count:
            what = (
                f"stage `{stage.name}` shows {count} examples, and `evaluate.shots_from` has {len(exam.shots(count))}"
            )
            raise ConfigError(what, "ask for fewer `shots`, or name more data")


def _check_start(config: PathConfig, stage: StageConfig) -> None:
    if stage.start is None or stage.start in [other.name for other in config.stages]:
        return
    try:
        start = locate(stage.start, base=config.base, runs=Path(config.output))
    except UserError as error:
        raise ConfigError(f"stage `{stage.name}`: from: {error.what}", error.remedy) from None
    if start == stage.start:
        earlier = [other.name for other in config.stages[: config.stages.index(stage)]]
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

"""The command `rung`. Everything heavy is imported inside a command, so that `rung --help` answers at once."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXIT_USER = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Preference alignment and RL post-training: a model climbs a path of stages, one rung at a time.",
)

Config = Annotated[str, typer.Argument(help="A .yaml file, or a name that `rung list configs` has.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, or <stage>.key=value; values are YAML.")]


class Listed(StrEnum):
    """What `rung list` knows."""

    algorithms = "algorithms"
    rewards = "rewards"
    models = "models"
    tasks = "tasks"
    configs = "configs"


class ExamSetName(StrEnum):
    """What a config's `evaluate` block holds."""

    validation = "validation"
    test = "test"


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 where a stage is not promoted, 4 where one is open.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Start afresh beside an earlier run of the same name.")] = False,
) -> None:
    """Run a path, or go on with it where it stopped."""
    from rung.config import load_config
    from rung.path import run_path

    _without_loading_bars()
    raise typer.Exit(run_path(load_config(config, overrides or ()), new=new).exit_code(strict=strict))


@app.command()
def check(config: Config, overrides: Overrides = None) -> None:
    """Check a path before anything is computed, and show what `auto` stands for."""
    from rung.check import check as check_path
    from rung.config import load_config

    checked = check_path(load_config(config, overrides or ()))
    _print_table(checked.rows, f"{checked.config.name}: {checked.config.model}")
    for note in checked.notes:
        print(note)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A run, by its name or folder.")],
    stage: Annotated[str | None, typer.Argument(help="One of its stages.")] = None,
    output: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
) -> None:
    """Show what has become of a run, or the last step and some completions of one of its stages."""
    from rung import show as shown

    folder = shown.find_run(name, output)
    if stage is None:
        print(shown.report(folder))
        return
    last = shown.last_step(folder, stage)
    _print_table(
        [{"metric": name, "value": value} for name, value in last.items()], f"{folder.name}/{stage}: last step"
    )
    if rows := shown.completions(folder, stage):
        _print_table(rows, "sampled completions")


@app.command("list")
def list_(kind: Listed) -> None:
    """List what a config may name: algorithms, rewards, models, tasks or configs."""
    import rich

    from rung import show as shown
    from rung.console import blocks

    if kind is Listed.algorithms:
        rich.print(blocks(shown.algorithms()))
    else:
        _print_table(shown.catalogue(kind.value), kind.value)


@app.command()
def evaluate(
    config: Config,
    model: Annotated[str, typer.Argument(help="tiny:<name>, a folder, a hub id, or run:NAME/stage.")],
    overrides: Overrides = None,
    exam_set: Annotated[ExamSetName, typer.Option("--set", help="Which items.")] = ExamSetName.validation,
    shots: Annotated[int, typer.Option(min=0, help="Worked examples before each question.")] = 0,
    save: Annotated[Path | None, typer.Option(help="A .json file for the scores; the rows go beside it.")] = None,
) -> None:
    """Measure any model with the items and metrics of a config."""
    from rung.check import check as check_path
    from rung.config import load_config
    from rung.exam import Exam
    from rung.locate import locate

    _without_loading_bars()
    resolved = check_path(load_config(config, overrides or ())).config
    location = locate(model, base=Path.cwd(), runs=Path(resolved.output))
    measured = Exam(resolved).take(location, exam_set.value, shots)
    if save is not None:
        measured.save(save)
    rows = [{"metric": name, **estimate.model_dump()} for name, estimate in measured.metrics.items()]
    _print_table(rows, f"{model}: {len(measured.rows)} items of {exam_set.value}, {shots} shots")


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="tiny:<name>, a folder, a hub id, or run:NAME/stage.")],
    prompts: Annotated[
        list[str], typer.Argument(help="Texts; a user's turn each, where the model has a chat template.")
    ],
    num_generations: Annotated[int, typer.Option(min=1, help="Completions of each prompt.")] = 1,
    max_completion_length: Annotated[int, typer.Option(min=1, help="In tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Names the draws.")] = 42,
    output: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
) -> None:
    """Sample completions from a model."""
    from rung.locate import locate
    from rung.show import sampled

    _without_loading_bars()
    location = locate(model, base=Path.cwd(), runs=output)
    settings = {"max_completion_length": max_completion_length, "temperature": temperature}
    for text in sampled(location, prompts, num_generations, seed=seed, **settings):
        print(text)


def main() -> None:
    """The command; a user's mistake is told in two lines on stderr, with exit code 2."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # loading a model is no news beside a stage's own bar
    try:
        app()
    except UserError as error:
        print(_line(error.what), _line(error.remedy), sep="\n", file=sys.stderr)
        raise SystemExit(EXIT_USER) from None


def _without_loading_bars() -> None:
    """The bar of a run is that of its steps; transformers would add one for each model that it reads or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _print_table(rows: Iterable[Mapping[str, Any]], title: str) -> None:
    import rich

    from rung.console import table

    rich.print(table(list(rows), title))


def _line(text: str) -> str:
    return " ".join(text.split())

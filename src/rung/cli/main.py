"""The command `rung`. Heavy modules are imported inside the commands, so that `rung --help` is fast."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rung.cli.arguments import AllowCode, Config, Overrides
from rung.cli.data import data_app
from rung.cli.streams import protect_streams
from rung.errors import UserError
from rung.utils.console import printable, say, say_error
from rung.utils.files import DISK_ERRORS, file_error
from rung.utils.signals import EXIT_STOPPED, EXIT_USER, StopFlag, end_quietly, run_has_ended

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Preference alignment and RL post-training: train a model through a path of stages, with a gate after each.",
)
app.add_typer(data_app, name="data")

Model = Annotated[
    str,
    typer.Argument(
        help="tiny:<name>, a hub id, a folder with a model or an adapter, run:NAME/stage, or run:NAME for its last "
        "accepted stage; the folder of a run or stage works too."
    ),
]
Output = Annotated[Path, typer.Option(help="The folder of all runs.")]


class Listed(StrEnum):
    """The argument of `rung list`: what to list."""

    algorithms = "algorithms"
    rewards = "rewards"
    formats = "formats"
    samplers = "samplers"
    trackers = "trackers"
    models = "models"
    tasks = "tasks"
    configs = "configs"


class EvaluationSetName(StrEnum):
    """The name of an evaluation set: a key of `evaluate` in a config."""

    validation = "validation"
    test = "test"


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 3 if a stage is not promoted, else with 4 if a gate is inconclusive."),
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Start a new run beside an earlier one of the same name.")] = False,
    allow_drift: Annotated[
        bool,
        typer.Option(
            "--allow-drift", help="Resume under other conditions (versions, threads, code, rows), and record them."
        ),
    ] = False,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine, which split each step.")] = 1,
    fully_shard: Annotated[
        bool, typer.Option("--fully-shard", help="Each process holds a shard of the weights, not a replica (FSDP2).")
    ] = False,
    allow_code: AllowCode = None,
) -> None:
    """Run a path, or resume it where it stopped."""
    if nproc > 1:
        from rung.config import load_config
        from rung.distributed.launch import launch

        # so that a mistake in the config is told once, not by every process
        load_config(config, overrides or (), allow_code=allow_code or ())
        flags = {"--strict": strict, "--new": new, "--allow-drift": allow_drift, "--fully-shard": fully_shard}
        arguments = ["run", config, *(overrides or ()), *(flag for flag, given in flags.items() if given)]
        arguments += [f"--allow-code={value}" for value in allow_code or ()]
        raise typer.Exit(launch(arguments, nproc))
    if os.environ.get("RANK", "0") == "0":
        say(f"{config}: reading the config, the data and the model")  # before seconds of imports
    with StopFlag():  # from here on, also while the libraries are imported
        from rung.config import load_config
        from rung.pipeline.runner import run_path

        _disable_loading_bars()
        loaded = load_config(config, overrides or (), allow_code=allow_code or ())
        done = run_path(loaded, new=new, fully_shard=fully_shard, allow_drift=allow_drift)
    raise typer.Exit(run_has_ended(done.exit_code(strict=strict)))


@app.command()
def check(config: Config, overrides: Overrides = None, allow_code: AllowCode = None) -> None:
    """Check a path without training, and show the values of `auto`."""
    from rung.config import load_config
    from rung.data.template_choice import rendering
    from rung.pipeline.check import check as check_path

    loaded = load_config(config, overrides or (), allow_code=allow_code or ())
    with rendering(loaded.date, loaded.chat_template, loaded.base):
        checked = check_path(loaded)
    _print_table(checked.rows, f"{checked.config.name}: {checked.config.model}")
    say(*checked.notes)


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="A run, by its name or folder; without it, all runs are listed.")
    ] = None,
    stage: Annotated[str | None, typer.Argument(help="One of its stages.")] = None,
    output: Output = Path("runs"),
) -> None:
    """Show the report of a run, or the training metrics and last completions of one of its stages; or list the runs."""
    import rich

    from rung.cli import show as shown

    if name is None:
        _print_table(shown.runs(output), str(output))
        return
    folder = shown.find_run(name, output)
    if stage is None:
        rich.print(shown.report(folder))
        return
    _print_table(shown.training(folder, stage), f"{folder.name}/{stage}")
    if rows := shown.completions(folder, stage):
        _print_table(rows, "sampled completions")


@app.command("list")
def list_(kind: Listed) -> None:
    """List what a config can name: algorithms, rewards, data formats, samplers, trackers, models, tasks or configs."""
    import rich

    from rung.cli import show as shown
    from rung.utils.console import blocks

    if kind is Listed.algorithms:
        rich.print(blocks(shown.algorithms()))
    else:
        _print_table(shown.catalogue(kind.value), kind.value)


@app.command()
def evaluate(
    config: Config,
    model: Model,
    overrides: Overrides = None,
    evaluation_set: Annotated[
        EvaluationSetName, typer.Option("--set", help="The evaluation set.")
    ] = EvaluationSetName.validation,
    shots: Annotated[int, typer.Option(min=0, help="Few-shot examples before each question.")] = 0,
    save: Annotated[
        Path | None, typer.Option(help="A .json file for the scores; the rows are written beside it.")
    ] = None,
    allow_code: AllowCode = None,
) -> None:
    """Evaluate any model with the items and metrics of a config."""
    import rich

    from rung.cli.show import scores
    from rung.config import load_config
    from rung.data.template_choice import rendering
    from rung.pipeline.check import check as check_path
    from rung.utils.allowed_code import only_allowed
    from rung.utils.user_files import code_lines

    _disable_loading_bars()
    loaded = load_config(config, overrides or (), allow_code=allow_code or ())
    with rendering(loaded.date, loaded.chat_template, loaded.base):
        checked = check_path(loaded)
    evaluations, runs = checked.evaluations, Path(checked.config.output)
    evaluations.check_set(evaluation_set.value)
    say(*code_lines(checked.config.base))
    with (
        _located(model, runs) as location,
        rendering(loaded.date, loaded.chat_template, loaded.base),
        only_allowed(loaded.code),
    ):
        measured = evaluations.evaluate(location, evaluation_set.value, shots)
    if save is not None:
        measured.save(save)
    say(f"{model}: {len(measured.rows)} items of {evaluation_set.value}, {shots} shots")
    rich.print(scores(measured))


@app.command()
def generate(
    model: Model,
    prompts: Annotated[
        list[str], typer.Argument(help="Prompt texts, without the template or system message of the training.")
    ],
    num_generations: Annotated[int, typer.Option(min=1, help="Completions per prompt.")] = 1,
    max_completion_length: Annotated[int, typer.Option(min=1, help="Longest completion, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 42,
    raw: Annotated[bool, typer.Option("--raw", help="Take the prompts as plain text, without any template.")] = False,
    tools: Annotated[
        list[str] | None,
        typer.Option("--tools", help="A function that the model may call, ./file.py:name; repeatable."),
    ] = None,
    output: Output = Path("runs"),
) -> None:
    """Sample completions from a model, asked in the way in which it was trained."""
    from rung.cli.ask import sampled

    _disable_loading_bars()
    settings = {"max_completion_length": max_completion_length, "temperature": temperature}
    with _located(model, output) as location:
        answers = sampled(location, prompts, num_generations, seed=seed, raw=raw, tools=tools or (), **settings)
    told = [(prompt, text) for prompt, texts in zip(prompts, answers, strict=True) for text in texts]
    for number, (prompt, text) in enumerate(told, 1):
        shown = text if len(told) == 1 else f"[{number}/{len(told)}] {_line(prompt)}\n{text}\n"
        print(printable(shown) if sys.stdout.isatty() else shown)


@app.command()
def chat(
    model: Model,
    max_completion_length: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 42,
    output: Output = Path("runs"),
) -> None:
    """Talk to a model in the terminal; /new begins a new conversation, Ctrl-D ends."""
    from rung.cli.ask import NEW, PromptedModel, replies
    from rung.sampling import Sampling

    _disable_loading_bars()
    with _located(model, output) as location:
        asked = PromptedModel(location, seed=seed)
    how = "the whole conversation" if asked.prompt_form.chat else "each line alone, as it was trained on plain text"
    print(f"The model reads {how}. {NEW} begins a new conversation, Ctrl-D ends.")
    sampling = Sampling(max_completion_length=max_completion_length, temperature=temperature)
    for reply in replies(asked, _lines(), sampling):
        print(printable(reply) if sys.stdout.isatty() else reply)


def _lines() -> Iterator[str]:
    """The lines that the user types, without blank ones, up to Ctrl-D."""
    while True:
        try:
            line = input("> ")
        except EOFError:
            return
        if line.strip():
            yield line


def entry() -> None:
    """The command `rung` as a process of its own."""
    end_quietly(EXIT_STOPPED if sys.argv[1:2] == ["run"] else None)
    main()


def main() -> None:
    """Runs the command line; prints each UserError, and each error of the disk, in two lines and exits with code 2."""
    protect_streams()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the training steps are the only progress bar
    # Threads that spin while they wait for each other take ten times as long beside a busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries: what a user should know is printed in words
    try:
        app()
    except UserError as error:
        _end_with(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _end_with(file_error(error))
    except SystemExit as ended:
        if isinstance(ended.code, int | None) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _end_rank(ended.code or 0)
        raise


def _end_with(error: UserError) -> NoReturn:
    for one in getattr(error, "errors", (error,)):
        say_error(one.what, one.remedy)
    raise SystemExit(EXIT_USER) from None


def _end_rank(code: int) -> NoReturn:
    """Ends a process of a run with several processes, after what Python has registered for its end.

    Trap: when a process ends as usual, the threads of torch.distributed are destroyed in any order, and now and then
    abort it ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _disable_loading_bars() -> None:
    """Disables the progress bars that transformers shows when it loads or saves a model."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def _located(model: str, runs: Path) -> Iterator[str]:
    """A context manager that gives the location of a model named on the command line.

    A ConfigError about an unknown model, also one raised inside the block, is raised again with similar names.
    """
    from rung.artifacts.finished import verified
    from rung.artifacts.locate import locate, suggest_models
    from rung.errors import ConfigError
    from rung.models.names import REMEDY

    try:
        yield verified(locate(model, base=Path.cwd(), runs=runs))
    except ConfigError as error:
        raise ConfigError(error.what, suggest_models(model, runs) if error.remedy == REMEDY else error.remedy) from None


def _print_table(rows: Iterable[Mapping[str, Any]], title: str) -> None:
    import rich

    from rung.utils.console import table

    rich.print(table(list(rows), title))


def _line(text: str) -> str:
    return " ".join(text.split())

"""The command `rung data`: what a stage trains of its data."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from rung.cli.arguments import AllowCode, Config, Overrides
from rung.utils.console import say_error

data_app = typer.Typer(no_args_is_help=True, help="Look at data as a stage trains them.")


@data_app.callback()
def data() -> None:
    """Look at data as a stage trains them."""


@data_app.command()
def show(
    config: Config,
    row: Annotated[
        str | None, typer.Argument(help="A row as messages name it, `pairs.jsonl:12`, or its number; else the first.")
    ] = None,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="The stage; by default the first one that trains.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="A line for each token: id, trained or not, text.")] = False,
    allow_code: AllowCode = None,
) -> None:
    """Show a row as a stage trains it: the text of prompt and answers, and which tokens of it are trained."""
    import rich

    from rung.cli.trained_text import listed, shown
    from rung.config import load_config
    from rung.data.template_choice import rendering
    from rung.pipeline.trained_row import NotTrainedError, find_row

    if row is not None and re.match(r"[\w.]+=", row):  # an override after CONFIG, without a row
        row, overrides = None, [row, *(overrides or ())]
    loaded = load_config(config, overrides or (), allow_code=allow_code or ())
    try:
        with rendering(loaded.date, loaded.chat_template, loaded.base):
            found = find_row(loaded, row, stage)
    except NotTrainedError as reason:
        say_error(reason.what, reason.remedy)
        raise typer.Exit(1) from None
    console = rich.get_console()
    in_colour = console.is_terminal and not console.no_color and console.color_system is not None
    for text in listed(found) if tokens else shown(found, in_colour=in_colour):
        console.print(text, soft_wrap=True, highlight=False)

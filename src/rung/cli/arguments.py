"""Arguments that several commands share."""

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="A .yaml file, or a name from `rung list configs`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, or <stage>.key=value; values are YAML.")]

AllowCode = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-code",
        metavar="PATH_OR_PACKAGE",
        help="Code outside of the working folder that a config may name, or a model with pickled weights; repeatable.",
    ),
]

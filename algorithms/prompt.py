"""Prompting: the model as it is. A stage of its own, because every later stage must beat it."""

from typing import ClassVar

from rung.algorithm import Algorithm


class Prompt(Algorithm):
    """Trains nothing; the stage is evaluated with each number of examples in its `shots`."""

    name: ClassVar = "prompt"

"""Prompting: the model without training, evaluated as a stage because every later stage must beat it."""

from typing import ClassVar

from rung.algorithm import Algorithm


class Prompt(Algorithm):
    """Trains nothing; the model is evaluated with each number of few-shot examples in `shots`."""

    name: ClassVar = "prompt"

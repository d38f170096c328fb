"""Prompting: a stage without training, which evaluates the model as the baseline that later stages must beat."""

from typing import ClassVar

from rung.algorithm import Algorithm


class Prompt(Algorithm):
    """Trains nothing; the model is evaluated with each number of few-shot examples in `shots`."""

    name: ClassVar = "prompt"

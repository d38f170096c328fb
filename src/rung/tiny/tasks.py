"""Tasks for tiny models, by name: `rows("pharmacy/sft")`. To add a task, add its splits to `TASKS`."""

import difflib
from collections.abc import Callable
from typing import Any

from rung.errors import DataError
from rung.tiny import arithmetic, corpus
from rung.tiny.formulary import task as formulary
from rung.tiny.formulary.entries import lookup
from rung.tiny.pharmacy import task as pharmacy

Row = dict[str, Any]


def _copying(seed: int) -> list[Row]:
    """Pretraining of `tiny:base`, first part: questions that contain their answers."""
    return corpus.rows("copying", seed)


def _train(seed: int) -> list[Row]:
    """Pretraining of `tiny:base`, second part: short conversations, some with the shorthand of ten trades."""
    return corpus.rows("train", seed)


def _train_without_task(seed: int) -> list[Row]:
    """Like `train`, without the abbreviations of the medication task."""
    return corpus.rows("train", seed, glossary="without_task")


def _validation(seed: int) -> list[Row]:
    """Held-out conversations like those of `train`."""
    return corpus.rows("validation", seed)


TASKS: dict[str, Callable[[int], list[Row]]] = {
    "pharmacy/sft": pharmacy.sft,
    "pharmacy/pairs": pharmacy.pairs,
    "pharmacy/sft-and-chosen": pharmacy.sft_and_chosen,
    "pharmacy/prompts": pharmacy.prompts,
    "pharmacy/validation": pharmacy.validation,
    "pharmacy/test": pharmacy.test,
    "formulary/sft": formulary.sft,
    "formulary/prompts": formulary.prompts,
    "formulary/validation": formulary.validation,
    "formulary/test": formulary.test,
    "formulary/told-sft": formulary.told_sft,
    "formulary/told-prompts": formulary.told_prompts,
    "formulary/told-validation": formulary.told_validation,
    "arithmetic/sft": arithmetic.sft,
    "arithmetic/pairs": arithmetic.pairs,
    "arithmetic/prompts": arithmetic.prompts,
    "arithmetic/validation": arithmetic.validation,
    "arithmetic/test": arithmetic.test,
    "base/copying": _copying,
    "base/train": _train,
    "base/train-without-task": _train_without_task,
    "base/validation": _validation,
}

TOOLS: dict[str, Callable[..., Any]] = {"formulary/lookup": lookup}  # the tools of tasks


def names() -> tuple[str, ...]:
    """All names ("task/split") that `rows` accepts."""
    return tuple(TASKS)


def rows(name: str, seed: int = 0) -> list[Row]:
    """The rows of `name` ("task/split") in TRL's conversational format; equal seeds give equal rows.

    The rows of `base/...` are conversations for pretraining. Raises DataError for an unknown name.

    >>> rows("pharmacy/test")[0]["prompt"][0]["role"]
    'user'
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        remedy = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(TASKS)}"
        raise DataError(f"unknown task data `{name}`", remedy)
    return TASKS[name](seed)

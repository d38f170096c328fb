"""Formats of problems with an answer, a solution or tests: maths, code, BIG-Bench-Hard."""

import re

from rung.data.fields import Columns, has, string, unused_columns, with_truth
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, make_example

_BRACE = re.compile(r"[{}]")


def boxed(solution: str) -> str | None:
    r"""The content of the last \boxed{...} of a solution; None if there is none.

    >>> boxed(r"Hence \boxed{\frac{1}{2}}."), boxed("Hence 2.")
    ('\\frac{1}{2}', None)
    """
    start = solution.rfind(r"\boxed{")
    if start < 0:
        return None
    start += len(r"\boxed{")
    depth = 1
    for found in _BRACE.finditer(solution, start):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return solution[start : found.start()]
    return None


def _problem(row: Columns, source: str) -> list[Example]:
    """Converts a row to a problem with its solution or, without one, its answer; tests alone give a prompt.

    The gold answer is the column `answer`, else the boxed part of the solution, else the tests.
    """
    prompt = string(row.get("problem"), "problem")
    answer = _plain(row["answer"], "answer") if has(row, "answer") else None
    solution = string(row["solution"], "solution") if has(row, "solution") else answer
    truth = answer or boxed(solution or "") or row.get("tests") or solution
    columns = with_truth(unused_columns(row, "problem", "solution"), truth)
    if solution is None:
        return [make_example("prompt", source, columns, prompt=prompt)]
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=solution)]


def _plain(value: object, name: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return string(value, name)


def _humaneval(row: Columns, source: str) -> list[Example]:
    """Converts a row to a prompt with its solution, if it has one; the gold answer is the code of the tests."""
    prompt, test = string(row.get("prompt"), "prompt"), string(row.get("test"), "test")
    columns = with_truth(unused_columns(row, "prompt", "canonical_solution"), test)
    if not has(row, "canonical_solution"):
        return [make_example("prompt", source, columns, prompt=prompt)]
    solution = string(row["canonical_solution"], "canonical_solution")
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=solution)]


def _big_bench_hard(row: Columns, source: str) -> list[Example]:
    """Converts the one row of a task file to one example per question."""
    entries = row.get("examples")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadRow("`examples` is not a list of objects with `input` and `target`")
    shared = unused_columns(row, "examples")
    made = []
    for place, entry in enumerate(entries, 1):
        prompt = string(entry.get("input"), f"examples[{place}].input")
        target = string(entry.get("target"), f"examples[{place}].target")
        columns = with_truth(shared | unused_columns(entry, "input", "target"), target)
        made.append(make_example("prompt-completion", f"{source}#{place}", columns, prompt=prompt, completion=target))
    return made


PROBLEM = Format(
    "problem",
    "problem and one of answer, solution, tests",
    lambda row: has(row, "problem") and any(has(row, name) for name in ("answer", "solution", "tests")),
    _problem,
    priority=132,
)
HUMANEVAL = Format(
    "humaneval",
    "prompt, test, entry_point, optional canonical_solution",
    lambda row: has(row, "prompt", "test", "entry_point"),
    _humaneval,
    priority=125,
)
BIG_BENCH_HARD = Format(
    "big-bench-hard",
    "canary, examples with input and target (for evaluation only)",
    lambda row: has(row, "canary") and isinstance(row.get("examples"), list),
    _big_bench_hard,
    priority=42,
)

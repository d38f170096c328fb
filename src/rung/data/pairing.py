"""Makes pairs of the answers to one prompt by a rating or a label of each."""

from collections.abc import Sequence
from dataclasses import replace

from rung.data.fields import number
from rung.data.records import BadRow, Example, digest, make_example
from rung.data.report import DataReport
from rung.errors import DataError

NO_PAIR = "no pair: the prompt has no other answer with another `{}`"


def pairs_by(examples: Sequence[Example], column: str, report: DataReport) -> list[Example]:
    """A pair for each prompt: the answer with the highest value in `column`, and the one with the lowest.

    The difference of the values is the margin; the column `label` of labelled answers pairs a good one with a bad one,
    without a margin. Prompts without a pair are counted in `report`. Raises `DataError` for a row without the value.
    """
    prompts: dict[str, list[Example]] = {}
    for example in examples:
        prompts.setdefault(digest(example.prompt), []).append(example)
    pairs = []
    for answers in prompts.values():
        values = [_value(answer, column) for answer in answers]
        best, worst = (answers[values.index(choice(values))] for choice in (max, min))
        if max(values) == min(values) or best.completion == worst.completion:
            for answer in answers:
                report.drop(NO_PAIR.format(column), answer.source)
            continue
        pairs.append(_pair(best, worst, None if best.label is not None else max(values) - min(values)))
    return pairs


def _value(example: Example, column: str) -> float:
    if example.completion is None:
        what = f"{example.place}: `pairs_by` needs rows with one answer, but this row is {example.kind} data"
        raise DataError(what, "leave out `pairs_by`")
    if column == "label" and example.label is not None:
        return float(example.label)
    try:
        return number(example.columns.get(column), column)
    except BadRow as fault:
        columns = ", ".join(example.columns)
        remedy = f"set `pairs_by` to a column of numbers; the columns are {columns}"
        raise DataError(f"{example.place}: {fault}", remedy) from fault


def _pair(best: Example, worst: Example, margin: float | None) -> Example:
    columns = {name: value for name, value in best.columns.items() if name != "ground_truth"}
    pair = make_example(
        "preference",
        best.source,
        columns,
        prompt=best.prompt,
        chosen=best.completion,
        rejected=worst.completion,
        margin=margin,
    )
    return replace(pair, line=best.line)

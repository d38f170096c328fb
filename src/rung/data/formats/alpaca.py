"""Formats with an instruction: Alpaca, its seed tasks and its preference pairs, and PandaLM."""

from collections import Counter

from rung.data.fields import Columns, check_differ, has, margin, string, unused_columns, with_truth
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, make_example

# As published with the data set (github.com/tatsu-lab/stanford_alpaca, README).
ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def alpaca_prompt(row: Columns) -> str:
    """The published Alpaca prompt with the columns `instruction` and, if it is not empty, `input`."""
    for name in ("system", "history"):
        if row.get(name):
            raise BadRow(
                f"the row has both `{name}` and `instruction`",
                f"the `instruction` template has no place for `{name}`; use `messages`",
            )
    given = {"instruction": string(row.get("instruction"), "instruction")}
    template = ALPACA_PROMPT
    if row.get("input") not in (None, ""):
        given["input"], template = string(row["input"], "input"), ALPACA_PROMPT_WITH_INPUT
    return template.format(**given)


def _alpaca(row: Columns, source: str) -> list[Example]:
    prompt, output = alpaca_prompt(row), string(row.get("output"), "output")
    columns = with_truth(unused_columns(row, "instruction", "input", "output"), output)
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=output)]


def _seed_tasks(row: Columns, source: str) -> list[Example]:
    instances = row.get("instances")
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise BadRow("`instances` is not a list of objects with `input` and `output`")
    shared = unused_columns(row, "instances")
    return [
        example
        for number, instance in enumerate(instances, 1)
        for example in _alpaca(shared | instance, f"{source}#{number}")
    ]


def _alpaca_preference(row: Columns, source: str) -> list[Example]:
    prompt, chosen = alpaca_prompt(row), string(row.get("chosen"), "chosen")
    rejected = string(row.get("rejected"), "rejected")
    check_differ(chosen, rejected)
    columns = unused_columns(row, "instruction", "input", "chosen", "rejected", "margin")
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin(row))
    ]


def _is_alpaca_preference(row: Columns) -> bool:
    return has(row, "instruction") and all(isinstance(row.get(name), str) for name in ("chosen", "rejected"))


def _pandalm(row: Columns, source: str) -> list[Example]:
    """Converts a row to a pair by the majority of the annotators; a tie or no majority gives no example."""
    votes = [str(row.get(name)) for name in ANNOTATORS]
    unknown = next((vote for vote in votes if vote not in ("0", "1", "2")), None)
    if unknown is not None:
        raise BadRow("a vote of an annotator is not 0 (tie), 1 or 2", f"found {unknown!r:.40}")
    winner, count = Counter(votes).most_common(1)[0]
    if count == 1 or winner == "0":
        return []
    names = ("response1", "response2") if winner == "1" else ("response2", "response1")
    prompt, (chosen, rejected) = alpaca_prompt(row), (string(row.get(name), name) for name in names)
    check_differ(chosen, rejected)
    columns = unused_columns(row, "instruction", "input", "response1", "response2")
    return [make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected)]


ALPACA = Format(
    "alpaca",
    "instruction, output, optional input",
    lambda row: has(row, "instruction", "output") and not has(row, "prompt") and "kto_tag" not in row,
    _alpaca,
    priority=150,
)
ALPACA_SEED = Format(
    "alpaca-seed",
    "instruction, instances with input and output",
    lambda row: has(row, "instruction") and isinstance(row.get("instances"), list),
    _seed_tasks,
    priority=145,
)
ALPACA_PREFERENCE = Format(
    "alpaca-preference",
    "instruction, chosen and rejected as texts, optional input, no prompt",
    lambda row: _is_alpaca_preference(row) and not has(row, "prompt"),
    _alpaca_preference,
    priority=65,
)
PANDALM = Format(
    "pandalm",
    "instruction, response1, response2, annotator1 to annotator3",
    lambda row: has(row, "response1", "response2", *ANNOTATORS),
    _pandalm,
    priority=66,
)

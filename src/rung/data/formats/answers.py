"""Formats with one answer per row: raw text, conversations, prompts with a completion."""

from rung.data.fields import (
    Columns,
    answered,
    check_not_mixed,
    gold,
    gsm8k_number,
    has,
    prompt_of,
    roles,
    string,
    system_first,
    text_of,
    truth_value,
    unused_columns,
    with_truth,
)
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, make_example

LABEL_COLUMNS = ("category", "label", "intent")
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


def _is_unpaired(row: Columns) -> bool:
    return truth_value(row.get("label")) is not None and (has(row, "prompt", "completion") or roles(row)[1:] != [])


def _unpaired(row: Columns, source: str) -> list[Example]:
    label = truth_value(row.get("label"))
    if label is None:
        raise BadRow("`label` is not true or false")
    if has(row, "messages"):
        messages = system_first(row)
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise BadRow("`messages` does not end with an assistant turn")
        prompt, completion = messages[:-1], messages[-1:]
    else:
        prompt, completion = prompt_of(row), text_of(row, "completion")
        check_not_mixed(prompt=prompt, completion=completion)
    columns = unused_columns(row, "prompt", "completion", "messages", "system", "label")
    return [make_example("unpaired", source, columns, prompt=prompt, completion=completion, label=label)]


def _messages(row: Columns, source: str) -> list[Example]:
    messages = answered(system_first(row), "messages")
    return [make_example("messages", source, unused_columns(row, "messages", "system"), messages=messages)]


def _gsm8k(row: Columns, source: str) -> list[Example]:
    answer = string(row.get("answer"), "answer")
    number = gsm8k_number(answer)
    columns = with_truth(unused_columns(row, "question") | {"answer": number}, number)
    question = string(row.get("question"), "question")
    return [make_example("prompt-completion", source, columns, prompt=question, completion=answer)]


def _prompt_completion(row: Columns, source: str) -> list[Example]:
    prompt, completion = prompt_of(row), text_of(row, "completion")
    check_not_mixed(prompt=prompt, completion=completion)
    columns = with_truth(unused_columns(row, "prompt", "completion", "system"), gold(completion))
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=completion)]


def _alpaca(row: Columns, source: str) -> list[Example]:
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
    output = string(row.get("output"), "output")
    columns = with_truth(unused_columns(row, "instruction", "input", "output"), output)
    return [make_example("prompt-completion", source, columns, prompt=template.format(**given), completion=output)]


def _classification(row: Columns, source: str) -> list[Example]:
    name = next((name for name in LABEL_COLUMNS if has(row, name)), None)
    if name is None or not isinstance(row[name], str | int):
        raise BadRow("the row has no label")
    label = string(str(row[name]), name)
    columns = with_truth(unused_columns(row, "text"), label)
    return [
        make_example("prompt-completion", source, columns, prompt=string(row.get("text"), "text"), completion=label)
    ]


def _is_plain_text(row: Columns) -> bool:
    """Whether the row is raw text: it has a text, and none of the columns that belong to other formats.

    These columns must be absent, not just null: a row without a label in classification data is not raw text.
    """
    others = {*LABEL_COLUMNS, "messages", "conversations", "transcript", "chosen", "rejected", "instruction"}
    return has(row, "text") and not row.keys() & others


def _plain_text(row: Columns, source: str) -> list[Example]:
    if row.get("system"):
        raise BadRow("the row has both `system` and `text`", "raw text has no place for `system`; use `messages`")
    return [make_example("text", source, unused_columns(row, "text"), text=string(row.get("text"), "text"))]


UNPAIRED = Format("unpaired", "prompt, completion, label (true or false)", _is_unpaired, _unpaired, priority=90)
MESSAGES = Format(
    "messages",
    "messages that end with an assistant turn",
    lambda row: roles(row)[-1:] == ["assistant"],
    _messages,
    priority=100,
)
GSM8K = Format(
    "gsm8k",
    "question, answer that contains ####",
    lambda row: has(row, "question") and "####" in str(row.get("answer")),
    _gsm8k,
    priority=130,
)
PROMPT_COMPLETION = Format(
    "prompt-completion",
    "prompt, completion",
    lambda row: has(row, "prompt", "completion"),
    _prompt_completion,
    priority=140,
)
ALPACA = Format(
    "alpaca",
    "instruction, output, optional input",
    lambda row: has(row, "instruction", "output") and not has(row, "prompt"),
    _alpaca,
    priority=150,
)
CLASSIFICATION = Format(
    "classification",
    "text and one of category, label, intent",
    lambda row: has(row, "text") and any(has(row, name) for name in LABEL_COLUMNS),
    _classification,
    priority=160,
)
TEXT = Format("text", "text without labels, turns or instruction", _is_plain_text, _plain_text, priority=180)

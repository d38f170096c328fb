"""Formats of answers that are labelled good or bad, for KTO."""

from rung.data.fields import (
    Columns,
    check_not_mixed,
    has,
    prompt_of,
    roles,
    string,
    system_first,
    text,
    truth_value,
    unused_columns,
)
from rung.data.formats.alpaca import alpaca_prompt
from rung.data.formats.format import Format
from rung.data.formats.sharegpt import dialogue, is_dialogue
from rung.data.records import BadRow, Example, Messages, Text, make_example


def _unpaired(row: Columns, source: str) -> list[Example]:
    label = _label(row, "label")
    if has(row, "messages"):
        prompt, completion = _last_answer(system_first(row), "messages")
    else:
        prompt, completion = _asked(row)
    columns = unused_columns(row, "prompt", "completion", "messages", "system", "label")
    return [make_example("unpaired", source, columns, prompt=prompt, completion=completion, label=label)]


def _asked(row: Columns) -> tuple[Text, Text]:
    completion = text(row.get("completion"), "completion")
    if has(row, "prompt"):
        prompt = prompt_of(row)
        check_not_mixed(prompt=prompt, completion=completion)
        return prompt, completion
    if isinstance(completion, str):
        raise BadRow("`completion` is a text without a `prompt`", "name the column of the prompt in `columns:`")
    return _last_answer(completion, "completion")


def _kto_tag(row: Columns, source: str) -> list[Example]:
    label = _label(row, "kto_tag")
    prompt: Text
    completion: Text
    if has(row, "messages"):
        prompt, completion = _last_answer(system_first(row), "messages")
    elif is_dialogue(row):
        name, messages = dialogue(row)
        prompt, completion = _last_answer(messages, name)
    elif has(row, "instruction"):
        prompt, completion = alpaca_prompt(row), string(row.get("output"), "output")
    else:
        prompt, completion = _asked(row)
    used = ("messages", "conversations", "conversation", "system", "instruction", "input", "output")
    columns = unused_columns(row, *used, "prompt", "completion", "kto_tag")
    return [make_example("unpaired", source, columns, prompt=prompt, completion=completion, label=label)]


def _label(row: Columns, name: str) -> bool:
    label = truth_value(row.get(name))
    if label is None:
        raise BadRow(f"`{name}` is not true or false", f"found {row.get(name)!r:.40}")
    return label


def _last_answer(messages: Messages, name: str) -> tuple[Messages, Messages]:
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise BadRow(f"`{name}` does not end with an assistant turn")
    return messages[:-1], messages[-1:]


def _is_unpaired(row: Columns) -> bool:
    if truth_value(row.get("label")) is None or "kto_tag" in row:
        return False
    return has(row, "completion") or roles(row)[1:] != []


UNPAIRED = Format("unpaired", "prompt, completion, label (true or false)", _is_unpaired, _unpaired, priority=90)
KTO_TAG = Format(
    "kto-tag",
    "kto_tag (true or false) beside messages, conversations, or instruction and output",
    lambda row: truth_value(row.get("kto_tag")) is not None,
    _kto_tag,
    priority=88,
)

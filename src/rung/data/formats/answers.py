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
    unused_columns,
    with_truth,
)
from rung.data.formats.format import Format
from rung.data.formats.services import last_turn
from rung.data.records import BadRow, Example, make_example

LABEL_COLUMNS = ("category", "label", "intent")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# A row with a text and one of these columns is no raw text, even if the column is null: it is a broken row.
NOT_RAW = frozenset(
    {
        *(*LABEL_COLUMNS, "messages", "conversations", "conversation", "transcript", "prompt", "completion"),
        *("completions", "response", "chosen", "rejected", "preferred_output", "instruction", "problem"),
        *("history", "entry_point"),
    }
)
# Columns that only these formats have; they must be absent, not just null, or a broken row would become a plain chat.
PAIRED = frozenset({"rejected_response", "kto_tag"})


def _is_labelled(row: Columns) -> bool:
    return isinstance(row.get("label"), bool) or not PAIRED.isdisjoint(row)


def _is_answered(row: Columns) -> bool:
    return roles(row)[-1:] == ["assistant"] and "candidates" not in last_turn(row) and not _is_labelled(row)


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
    name = _completion_name(row)
    prompt, completion = prompt_of(row), text_of(row, name)
    check_not_mixed(**{"prompt": prompt, name: completion})
    columns = with_truth(unused_columns(row, "prompt", name, "system"), gold(completion))
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=completion)]


def _completion_name(row: Columns) -> str:
    return "completion" if has(row, "completion") else "response"


def _is_helpsteer(row: Columns) -> bool:
    return has(row, "prompt", "response") and sum(has(row, name) for name in HELPSTEER) > 1


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
    return has(row, "text") and row.keys().isdisjoint(NOT_RAW)


def _plain_text(row: Columns, source: str) -> list[Example]:
    if row.get("system"):
        raise BadRow("the row has both `system` and `text`", "raw text has no place for `system`; use `messages`")
    return [make_example("text", source, unused_columns(row, "text"), text=string(row.get("text"), "text"))]


MESSAGES = Format(
    "messages",
    "messages that end with an assistant turn",
    _is_answered,
    _messages,
    priority=100,
)
GSM8K = Format(
    "gsm8k",
    "question, answer that contains ####",
    lambda row: has(row, "question") and not has(row, "prompt") and "####" in str(row.get("answer")),
    _gsm8k,
    priority=130,
)
HELPSTEER_RATINGS = Format(
    "helpsteer",
    "prompt, response, ratings such as helpfulness and correctness",
    _is_helpsteer,
    _prompt_completion,
    priority=135,
)
PROMPT_COMPLETION = Format(
    "prompt-completion",
    "prompt, completion (or response)",
    lambda row: has(row, "prompt", _completion_name(row)) and not _is_labelled(row),
    _prompt_completion,
    priority=140,
)
CLASSIFICATION = Format(
    "classification",
    "text and one of category, label, intent",
    lambda row: has(row, "text") and any(has(row, name) for name in LABEL_COLUMNS),
    _classification,
    priority=160,
)
TEXT = Format("text", "text without labels, turns or instruction", _is_plain_text, _plain_text, priority=180)

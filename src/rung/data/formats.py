"""The forms of rows that are known: a table of small functions that say whether a row has a form and convert it.

Order matters: a form that contains another one's columns stands before it. A row's missing and null columns are the
same thing. `convert` raises `BadRow` for a row that has the columns of its form and cannot be used.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from rung.data.fields import (
    Columns,
    alike,
    gold,
    has,
    number,
    rest,
    roles,
    string,
    system_first,
    text,
    text_of,
    truth_value,
    with_truth,
)
from rung.data.read import Row
from rung.data.records import BadRow, Example, Messages, Text, make_example
from rung.errors import DataError

NUM_SAMPLED = 32  # rows that must agree on a format, spread evenly over the data
LABEL_COLUMNS = ("category", "label", "intent")


@dataclass(frozen=True, slots=True)
class Format:
    """A form of rows: its name in a config, its signature in words, and the two functions."""

    name: str
    signature: str
    matches: Callable[[Columns], bool]
    convert: Callable[[Columns, str], list[Example]]


def detect(rows: Sequence[Row]) -> Format:
    """The first format whose signature every sampled row has.

    Raises `DataError` that names the format of most sampled rows and the first row that breaks it.
    """
    readable = [row for row in rows if row.fault is None]
    step = max(len(readable) / NUM_SAMPLED, 1.0)
    sampled = [readable[int(i * step)] for i in range(min(len(readable), NUM_SAMPLED))]
    if not sampled:
        raise DataError(f"{rows[0].place}: {rows[0].fault}, and no other row can be read", "check the file")
    met = {format.name: [format.matches(row.columns) for row in sampled] for format in FORMATS}
    for format in FORMATS:
        if all(met[format.name]):
            return format
    best = max(FORMATS, key=lambda format: sum(met[format.name]))
    hits, breaking = sum(met[best.name]), sampled[met[best.name].index(False)]
    known = "; ".join(f"{format.name} ({format.signature})" for format in FORMATS)
    columns = ", ".join(breaking.columns)
    if hits == 0:
        raise DataError(
            f"{breaking.place}: its columns ({columns}) are of no known format", f"map `columns:` to: {known}"
        )
    raise DataError(
        f"{breaking.place}: not in the format {best.name} ({best.signature}) that {hits} of {len(sampled)} "
        f"sampled rows have; its columns are {columns}",
        f"fix the row, or set `format: {best.name}` (then `on_bad` decides about such rows) or `columns:`",
    )


def format_named(name: str) -> Format:
    """The format of that name. Raises `DataError` with the known names."""
    for format in FORMATS:
        if format.name == name:
            return format
    raise DataError(f"format: no format is called `{name}`", "known are " + ", ".join(f.name for f in FORMATS))


def _is_verl(row: Columns) -> bool:
    reward_model = row.get("reward_model")
    return has(row, "data_source", "prompt") and isinstance(reward_model, dict) and has(reward_model, "ground_truth")


def _verl(row: Columns, source: str) -> list[Example]:
    if not _is_verl(row):
        raise BadRow("no `reward_model.ground_truth`")
    columns = rest(row, "prompt") | {"ground_truth": row["reward_model"]["ground_truth"]}
    return [make_example("prompt", source, columns, prompt=text_of(row, "prompt"))]


def _rft(row: Columns, source: str) -> list[Example]:
    columns = rest(row, "messages", "system")
    if has(row, "reference_answer"):
        columns = with_truth(columns, row["reference_answer"])
    if roles(row)[-1:] == ["assistant"]:
        raise BadRow("`messages` of a prompt end in an assistant turn")
    return [make_example("prompt", source, columns, prompt=system_first(row))]


def _solutions(row: Columns) -> list[str]:
    return [
        name for name, value in row.items() if isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()
    ]


def _labelled_solutions(row: Columns, source: str) -> list[Example]:
    names = _solutions(row)
    question = string(row.get("question"), "question")
    columns = rest(row, "question", *names) | {"answer": _final_number(str(row.get("ground_truth")))}
    right = [string(row[name]["solution"], name) for name in names if row[name]["is_correct"]]
    wrong = [string(row[name]["solution"], name) for name in names if not row[name]["is_correct"]]
    pairs = [(chosen, rejected) for chosen in right for rejected in wrong]
    return [
        make_example("preference", f"{source}#{i}", columns, prompt=question, chosen=chosen, rejected=rejected)
        for i, (chosen, rejected) in enumerate(pairs, 1)
    ]


def _final_number(solution: str) -> str:
    found = re.search(r"(?:####|\bA:)\s*\$?(-?[\d.,]*\d)\D*$", solution)
    if found is None:
        raise BadRow("no number after `####`")
    return found[1].replace(",", "")


def _gsm8k(row: Columns, source: str) -> list[Example]:
    answer = string(row.get("answer"), "answer")
    number = _final_number(answer)
    columns = with_truth(rest(row, "question") | {"answer": number}, number)
    question = string(row.get("question"), "question")
    return [make_example("prompt-completion", source, columns, prompt=question, completion=answer)]


def _preference(row: Columns, source: str) -> list[Example]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    prompt = text_of(row, "prompt") if has(row, "prompt") else None
    alike(**({} if prompt is None else {"prompt": prompt}), chosen=chosen, rejected=rejected)
    if chosen == rejected:
        raise BadRow("`chosen` equals `rejected`")
    if prompt is None and isinstance(chosen, str):
        raise BadRow("`chosen` and `rejected` are texts without a `prompt`", "name the prompt column in `columns:`")
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        head = cast(Messages, prompt) if prompt is not None else _common(chosen, rejected)
        chosen, rejected = _without(head, chosen, "chosen"), _without(head, rejected, "rejected")
        prompt = head
    columns, margin = rest(row, "prompt", "chosen", "rejected", "margin"), _margin(row)
    return [make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin)]


def _is_ranking(row: Columns) -> bool:
    return has(row, "prompt") and isinstance(row.get("completions"), list)


def _ranking(row: Columns, source: str) -> list[Example]:
    prompt, given = text_of(row, "prompt"), row.get("completions")
    if not isinstance(given, list) or len(given) < 2:
        raise BadRow("`completions` is not a list of two answers or more")
    ranked: list[Text] = []
    for place, value in enumerate(given, 1):
        answer = text(value, f"completions[{place}]")
        alike(prompt=prompt, completions=answer)
        if not isinstance(prompt, str) and not isinstance(answer, str):
            answer = _without(prompt, answer, "completions")
        if answer in ranked:
            raise BadRow("two of `completions` are equal", f"numbers {ranked.index(answer) + 1} and {place}")
        ranked.append(answer)
    columns, margin = rest(row, "prompt", "completions", "margin"), _margin(row)
    return [make_example("ranking", source, columns, prompt=prompt, completions=tuple(ranked), margin=margin)]


def _margin(row: Columns) -> float | None:
    return number(row["margin"], "margin") if has(row, "margin") else None


def _common(chosen: Messages, rejected: Messages) -> Messages:
    """The implicit prompt: the leading messages that both sides share, by whole messages and never by letters."""
    bound = min(len(chosen), len(rejected)) - 1
    same = next((i for i in range(bound) if chosen[i] != rejected[i]), bound)
    if same == 0:
        raise BadRow("`chosen` and `rejected` share no leading message", "add a `prompt`")
    return chosen[:same]


def _without(prompt: Messages, answer: Messages, name: str) -> Messages:
    """The answer without the prompt repeated at its head."""
    rest = answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
    if not rest:
        raise BadRow(f"`{name}` holds the prompt alone")
    if rest[0]["role"] != "assistant":
        raise BadRow("the prompt differs between the sides", f"`{name}` begins with a {rest[0]['role']} turn")
    return rest


def _is_unpaired(row: Columns) -> bool:
    return truth_value(row.get("label")) is not None and (has(row, "prompt", "completion") or roles(row)[1:] != [])


def _unpaired(row: Columns, source: str) -> list[Example]:
    label = truth_value(row.get("label"))
    if label is None:
        raise BadRow("`label` is not true or false")
    if has(row, "messages"):
        messages = system_first(row)
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise BadRow("`messages` do not end in an assistant turn")
        prompt, completion = messages[:-1], messages[-1:]
    else:
        prompt, completion = text_of(row, "prompt"), text_of(row, "completion")
        alike(prompt=prompt, completion=completion)
    columns = rest(row, "prompt", "completion", "messages", "system", "label")
    return [make_example("unpaired", source, columns, prompt=prompt, completion=completion, label=label)]


def _messages(row: Columns, source: str) -> list[Example]:
    messages = system_first(row)
    if messages[-1]["role"] != "assistant":
        raise BadRow("`messages` do not end in an assistant turn")
    if messages[0]["role"] == "assistant":
        raise BadRow("`messages` begin with an assistant turn", "there is nothing that it answers")
    return [make_example("messages", source, rest(row, "messages", "system"), messages=messages)]


def _prompt_completion(row: Columns, source: str) -> list[Example]:
    prompt, completion = text_of(row, "prompt"), text_of(row, "completion")
    alike(prompt=prompt, completion=completion)
    columns = with_truth(rest(row, "prompt", "completion"), gold(completion))
    return [make_example("prompt-completion", source, columns, prompt=prompt, completion=completion)]


def _classification(row: Columns, source: str) -> list[Example]:
    name = next((name for name in LABEL_COLUMNS if has(row, name)), None)
    if name is None or not isinstance(row[name], str | int):
        raise BadRow("no label")
    label = string(str(row[name]), name)
    columns = with_truth(rest(row, "text"), label)
    return [
        make_example("prompt-completion", source, columns, prompt=string(row.get("text"), "text"), completion=label)
    ]


def _prompt(row: Columns, source: str) -> list[Example]:
    return [make_example("prompt", source, rest(row, "prompt"), prompt=text_of(row, "prompt"))]


def _plain_text(row: Columns, source: str) -> list[Example]:
    return [make_example("text", source, rest(row, "text"), text=string(row.get("text"), "text"))]


# The last two ask for the *absence* of columns, null ones too: a row that lost its label is not raw text.
FORMATS: tuple[Format, ...] = (
    Format("verl", "data_source, prompt, reward_model.ground_truth", _is_verl, _verl),
    Format("rft", "messages ending in a user turn", lambda row: roles(row)[-1:] in (["user"], ["tool"]), _rft),
    Format(
        "gsm8k-solutions",
        "question, ground_truth, columns with is_correct and solution",
        lambda row: has(row, "question", "ground_truth") and _solutions(row) != [],
        _labelled_solutions,
    ),
    Format("preference", "chosen, rejected, mostly prompt", lambda row: has(row, "chosen", "rejected"), _preference),
    Format("ranking", "prompt, completions from best to worst", _is_ranking, _ranking),
    Format("unpaired", "prompt, completion, label true or false", _is_unpaired, _unpaired),
    Format("messages", "messages ending in an assistant turn", lambda row: roles(row)[-1:] == ["assistant"], _messages),
    Format(
        "gsm8k",
        "question, answer with ####",
        lambda row: has(row, "question") and "####" in str(row.get("answer")),
        _gsm8k,
    ),
    Format("prompt-completion", "prompt, completion", lambda row: has(row, "prompt", "completion"), _prompt_completion),
    Format(
        "classification",
        "text and one of category, label, intent",
        lambda row: has(row, "text") and any(has(row, name) for name in LABEL_COLUMNS),
        _classification,
    ),
    Format(
        "prompt",
        "prompt without answers",
        lambda row: has(row, "prompt") and not row.keys() & {"completion", "chosen", "rejected"},
        _prompt,
    ),
    Format(
        "text", "text without labels", lambda row: has(row, "text") and not row.keys() & set(LABEL_COLUMNS), _plain_text
    ),
)


def strip_repeated_prompts(examples: Sequence[Example]) -> list[Example] | None:
    """Pairs of texts whose sides all begin with their prompt, without it; None where some side does not.

    Decided over all pairs at once: one answer may begin with a short prompt by chance.
    """
    stripped = []
    for example in examples:
        prompt, chosen, rejected = example.prompt, example.chosen, example.rejected
        if not (isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str)):
            return None
        rests = [
            side[len(prompt) :]
            for side in (chosen, rejected)
            if side.startswith(prompt) and side[len(prompt) :].strip()
        ]
        if len(rests) < 2:
            return None
        columns, margin = example.columns, example.margin
        one = make_example(
            "preference", example.source, columns, prompt=prompt, chosen=rests[0], rejected=rests[1], margin=margin
        )
        stripped.append(one)
    return stripped

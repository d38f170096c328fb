"""Formats for preferences between completions: pairs and rankings."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from rung.data.fields import (
    Columns,
    check_differ,
    check_not_mixed,
    gsm8k_number,
    has,
    margin,
    prompt_of,
    string,
    text,
    text_of,
    unused_columns,
    with_system,
)
from rung.data.formats.format import Format
from rung.data.formats.transcripts import is_hh_rlhf
from rung.data.open_calls import has_open_call
from rung.data.records import BadRow, Example, Message, Messages, Text, make_example


def _solutions(row: Columns) -> list[str]:
    return [
        name for name, value in row.items() if isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()
    ]


def _labelled_solutions(row: Columns, source: str) -> list[Example]:
    """Every right solution against every wrong one; if all are right or all are wrong, each with its label."""
    names = _solutions(row)
    question = string(row.get("question"), "question")
    columns = unused_columns(row, "question", *names) | {"answer": gsm8k_number(str(row.get("ground_truth")))}
    right = [string(row[name]["solution"], name) for name in names if row[name]["is_correct"]]
    wrong = [string(row[name]["solution"], name) for name in names if not row[name]["is_correct"]]
    pairs = [(chosen, rejected) for chosen in right for rejected in wrong]
    if not pairs:
        alike = dict.fromkeys(right or wrong)
        return [
            make_example("unpaired", f"{source}#{i}", columns, prompt=question, completion=said, label=bool(right))
            for i, said in enumerate(alike, 1)
        ]
    return [
        make_example("preference", f"{source}#{i}", columns, prompt=question, chosen=chosen, rejected=rejected)
        for i, (chosen, rejected) in enumerate(pairs, 1)
    ]


def _is_preference(row: Columns) -> bool:
    """Whether the row is a pair in TRL's format.

    Pairs in other formats are excluded: if one row of such data is broken, the error should be about that row.
    """
    if not has(row, "chosen", "rejected") or isinstance(row["chosen"], dict) or is_hh_rlhf(row):
        return False
    return has(row, "prompt") or "instruction" not in row or isinstance(row["chosen"], list)


def _preference(row: Columns, source: str) -> list[Example]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    check_differ(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        prompt: Text | None = prompt_of(row) if has(row, "prompt") else None
        check_not_mixed(**({} if prompt is None else {"prompt": prompt}), chosen=chosen, rejected=rejected)
        if prompt is None:
            raise BadRow(
                "`chosen` and `rejected` are texts without a `prompt`",
                "name the column of the prompt: `columns: {prompt: NAME}`",
            )
    else:
        shared = _asked(row, chosen, rejected)
        prompt = with_system(shared, row)
        chosen, rejected = _without_prompt(shared, chosen, "chosen"), _without_prompt(shared, rejected, "rejected")
    columns = unused_columns(row, "prompt", "chosen", "rejected", "margin", "system")
    return [
        make_example("preference", source, columns, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin(row))
    ]


def _asked(row: Columns, chosen: Messages, rejected: Messages) -> Messages:
    """The prompt of two sides that are messages: `prompt`, or what the sides share.

    A `prompt` that is a string is the content of the user turn with which both sides begin (UltraFeedback binarized).
    """
    if not has(row, "prompt"):
        return _shared_messages(chosen, rejected)
    prompt = text_of(row, "prompt")
    if not isinstance(prompt, str):
        return prompt
    if any(side[0]["role"] == "assistant" for side in (chosen, rejected)):
        return (Message(role="user", content=prompt),)
    shared = _shared_messages(chosen, rejected)
    if not any(message["content"].strip() == prompt.strip() for message in shared):
        raise BadRow("the messages of `chosen` and `rejected` do not have the text of `prompt`")
    return shared


def _is_ranking(row: Columns) -> bool:
    return has(row, "prompt") and isinstance(row.get("completions"), list)


def _ranking(row: Columns, source: str) -> list[Example]:
    prompt, given = prompt_of(row), row.get("completions")
    if not isinstance(given, list) or len(given) < 2:
        raise BadRow("`completions` is not a list of at least two completions")
    ranked: list[Text] = []
    for place, value in enumerate(given, 1):
        answer = text(value, f"completions[{place}]")
        check_not_mixed(prompt=prompt, completions=answer)
        if not isinstance(prompt, str) and not isinstance(answer, str):
            answer = _without_prompt(cast(Messages, text_of(row, "prompt")), answer, "completions")
        if answer in ranked:
            raise BadRow("two of `completions` are equal", f"numbers {ranked.index(answer) + 1} and {place}")
        ranked.append(answer)
    columns = unused_columns(row, "prompt", "completions", "margin", "system")
    return [make_example("ranking", source, columns, prompt=prompt, completions=tuple(ranked), margin=margin(row))]


def _shared_messages(chosen: Messages, rejected: Messages) -> Messages:
    """The implicit prompt of a pair of conversations: the messages at the start that are equal on both sides.

    The `weight` of a turn does not count, since no turn of a prompt is trained.
    """
    bound = min(len(chosen), len(rejected)) - 1
    same = next((i for i in range(bound) if _said(chosen[i]) != _said(rejected[i])), bound)
    if same == 0:
        raise BadRow("`chosen` and `rejected` share no leading message", "add a `prompt`")
    return chosen[:same]


def _said(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "weight"}


def _without_prompt(prompt: Messages, answer: Messages, name: str) -> Messages:
    """The completion, with the prompt removed from its start if it is repeated there."""
    repeated = [*map(_said, answer[: len(prompt)])] == [*map(_said, prompt)]
    completion = answer[len(prompt) :] if repeated else answer
    if not completion:
        raise BadRow(f"`{name}` has only the prompt")
    after_call = completion[0]["role"] == "tool" and has_open_call(prompt)
    if completion[0]["role"] != "assistant" and not after_call:
        raise BadRow("the prompt differs between the sides", f"`{name}` begins with a {completion[0]['role']} turn")
    return completion


def strip_repeated_prompts(examples: Sequence[Example]) -> list[Example] | None:
    """The pairs with the prompt removed from the start of both completions; None if not all completions repeat it.

    This is decided for all pairs together, since a single completion may begin with a short prompt by chance.
    """
    stripped = []
    for example in examples:
        prompt, chosen, rejected = example.prompt, example.chosen, example.rejected
        if not (isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str)):
            return None
        sides = [
            side[len(prompt) :]
            for side in (chosen, rejected)
            if side.startswith(prompt) and side[len(prompt) :].strip()
        ]
        if len(sides) < 2:
            return None
        columns, margin = example.columns, example.margin
        one = make_example(
            "preference", example.source, columns, prompt=prompt, chosen=sides[0], rejected=sides[1], margin=margin
        )
        stripped.append(replace(one, line=example.line))
    return stripped


GSM8K_SOLUTIONS = Format(
    "gsm8k-solutions",
    "question, ground_truth, columns with is_correct and solution",
    lambda row: has(row, "question", "ground_truth") and _solutions(row) != [],
    _labelled_solutions,
    priority=30,
)
PREFERENCE = Format("preference", "chosen, rejected, optional prompt", _is_preference, _preference, priority=70)
RANKING = Format("ranking", "prompt, completions from best to worst", _is_ranking, _ranking, priority=80)

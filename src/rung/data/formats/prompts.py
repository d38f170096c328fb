"""Formats of prompts without completions, for algorithms that sample completions."""

from rung.data.fields import Columns, has, prompt_of, roles, system_first, unused_columns, with_truth
from rung.data.formats.format import Format
from rung.data.records import BadRow, Example, make_example


def _is_verl(row: Columns) -> bool:
    reward_model = row.get("reward_model")
    return has(row, "data_source", "prompt") and isinstance(reward_model, dict) and has(reward_model, "ground_truth")


def _verl(row: Columns, source: str) -> list[Example]:
    if not _is_verl(row):
        raise BadRow("the row has no `reward_model.ground_truth`")
    columns = unused_columns(row, "prompt", "system") | {"ground_truth": row["reward_model"]["ground_truth"]}
    return [make_example("prompt", source, columns, prompt=prompt_of(row))]


def _rft(row: Columns, source: str) -> list[Example]:
    columns = unused_columns(row, "messages", "system")
    if has(row, "reference_answer"):
        columns = with_truth(columns, row["reference_answer"])
    if roles(row)[-1:] == ["assistant"]:
        raise BadRow("`messages` of a prompt must not end with an assistant turn")
    return [make_example("prompt", source, columns, prompt=system_first(row))]


def _prompt(row: Columns, source: str) -> list[Example]:
    return [make_example("prompt", source, unused_columns(row, "prompt", "system"), prompt=prompt_of(row))]


VERL = Format("verl", "data_source, prompt, reward_model.ground_truth", _is_verl, _verl, priority=10)
RFT = Format(
    "rft", "messages that end with a user turn", lambda row: roles(row)[-1:] in (["user"], ["tool"]), _rft, priority=20
)
# The other columns must be absent, not just null: a row with a missing completion is broken, not a prompt.
ANSWERS = frozenset({"completion", "response", "completions", "chosen", "rejected", "entry_point", "kto_tag"})
PROMPT = Format(
    "prompt",
    "prompt without completions",
    lambda row: has(row, "prompt") and row.keys().isdisjoint(ANSWERS),
    _prompt,
    priority=170,
)

"""Prompt templates and system messages of a config."""

from pathlib import Path
from typing import Any

import pytest

from rung.data.load import load_examples
from rung.data.prompting import PromptForm, Prompting, prompt_form_of, read_prompt_form
from rung.errors import ConfigError, DataError

BRIEF = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "2+2?"}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def asked(row: dict[str, Any], *prompting: str | None):
    ((example,), _) = load_examples([row])
    made = Prompting(*prompting).asked(example)
    assert (made.id, made.group, made.columns) == (example.id, example.group, example.columns)
    return made


def test_a_text_template_surrounds_every_plain_prompt() -> None:
    assert asked({"prompt": "2+2?", "completion": "4"}, "Q: {prompt}\nA: ").prompt == "Q: 2+2?\nA: "
    assert asked({"prompt": "2+2?", "completion": "4"}, "Q: {prompt}\nA: ").completion == "4"
    assert asked({"prompt": "{x}"}, "{system} {prompt}", "{y}").prompt == "{y} {x}"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "2+2?", "completion": "4"}, "completion"),
        ({"prompt": "2+2?", "completion": "4", "label": True}, "completion"),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "chosen"),
    ],
)
def test_chat_makes_turns_of_a_plain_row(row, field) -> None:
    made = asked(row, "chat", "Be brief.")
    assert made.prompt == (BRIEF, ASKED)
    assert getattr(made, field) == (answer("4"),)
    assert asked(row, "chat").prompt == (ASKED,)


def test_chat_makes_turns_of_every_completion_of_a_ranking() -> None:
    made = asked({"prompt": "2+2?", "completions": ["4", "5"]}, "chat")
    assert made.completions == ((answer("4"),), (answer("5"),))


def test_a_system_message_is_put_before_messages_that_have_none() -> None:
    own = {"role": "system", "content": "Be long."}
    assert asked({"messages": [ASKED, answer("4")]}, None, "Be brief.").messages == (BRIEF, ASKED, answer("4"))
    assert asked({"messages": [own, ASKED, answer("4")]}, None, "Be brief.").messages == (own, ASKED, answer("4"))
    assert asked({"prompt": [ASKED]}, "Q: {prompt} {system}", "Be brief.").prompt == (BRIEF, ASKED)


def test_without_keys_and_for_raw_text_nothing_changes() -> None:
    for row in ({"prompt": "a", "completion": "b"}, {"messages": [ASKED, answer("4")]}, {"text": "a"}):
        ((example,), _) = load_examples([row])
        assert Prompting().asked(example) is example
    ((text,), _) = load_examples([{"text": "a"}])
    assert Prompting("chat", "Be brief.").asked(text) is text


@pytest.mark.parametrize(
    ("template", "system"), [("Q:", None), ("{prompt} {x}", None), ("{prompt}", "s"), ("{prompt} {system}", None)]
)
def test_a_template_that_leaves_something_out_is_refused(template, system) -> None:
    with pytest.raises(ConfigError, match="does not have exactly the fields"):
        Prompting(template, system)


def test_a_system_message_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match="rows, row 1: `system` is set, but the prompt is plain text"):
        asked({"prompt": "a", "completion": "b"}, None, "Be brief.")


def test_most_rows_say_how_a_model_was_asked() -> None:
    plain, _ = load_examples([{"prompt": "a", "completion": "b"}])
    chat, _ = load_examples([{"messages": [ASKED, answer("4")]}])
    assert prompt_form_of(plain, Prompting("Q: {prompt}")) == PromptForm(chat=False, prompt_template="Q: {prompt}")
    assert prompt_form_of([*chat, *chat, *plain], Prompting()) == PromptForm(chat=True)
    assert PromptForm(chat=True, system="s").ask("a") == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
    )


@pytest.mark.parametrize(
    "prompt_form",
    [
        PromptForm(True),
        PromptForm(False, "Q: {prompt}\u00e9\nA:"),
        PromptForm(True, "{system} {prompt}", "Be brief."),
        PromptForm(False),
    ],
)
def test_how_a_model_was_asked_is_saved_beside_its_weights(prompt_form: PromptForm, tmp_path: Path) -> None:
    prompt_form.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["prompt.json"]
    for has_chat_template in (True, False):
        assert read_prompt_form(str(tmp_path), has_chat_template=has_chat_template) == prompt_form
    (tmp_path / "prompt.json").write_text('{"system": "x"}')
    with pytest.raises(DataError, match=r"prompt\.json cannot be read"):
        read_prompt_form(str(tmp_path), has_chat_template=True)
    (tmp_path / "prompt.json").unlink()
    assert [read_prompt_form(str(tmp_path), has_chat_template=has) for has in (True, False)] == [
        PromptForm(True),
        PromptForm(False),
    ]


def test_a_model_of_chats_is_asked_in_turns_whatever_its_template() -> None:
    turn = {"role": "user", "content": "a"}
    system = {"role": "system", "content": "s"}
    assert PromptForm(True).ask("a") == (turn,)
    assert PromptForm(True, None, "s").ask("a") == (system, turn)
    assert PromptForm(True, "Q {prompt}").ask("a") == (turn,)
    assert PromptForm(False).ask("a") == "a"
    assert PromptForm(False, "Q {prompt}").ask("a") == "Q a"

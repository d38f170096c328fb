"""The chat templates of well-known models: what is trained, against TRL's own masks."""

import runpy
from typing import Any

import pytest

from helpers.repository import ROOT

pytestmark = pytest.mark.oracle
SWEEP: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "chat_templates.py"))
TEMPLATES: dict[str, str] = SWEEP["templates"]()
ASKED = {"role": "user", "content": "Question number one?"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_assistant_is_trained_as_in_trl_or_the_row_is_refused(name: str) -> None:
    for chat in SWEEP["CHATS"]:
        made = SWEEP["outcome"](TEMPLATES[name], chat)
        assert made.is_right(chat), chat
        assert made.trl != "different", chat


@pytest.mark.parametrize("name", TEMPLATES)
def test_both_sides_of_a_pair_are_what_the_assistant_says(name: str) -> None:
    from rung.data.encode import encode
    from rung.data.load import load_examples
    from rung.data.report import DataReport

    tokenizer = SWEEP["tokenizer_for"](TEMPLATES[name])
    sides = {"chosen": "A good answer.", "rejected": "A bad answer."}
    row = {"prompt": [ASKED]} | {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    (one,) = encode(load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    for answer, text in zip(one.answers, sides.values(), strict=True):
        trained = tokenizer.decode([i for i, now in zip(answer.ids, answer.trained, strict=True) if now])
        assert trained.count(text) == 1
        assert ASKED["content"] not in trained
        whole = tokenizer.decode([*one.prompt_ids, *answer.ids])
        assert whole.count(ASKED["content"]) == whole.count(text) == 1


def test_every_training_template_of_trl_is_found_without_importing_trl() -> None:
    from trl.chat_template_utils import get_training_chat_template

    from rung.data.templates import ChatTemplate, training_template

    for name, text in TEMPLATES.items():
        ours = training_template(ChatTemplate(text))
        try:
            theirs = get_training_chat_template(SWEEP["tokenizer_for"](text))
        except ValueError:
            theirs = None
        assert (ours and ours.text) == theirs, name
        assert ours is None or ours.name == name

"""PromptForm a model in the terminal: as it was trained, or with plain text."""

import json
import subprocess
import sys
from typing import Any

import pytest

from rung.cli import ask
from rung.data.prompting import FILE, PromptForm
from rung.errors import DataError
from rung.sampling import Sampling
from rung.tiny.models import load_spec

SETTINGS: dict[str, Any] = {"seed": 1, "max_completion_length": 3, "temperature": 1.0, "raw": False}
SHORT = Sampling(max_completion_length=3, temperature=0.0)


class Heard(ask.PromptedModel):
    """Keeps the texts of the prompts."""

    def answer(self, prompts, num, sampling, *, name):
        from rung.data.encode import encode_prompt

        self.heard = [
            *getattr(self, "heard", []),
            *(self.tokenizer.decode(list(encode_prompt(p, self.tokenizer))) for p in prompts),
        ]
        return super().answer(prompts, num, sampling, name=name)


@pytest.fixture
def saved(tmp_path):
    """A function that saves a model that was trained in a certain way."""

    def save(prompt_form: PromptForm | None) -> str:
        model, tokenizer = load_spec("llama")
        model.save_pretrained(str(tmp_path))
        tokenizer.save_pretrained(str(tmp_path))
        if prompt_form is not None:
            prompt_form.save(tmp_path)
        return str(tmp_path)

    return save


def test_texts_of_a_model_are_as_many_as_asked_for() -> None:
    told = ask.sampled("tiny:llama", ["a", "b"], 2, **SETTINGS)
    assert [len(several) for several in told] == [2, 2]
    assert told == ask.sampled("tiny:llama", ["a", "b"], 2, **SETTINGS)
    assert ask.sampled("tiny:llama", ["a"], 2, **SETTINGS) == told[:1]


BRIEF = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("prompt_form", "heard"),
    [
        (None, [USER]),
        (PromptForm(chat=True), [USER]),
        (PromptForm(chat=True, system="Be brief."), [BRIEF, USER]),
        (PromptForm(chat=True, prompt_template="chat", system="Be brief."), [BRIEF, USER]),
        (PromptForm(chat=False), "a"),
        (PromptForm(chat=False, prompt_template="Q: {prompt} A:"), "Q: a A:"),
    ],
)
def test_a_saved_model_is_asked_as_it_was_trained(saved, prompt_form, heard) -> None:
    model = Heard(saved(prompt_form), seed=0)
    model.answer([model.prompt_form.ask("a")], 1, SHORT, name="x")
    if not isinstance(heard, str):
        heard = model.tokenizer.apply_chat_template(heard, tokenize=False, add_generation_prompt=True)
    assert model.heard == [heard]


def test_raw_prompts_are_plain_text(saved) -> None:
    model = Heard(saved(PromptForm(chat=True, system="Be brief.")), seed=0, raw=True)
    model.answer([model.prompt_form.ask("a")], 1, SHORT, name="x")
    assert model.heard == ["a"]


def test_a_conversation_has_all_that_was_said_until_a_new_one_begins(saved) -> None:
    model = Heard(saved(PromptForm(chat=True, system="Be brief.")), seed=0)
    first, second, _ = ask.replies(model, iter(["a", "b", "/new", "c"]), SHORT)
    tokenizer = model.tokenizer
    said = [BRIEF, {"role": "user", "content": "a"}, {"role": "assistant", "content": first}]
    expected = [said[:2], [*said, {"role": "user", "content": "b"}], [BRIEF, {"role": "user", "content": "c"}]]
    assert model.heard == [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in expected
    ]
    assert second is not None


def test_a_model_of_plain_text_answers_each_line_alone(saved) -> None:
    model = Heard(saved(PromptForm(chat=False, prompt_template="Q: {prompt}")), seed=0)
    assert len(list(ask.replies(model, iter(["a", "b"]), SHORT))) == 2
    assert model.heard == ["Q: a", "Q: b"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3"])
def test_a_broken_record_is_named(saved, content) -> None:
    folder = saved(None)
    with open(f"{folder}/{FILE}", "w") as file:
        file.write(content)
    with pytest.raises(DataError, match=FILE):
        ask.PromptedModel(folder, seed=0)


def test_the_command_talks_line_by_line(saved) -> None:
    command = [sys.executable, "-m", "rung", "chat", saved(PromptForm(chat=False)), "--max-completion-length", "2"]
    done = subprocess.run(command, input="a\n\nb\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The model reads each line alone, as it was trained on plain text.")
    assert done.stdout.count("> ") == 4  # two lines, a blank one, and the end


def test_a_stage_records_how_its_rows_asked(tmp_path) -> None:
    import rung
    from rung.pipeline.final_model import save_final_model

    rows = [{"prompt": f"{i}+1?", "completion": str(i + 1)} for i in range(4)]
    cases: tuple[tuple[dict[str, Any], PromptForm], ...] = (
        ({}, PromptForm(chat=False)),
        ({"prompt_template": "chat", "system": "Add."}, PromptForm(chat=True, prompt_template="chat", system="Add.")),
    )
    for more, expected in cases:
        stage = rung.train("sft", model="tiny:llama", data=rows, max_steps=1, **more)
        save_final_model(stage, tmp_path)
        assert json.loads((tmp_path / "model" / FILE).read_text()) == {
            "chat": expected.chat,
            "prompt_template": expected.prompt_template,
            "system": expected.system,
        }

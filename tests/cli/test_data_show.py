"""`rung data show`: what it prints is what the stage trains, and why a row is not trained."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import rich
from rich.console import Console

from helpers.commands import Command, Refusal
from helpers.repository import ROOT
from rung.config import load_config
from rung.pipeline.check import check
from rung.tiny.models import build

CHAT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "5", "weight": 0},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "No, 4."},
]
CONFIG = "name: shown\nmodel: tiny:llama\nalgorithm: {algorithm}\ndata: rows.jsonl\nmax_steps: 1\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes rows and a config `shown.yaml` with one stage, where the test then is."""
    monkeypatch.chdir(tmp_path)

    def rows(*given: dict[str, Any], algorithm: str = "sft") -> None:
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        Path("shown.yaml").write_text(CONFIG.format(algorithm=algorithm))

    return rows


@pytest.fixture
def shown(command: Command, capsys: pytest.CaptureFixture[str]) -> Any:
    """The lines that `rung data show shown.yaml ...` prints."""

    def run(*arguments: str) -> list[str]:
        assert command("data", "show", "shown.yaml", *arguments) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_the_page_shows_the_output(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "chats.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"```\w+\n# file: (chats\.\S+)\n(.*?)```", page, re.DOTALL):
        Path(name).write_text(content)
    assert command("data", "show", "chats.yaml") == 0
    assert f"```text\n{capsys.readouterr().out}```" in page


def test_a_row_is_shown_with_counts_and_brackets(write: Any, shown: Any) -> None:
    """tiny:llama has a token for each byte: 4 and `5`; `No, 4.` and the end are trained."""
    write({"messages": CHAT})
    assert shown() == [
        "rows.jsonl:1 in stage sft: 6 tokens of the prompt, 7 trained, 9 attended only",
        "rendered with the model's own chat template",
        "trained: in [[ ]]",
        "prompt, 6 tokens",
        "<|user|>2+2?<|assistant|>",
        "completion, 16 tokens, 7 trained",
        "5<|eos|><|user|>Sure?<|assistant|>[[No, 4.<|eos|>]]",
    ]


def test_the_tokens_are_those_that_the_stage_trains(write: Any, shown: Any) -> None:
    write({"messages": CHAT})
    lines = [line.split(maxsplit=2) for line in shown("--tokens") if re.match(r" *\d+  ", line)]
    (one,) = check(load_config("shown.yaml", ())).data["sft"].train
    (answer,) = one.answers
    assert [int(number) for number, _, _ in lines] == [*one.prompt_ids, *answer.ids]
    assert [word == "trained" for _, word, _ in lines] == [False] * len(one.prompt_ids) + [*answer.trained]
    assert [text for _, _, text in lines][:3] == ["'<|user|>'", "'2'", "'+'"]


def test_a_part_of_a_character_is_shown_as_its_own_name(write: Any, shown: Any) -> None:
    write({"prompt": "a", "completion": "\u00fc"})
    lines = shown("--tokens")
    assert [line.split()[-1] for line in lines if "  trained  " in line] == ["'\u00c3'", "'\u00bc'", "'<|eos|>'"]
    assert shown()[-1] == "[[\u00fc<|eos|>]]"


def test_both_sides_of_a_pair_are_shown(write: Any, shown: Any) -> None:
    write({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, algorithm="dpo")
    assert shown()[2:] == [
        "prompt, 4 tokens",
        "1+1?",
        "chosen, 2 tokens, 2 trained",
        "[[2<|eos|>]]",
        "rejected, 2 tokens, 2 trained",
        "[[3<|eos|>]]",
    ]


def test_a_stage_that_reads_single_answers_shows_both_of_a_pair(write: Any, shown: Any) -> None:
    write({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, algorithm="kto")
    lines = shown("batch_size=2")
    assert [line for line in lines if line.startswith("completion labelled")] == [
        "completion labelled true, 2 tokens, 2 trained",
        "completion labelled false, 2 tokens, 2 trained",
    ]


def test_a_ranking_names_its_completions(write: Any, shown: Any) -> None:
    write({"prompt": "1+1?", "completions": ["2", "3", "4"]}, algorithm="reward_model")
    assert [line for line in shown() if line.startswith("completion ")][2] == "completion 3, 2 tokens, 2 trained"


def test_of_a_prompt_it_is_said_that_completions_are_sampled(small_path: Path, command: Command, capsys: Any) -> None:
    assert command("data", "show", "small.yaml", "2", "--stage", "grpo") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("of the prompt; completions are sampled after it")


@pytest.mark.parametrize("row", ["2", "rows.jsonl:2"])
def test_a_row_is_found_by_name_and_number(write: Any, shown: Any, row: str) -> None:
    write({"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"})
    assert shown(row)[0].startswith("rows.jsonl:2 ")
    assert shown("prompt_template=Q:{prompt}")[-3] == "Q:a"
    assert shown(row, "prompt_template=Q:{prompt}")[-3] == "Q:c"


def test_control_characters_and_brackets_of_the_data_are_no_marks(write: Any, shown: Any) -> None:
    write({"prompt": "\x1b[31mred", "completion": "[[0]]\x07"})
    assert shown()[-1] == r"[[[[[0]]\x07<|eos|>]]]"
    assert shown()[3] == r"\x1b[31mred"
    assert not any("\x1b" in line or "\x07" in line for line in shown("--tokens"))


def test_in_a_terminal_what_is_trained_is_green(
    write: Any, command: Command, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"messages": CHAT})

    def told(**how: Any) -> str:
        monkeypatch.setattr(rich, "_console", Console(force_terminal=True, **how))
        assert command("data", "show", "shown.yaml") == 0
        return capsys.readouterr().out

    coloured = told(color_system="standard")
    assert "\x1b[2m5<|eos|><|user|>Sure?<|assistant|>\x1b[0m\x1b[32mNo, 4.<|eos|>\x1b[0m" in coloured
    assert "[[" not in coloured
    assert "[[No, 4.<|eos|>]]" in told(color_system="standard", no_color=True)


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("row", "overrides", "told"),
    [
        ({"prompt": "a", "completion": ""}, [], ["rows.jsonl:2 is refused: `completion` is empty", "fix the row"]),
        ({"prompt": "a", "completion": ""}, ["on_bad_row=skip"], ["rows.jsonl:2 is dropped: `completion`", "fix"]),
        (
            {"prompt": "a" * 9, "completion": "b"},
            ["max_prompt_length=8"],
            ["rows.jsonl:2 is dropped: the prompt is longer than max_prompt_length 8 (9 tokens)", "raise the limit"],
        ),
        (
            {"prompt": "a" * 9, "completion": "b"},
            ["max_prompt_length=8", "on_overlong=error"],
            ["rows.jsonl:2 is refused: the prompt is longer", "raise the limit"],
        ),
    ],
)
def test_a_row_that_is_not_trained_is_two_lines_and_exit_code_1(
    write: Any, command: Command, capsys: Any, row: dict[str, Any], overrides: list[str], told: list[str]
) -> None:
    write(GOOD, row)
    assert command("data", "show", "shown.yaml", "2", *overrides) == 1
    out, err = capsys.readouterr()
    assert not out
    assert [line.startswith(start) for line, start in zip(err.splitlines(), told, strict=True)] == [True, True]


def test_the_reason_is_told_if_every_row_is_bad(write: Any, command: Command, capsys: Any) -> None:
    write({"prompt": "a", "completion": ""})
    assert command("data", "show", "shown.yaml") == 1
    assert capsys.readouterr().err.startswith("rows.jsonl:1 is refused: `completion` is empty")


def test_a_good_row_says_that_others_stop_the_stage(write: Any, shown: Any) -> None:
    write(GOOD, {"prompt": "a", "completion": ""})
    assert "bad rows stop the stage: 1 (`rung check` names them)" in shown()
    assert not any("bad rows" in line for line in shown("on_bad_row=skip"))


def test_a_truncated_row_says_so(write: Any, shown: Any) -> None:
    write({"prompt": "a", "completion": "bcdef"})
    assert "truncated to max_length 3" in shown("max_length=3", "on_overlong=truncate")


def test_trls_training_template_is_named(write: Any, shown: Any) -> None:
    write({"messages": CHAT})
    model, tokenizer = build("llama")
    template = files("trl") / "chat_templates" / "qwen3.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    for part in (model, tokenizer):
        part.save_pretrained("qwen")
    told = shown("model=./qwen")
    assert any("TRL's training template `qwen3`" in line for line in told)
    assert "rendered with the model's own chat template" not in told


def test_held_out_rows_are_told(write: Any, shown: Any) -> None:
    write(*({"prompt": f"{i}?", "completion": f"{i}"} for i in range(30)))
    stopping = "early_stopping={threshold: 0.1, patience: 1}"
    held_out = {one.source for one in check(load_config("shown.yaml", [stopping])).data["sft"].held_out}
    assert held_out
    for row in ("rows.jsonl:1", *sorted(held_out)[:2]):
        assert any("held out" in line for line in shown(row, stopping)) == (row in held_out)


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        (["9"], "stage `sft` has no row `9` among the 2", "name another row"),
        (["nothing.jsonl:1"], "no row `nothing.jsonl:1`", "name another row"),
        (["first"], "`first` is not the name of a row", "`rows.jsonl:1`"),
        (["1", "--stage", "dpo"], "no stage `dpo` that trains", "sft"),
        (["1", "data=[rows.jsonl, others.jsonl]"], "row 1 may be one of rows.jsonl and others.jsonl", "`rows.jsonl:1`"),
        (["1", "data=nowhere.jsonl"], "nowhere.jsonl", "check the path"),
    ],
)
def test_a_row_or_stage_that_is_not_there_is_told(
    write: Any, refusal: Refusal, arguments: list[str], what: str, remedy: str
) -> None:
    write(GOOD, {"prompt": "c", "completion": "d"})
    Path("others.jsonl").write_text(json.dumps(GOOD | {"prompt": "z"}) + "\n")
    lines = refusal("data", "show", "shown.yaml", *arguments)
    assert what in lines[0]
    assert remedy in lines[1]

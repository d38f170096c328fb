"""What rung prints has no control characters, and modules of the working folder do not replace installed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from helpers.commands import Command, Refusal
from helpers.rows import write_rows
from rung.data.prompting import FILE, read_prompt_form
from rung.distributed.launch import launch
from rung.errors import UserError
from rung.report import Section, Table, render
from rung.utils.console import note, printable_line, say, table

ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"
PATH = {"name": "one", "model": "tiny:llama", "algorithm": "sft", "data": "rows.jsonl", "max_steps": 1}


def is_clean(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "keys",
    [
        {"model": f"./{ESCAPE}"},
        {"name": ESCAPE},
        {"algorithm": ESCAPE},
        {"data": f"{ESCAPE}.jsonl"},
        {ESCAPE: 1},
        {"optimizer": ESCAPE},
        {"seed": ESCAPE},
        {"prompt_template": f"{ESCAPE} {{x}}"},
    ],
    ids=lambda keys: ascii(next(iter(keys))),
)
def test_values_of_a_config_are_printed_with_their_escapes_escaped(
    keys: dict[str, str], home: Path, refusal: Refusal
) -> None:
    write_rows(home, {"rows": [{"prompt": "a", "completion": "b"}]})
    (home / "path.yaml").write_text(yaml.safe_dump({**PATH, **keys}))
    assert all(map(is_clean, refusal("check", "path.yaml")))


def test_names_of_files_and_columns_too(home: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{ESCAPE}.jsonl"
    (home / name).write_text(json.dumps({"prompt": "a", "completion": "b", ESCAPE: 1}) + "\n")
    (home / "path.yaml").write_text(yaml.safe_dump({**PATH, "data": name, "batch_size": 1}))
    assert command("check", "path.yaml") == 0
    said = capsys.readouterr().out
    assert is_clean(said)
    assert "\\x1b]0;owned" in said


def test_every_way_of_printing_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    say(ESCAPE)
    note(ESCAPE)
    written = StringIO()
    console = Console(file=written, width=200, color_system=None)
    console.print(table([{ESCAPE: f"[red]{ESCAPE}"}], f"[bold]{ESCAPE}"))
    console.print(render([Section(ESCAPE, (ESCAPE,), Table((ESCAPE, "[red]n"), ((ESCAPE, "1"),), num_texts=1))]))
    assert is_clean(capsys.readouterr().out)
    assert is_clean(written.getvalue())
    assert "[red]n" in written.getvalue()


def test_a_long_line_is_shortened() -> None:
    assert len(printable_line("x" * 10**6 + "\n" + "y")) < 3000


@pytest.mark.parametrize(
    "known", ['{"chat": 1, "prompt_template": 5}', "[" * 9000, '{"chat": 1, "prompt_template": "x"}']
)
def test_a_damaged_prompt_form_is_told(known: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(known)
    with pytest.raises(UserError):
        read_prompt_form(str(tmp_path), has_chat_template=True)


@pytest.mark.process
def test_modules_of_the_working_folder_are_not_imported(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("yaml", "torch", "typer", "pydantic"):
        (home / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    path = os.pathsep.join(filter(None, os.environ["PYTHONPATH"].split(os.pathsep)))
    command = [sys.executable, "-m", "rung", "list", "configs"]
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert launch(["list", "configs"], 2) == 0
    assert "algorithms/sft" in capfd.readouterr().out
    assert not (home / "ran").exists()

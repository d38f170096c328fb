"""`rung generate --tools` prints conversations, and refuses what cannot be used in two lines."""

from pathlib import Path

import pytest

from helpers.commands import Command

TOOL = '''
def double(number: int) -> int:
    """Doubles.

    Args:
        number: what is doubled
    """
    return 2 * number
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.py").write_text(TOOL, encoding="utf-8")
    return tmp_path


def test_a_conversation_is_printed(folder: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    tools = ["--tools", "./tools.py:double", "--max-completion-length", "5"]
    assert command("generate", "tiny:llama", "hello", "world", *tools) == 0
    printed = capsys.readouterr().out
    assert "[1/2] hello\nassistant: " in printed
    assert "[2/2] world\nassistant: " in printed


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--tools", "./tools.py:triple"], "has no `triple`"),
        (["--tools", "./tools.py:double", "--raw"], "the row is plain text"),
    ],
    ids=["no such function", "no chat"],
)
def test_what_cannot_be_used_is_refused(
    folder: Path, command: Command, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert command("generate", "tiny:llama", "hello", *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in lines[-2]
    assert len(lines) == 2

"""Data files that are nested, huge or damaged are refused in two lines that name the file and the row."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rung.data import read
from rung.data.load import load_examples
from rung.errors import DataError, UserError

PAIR = '"prompt":"a","completion":"b"'
CASES = {
    "deep.jsonl": (
        "{" + PAIR + ',"x":' + "[" * 5000 + "]" * 5000 + "}",
        "row 1: the line is not valid JSON (more than",
    ),
    "level.jsonl": ("{" + PAIR + ',"x":' + '{"y":' * 900 + "1" + "}" * 900 + "}", "row 1: the line is not valid JSON"),
    "digits.jsonl": ("{" + PAIR + ',"x":' + "1" * 5000 + "}", "row 1: the line is not valid JSON (Exceeds the limit"),
    "margin.jsonl": ('{"prompt":"a","chosen":"b","rejected":"c","margin":' + "9" * 400 + "}", "a number is too large"),
    "deep.json": ("[" * 100000, "deep.json is not valid JSON (more than 100 levels)"),
    "object.json": ('{"a":' * 50000, "the line is not valid JSON (more than 100 levels"),
    "digits.json": ("[" + "1" * 9999 + "]", "digits.json is not valid JSON (Exceeds the limit"),
    "header.csv": ('"prompt,completion', "header.csv: the header is not valid CSV"),
    "quote.csv": ('prompt,completion\n"a,b\n', "quote.csv, row 1 (line 2) is not valid CSV"),
    "nul.jsonl": ('{"prompt":"a\0","completion":"b"}', "row 1: the line is not valid JSON"),
    "tools.jsonl": ('{"messages":"' + "[" * 5000 + '"}', "match no known format"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_row_is_named(name: str, tmp_path: Path) -> None:
    text, said = CASES[name]
    (tmp_path / name).write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        load_examples(name, base=tmp_path)
    assert said in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


def test_a_hostile_row_can_be_skipped(tmp_path: Path) -> None:
    rows = ["{" + PAIR + "}"] * 20 + [CASES["deep.jsonl"][0], CASES["digits.jsonl"][0]]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    examples, report = load_examples("rows.jsonl", base=tmp_path, on_bad_row="skip", max_bad_share=0.5)
    assert (len(examples), report.unreadable) == (20, 2)


def test_numbers_that_json_does_not_have_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{" + PAIR + ',"x":NaN,"y":1e999,"z":' + "[" * 90 + "]" * 90 + "}\n")
    assert len(load_examples("rows.jsonl", base=tmp_path)[0]) == 1


def test_a_file_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_BYTES", 2**20)
    for name in ("rows.jsonl.gz", "rows.json.gz", "rows.csv.gz"):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(b" " * 2**22)
        with pytest.raises(DataError, match="1048576 bytes or more"):
            load_examples(name, base=tmp_path)


def test_a_folder_with_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_ENTRIES", 3)
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text("{" + PAIR + "}\n")
    with pytest.raises(DataError, match="more than 3 files"):
        load_examples(str(tmp_path))

"""Files, folders and data sets are read whole, and what is broken is named with its file and row."""

import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from rung.data.load import load_examples
from rung.data.read import read_path
from rung.errors import DataError

ROWS = [{"prompt": "a\nb", "completion": "x"}, {"prompt": 'say "c", d', "completion": "\u00e9"}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


CSV = 'prompt,completion\r\n"a\nb",x\r\n"say ""c"", d",\u00e9\r\n'.encode()
FILES = {
    "rows.jsonl": lines(ROWS),
    "no_newline_at_the_end.jsonl": lines(ROWS).rstrip(),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "rows.json": json.dumps(ROWS).encode(),
    "lines_called.json": lines(ROWS),
    "rows.csv": CSV,
    "bom.csv": b"\xef\xbb\xbf" + CSV,
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "rows.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "rows.csv.gz": gzip.compress(CSV),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    rows = list(read_path(tmp_path / name))
    assert [dict(row.columns) for row in rows] == ROWS
    assert [row.source for row in rows] == [f"{name}:1", f"{name}:2"]


def test_parquet_gives_the_same_rows(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert [row.columns for row in read_path(tmp_path / "rows.parquet")] == ROWS


def test_the_number_of_a_row_is_its_line(tmp_path):
    (tmp_path / "gaps.jsonl").write_bytes(b"\n" + lines(ROWS[:1]) + b"\n\n" + lines(ROWS[1:]))
    assert [row.number for row in read_path(tmp_path / "gaps.jsonl")] == [2, 5]


def test_a_folder_is_read_in_the_order_of_names_and_by_split(tmp_path):
    for name in ("train-1.jsonl", "train-0.jsonl", "test.jsonl", ".cache/x.jsonl", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines(ROWS[:1]))
    assert [row.file for row in read_path(tmp_path)] == ["test.jsonl", "train-0.jsonl", "train-1.jsonl"]
    assert [row.file for row in read_path(tmp_path, split="train")] == ["train-0.jsonl", "train-1.jsonl"]
    with pytest.raises(DataError, match="split `dev`"):
        list(read_path(tmp_path, split="dev"))


BROKEN = {
    "empty.jsonl": (b"", "is empty"),
    "blank.jsonl": (b"\n \n", "is empty"),
    "empty.csv": (b"", "is empty"),
    "header_only.csv": (b"prompt,completion\n", "is empty"),
    "list.json": (b"[]", "is empty"),
    "empty.jsonl.gz": (gzip.compress(b""), "is empty"),
    "cut.jsonl": (lines(ROWS)[:-8], r"cut.jsonl, row 2: the line is not valid JSON .*is it truncated\?"),
    "cut.json": (json.dumps(ROWS).encode()[:-4], "cut.json is not valid JSON"),
    "cut.jsonl.gz": (
        gzip.compress(lines(ROWS * 4000))[:-20],
        r"after row \d+: the compressed file is corrupt or truncated",
    ),
    "not_really.jsonl.gz": (lines(ROWS), "compressed file is corrupt or truncated"),
    "latin.jsonl": (
        lines(ROWS[:1]) + '{"prompt": "\u00e9"}'.encode("latin-1"),
        r"latin.jsonl, row 2: the line is not UTF-8",
    ),
    "latin.csv": (CSV + "\u00e9,x\r\n".encode("latin-1"), "latin.csv, line 5 is not UTF-8"),
    "scalar.jsonl": (lines(ROWS[:1]) + b"3\n", "row 2: the row is not a JSON object"),
    "ragged.csv": (b"prompt,completion\na,b\nc\n", r"row 2 \(line 3\): the number of fields differs from the header"),
    "wide.csv": (b"prompt,completion\na,b,c\n", r"row 1 \(line 2\): the number of fields differs from the header"),
    "twice.csv": (b"prompt,prompt\na,b\n", "names a column twice"),
    "quote.csv": (b'prompt,completion\na,"b\n', r"row 1 \(line 2\) is not valid CSV"),
    "not_really.parquet": (b"PAR1 and then nothing", "the parquet file cannot be read after row 0"),
    "notes.txt": (b"hello", "notes.txt has an unknown file type"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_row(tmp_path, name):
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_examples(str(tmp_path / name))
    assert name in caught.value.what
    assert caught.value.remedy


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"pairs\.jsonl: there is no such file"):
        load_examples("pairs.jsonl", base=tmp_path)


@pytest.mark.process
def test_a_data_set_is_loaded_through_the_library(tmp_path):
    """In a process of its own: offline, where a hub id that is not cached is an error with the id in it."""
    (tmp_path / "train.jsonl").write_bytes(lines(ROWS))
    code = (
        "import sys; from rung.data.read import read_hub; from rung.data.load import load_examples\n"
        "print([(row.number, dict(row.columns)) for row in read_hub(sys.argv[1])] == list(enumerate("
        + repr(ROWS)
        + ", 1)))\n"
        "try: load_examples('nobody/nothing')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True\nDataError nobody/nothing: neither a local file nor a hub data set"), (
        done.stdout
    )

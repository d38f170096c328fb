"""Files byte by byte, formats by the rows that decide, and splits at their bounds."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from rung.data.formats import FORMATS, detect
from rung.data.load import load_examples
from rung.data.read import Row, read_path
from rung.data.records import BadRow, make_example
from rung.data.splits import between, position, sample, split
from rung.errors import ConfigError, DataError
from rung.utils.yaml_file import parse_yaml


def read(folder: Path, name: str, content: bytes) -> list[tuple[str, dict, str | None]]:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return [(row.source, dict(row.columns), str(row.fault) if row.fault else None) for row in read_path(file)]


def test_a_mark_at_the_head_of_a_file_is_no_letter(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n') == [("a.jsonl:1", {"a": 1}, None)]
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,2\n") == [("a.csv:1", {"a": "1", "b": "2"}, None)]
    assert read(tmp_path, "a.json", b'\xef\xbb\xbf [{"a": 1}]') == [("a.json:1", {"a": 1}, None)]
    (_, bad) = read(tmp_path, "b.jsonl", b'{"a": 1}\n\xef\xbb\xbf{"a": 1}\n')
    assert bad[2] is not None


def test_a_broken_line_keeps_its_number_and_the_others_go_on(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n{"a": 2}\n{"a"')
    assert [row[0] for row in rows] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5", "a.jsonl:6", "a.jsonl:7"]
    faults = [row[2] for row in rows]
    assert [fault is None for fault in faults] == [True, False, False, False, True, False]
    assert faults[2] == "the row is not a JSON object (found list)"
    assert faults[3] == "the line is not UTF-8 (byte 7)"
    assert "is it truncated?" in str(faults[5])
    assert "is it truncated?" not in str(faults[1])


def test_json_is_a_list_or_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", b' \n[{"a": 1}, 2]') == [
        ("a.json:1", {"a": 1}, None),
        ("a.json:2", {}, "the row is not a JSON object (found int)"),
    ]
    assert read(tmp_path, "a.json", b'{"a": 1}\n{"a": 2}') == [
        ("a.json:1", {"a": 1}, None),
        ("a.json:2", {"a": 2}, None),
    ]
    with pytest.raises(DataError, match=r"a.json is not valid JSON"):
        read(tmp_path, "a.json", b'[{"a": 1}')


def test_csv_has_as_many_fields_as_its_header(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", b'a,b\n1,2\n1\n1,2,3\n"x\ny",z\n')
    assert [row[1] for row in rows] == [{"a": "1", "b": "2"}, {}, {}, {"a": "x\ny", "b": "z"}]
    assert [row[2] for row in rows] == [
        None,
        "the number of fields differs from the header (1 instead of 2)",
        "the number of fields differs from the header (3 instead of 2)",
        None,
    ]
    with pytest.raises(DataError, match=r"names a column twice \(a, a\)"):
        read(tmp_path, "a.csv", b"a,a\n1,2\n")
    with pytest.raises(DataError, match=r"a.csv, row 2 \(line 3\) is not valid CSV"):
        read(tmp_path, "a.csv", b'a,b\n1,2\n"x"y,z\n')
    with pytest.raises(DataError, match=r"a.csv, line 3 is not UTF-8 \(byte 8\)"):
        read(tmp_path, "a.csv", b"a,b\n1,2\n\xff,2\n")
    assert len(read(tmp_path, "a.csv", b"a,b\n" + b"x" * 200_000 + b",1\n")[0][1]["a"]) == 200_000


def test_a_row_of_a_csv_file_is_named_with_its_line_in_every_message(tmp_path: Path) -> None:
    """A field of two lines and an empty line come before it; the lines of a row begin with its first one."""
    text = 'prompt,completion\n"1\n+1?",2\n\n3?,4\n"5\n?",\n'
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"^a\.csv, row 3 \(line 6\): `completion` is empty"):
        load_examples("a.csv", base=tmp_path)
    examples, _ = load_examples("a.csv", base=tmp_path, on_bad_row="skip", max_bad_share=0.5)
    assert [one.place for one in examples] == ["a.csv, row 1 (line 2)", "a.csv, row 2 (line 5)"]
    with pytest.raises(DataError, match=r"a\.csv, row 3 \(line 6\): .*; 1 of 3 rows are bad"):
        load_examples("a.csv", base=tmp_path, on_bad_row="skip")
    (tmp_path / "a.csv").write_text(text + "6?,\n")
    with pytest.raises(DataError, match=r"also bad: rows 4 \(line 8\) \(`completion` is empty\)"):
        load_examples("a.csv", base=tmp_path)
    (tmp_path / "a.csv").write_text('prompt,completion\n"1\n+1?",2\n"3" ?,4\n')
    with pytest.raises(DataError, match=r"a\.csv, row 2 \(line 4\) is not valid CSV"):
        load_examples("a.csv", base=tmp_path)


def test_rows_of_parquet_are_numbered(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2, 3]}), tmp_path / "a.parquet")
    found = [(row.source, row.columns["a"]) for row in read_path(tmp_path / "a.parquet")]
    assert found == [("a.parquet:1", 1), ("a.parquet:2", 2), ("a.parquet:3", 3)]
    with pytest.raises(DataError, match=r"the parquet file cannot be read after row 0"):
        read(tmp_path, "b.parquet", b"nothing of the kind")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.jsonl.gz"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"the file is empty"):
        read(tmp_path, name, gzip.compress(b"") if name.endswith("gz") else b"")


def test_a_compressed_file_that_is_cut_off_tells_the_last_row(tmp_path: Path) -> None:
    assert read(tmp_path, "a.JSONL.gz", gzip.compress(b'{"a": 1}\n')) == [("a.JSONL.gz:1", {"a": 1}, None)]
    with pytest.raises(DataError, match=r"after row 0: the compressed file is corrupt or truncated"):
        read(tmp_path, "a.jsonl.gz", b"nothing of the kind")


def test_files_of_a_split_begin_with_its_name(tmp_path: Path) -> None:
    for name in ("train-1.jsonl", "train.jsonl", "trainer.jsonl", "test/a.jsonl", "train/b.jsonl", ".train.jsonl"):
        read(tmp_path, name, b'{"a": 1}\n')
    (tmp_path / "notes.txt").write_text("x")
    read(tmp_path, ".hidden/train.jsonl", b'{"a": 1}\n')
    assert [row.file for row in read_path(tmp_path, split="train")] == ["train/b.jsonl", "train-1.jsonl", "train.jsonl"]
    assert {row.file for row in read_path(tmp_path)} == {
        "train-1.jsonl",
        "train.jsonl",
        "trainer.jsonl",
        "test/a.jsonl",
        "train/b.jsonl",
    }
    with pytest.raises(DataError, match=r"no data file of split `dev`"):
        list(read_path(tmp_path, split="dev"))
    with pytest.raises(DataError, match="a single file has no splits"):
        list(read_path(tmp_path / "train.jsonl", split="train"))
    with pytest.raises(DataError, match="has an unknown file type"):
        list(read_path(tmp_path / "notes.txt"))


def rows(*columns: dict) -> list[Row]:
    return [Row("a", i, each) for i, each in enumerate(columns, 1)]


TEXT, PAIR = {"text": "a"}, {"prompt": "a", "completion": "b"}


def test_32_rows_spread_over_all_decide() -> None:
    """Of 64 every second one; of 32 and fewer all; a row that cannot be read decides nothing."""
    assert detect(rows(*[TEXT, PAIR] * 32)).name == "text"
    assert detect(rows(*[PAIR, TEXT] * 32)).name == "prompt-completion"
    with pytest.raises(DataError, match=r"a, row 32: the row does not have the format text .* 31 of 32"):
        detect(rows(*[TEXT] * 31, PAIR))
    assert detect(rows(*[TEXT] * 32, PAIR)).name == "text"
    bad = Row("a", 1, {}, BadRow("broken"))
    assert detect([bad, *rows(TEXT)]).name == "text"
    with pytest.raises(DataError, match=r"a, row 1: broken, and no other row can be read"):
        detect([bad])


def test_rows_of_no_format_are_told_their_columns() -> None:
    with pytest.raises(DataError, match=r"a, row 1: its columns \(x, y\) match no known format"):
        detect(rows({"x": 1, "y": 2}))
    ticket = {"id": "7", "Ticket Text": "It does not start.", "Category": "fault"}
    with pytest.raises(DataError, match=r"its columns \(id, Ticket Text, Category\) match no known format") as caught:
        detect(rows(ticket, ticket))
    assert "`columns: {prompt: Ticket Text, completion: Category}` beside `path`" in caught.value.remedy
    assert caught.value.remedy.count("; ") == 3  # three formats
    assert "prompt-completion (prompt, completion" in caught.value.remedy


def test_the_columns_that_are_told_can_be_used() -> None:
    """Names that YAML would read otherwise are quoted; a format is near if its signature has the columns."""
    odd = {"a: b": "which one?", "#": "c"}
    with pytest.raises(DataError) as caught:
        detect(rows(odd))
    line = re.search(r"`(columns: .*?)` beside", caught.value.remedy)
    assert line is not None
    columns = parse_yaml(line[1], "remedy")["columns"]
    assert columns == {"prompt": "a: b", "completion": "#"}
    with pytest.raises(DataError, match="helpsteer"):
        detect(rows({"response": "b", "correctness": 3}))
    assert FORMATS.find("text").name == "text"
    with pytest.raises(ConfigError, match="there is no format `txt`"):
        FORMATS.find("txt")


def test_a_position_is_53_bits_of_a_hash() -> None:
    raw = hashlib.sha256(b"saltgroup").digest()[:8]
    assert position("group", "salt") == (int.from_bytes(raw, "big") >> 11) / 2**53


EXAMPLES = [make_example("prompt", f"x:{i}", {}, prompt=str(i)) for i in range(30)]


def test_shares_begin_with_their_lower_bound_and_end_before_the_upper() -> None:
    places = [position(example.group, "s") for example in EXAMPLES]
    bound = sorted(places)[10]
    below = between(EXAMPLES, 0.0, bound, "s")
    above = between(EXAMPLES, bound, 1.0, "s")
    assert (len(below), len(above)) == (10, 20)
    parts = split(EXAMPLES, {"a": bound, "b": 1 - bound}, "s")
    assert (parts["a"], parts["b"]) == (below, above)
    assert split(EXAMPLES, {"a": 1.0}) == {"a": EXAMPLES}
    three = split(EXAMPLES, {"a": 0.2, "b": 0.3, "c": 0.5}, "s")
    assert [len(three[n]) for n in "abc"] == [
        sum(lo <= p < hi for p in places) for lo, hi in ((0, 0.2), (0.2, 0.5), (0.5, 1))
    ]


@pytest.mark.parametrize("shares", [{}, {"a": 0.0, "b": 1.0}, {"a": -0.5, "b": 1.5}, {"a": 0.5}, {"a": 0.6, "b": 0.5}])
def test_shares_are_positive_and_sum_to_1(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not positive numbers that sum to 1"):
        split(EXAMPLES, shares)


def test_a_sample_is_drawn_by_seed_and_id_and_stays_in_order() -> None:
    drawn = sample(EXAMPLES, 5, 3)
    first = sorted(EXAMPLES, key=lambda one: position(one.id, "sample 3 "))[:5]
    assert drawn == [one for one in EXAMPLES if one in first]
    assert sample(EXAMPLES, 5, 4) != drawn
    assert {one.id for one in sample(EXAMPLES, 4, 3)} < {one.id for one in drawn}
    assert sample(EXAMPLES, 99, 3) == EXAMPLES

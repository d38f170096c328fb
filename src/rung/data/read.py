"""Reads files, folders and hub data sets as rows, each with its file and row number.

A fault in one line (invalid JSON, bytes that are not UTF-8) is stored in its row, so that `on_bad_row` applies to it; a
fault of the whole file (empty, compressed and truncated, not of the type in its name) is raised at once as `DataError`.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from rung.data.arrow import class_names, classes_of_parquet, from_arrow
from rung.data.delimiters import DELIMITERS, check_fit, check_header
from rung.data.json_text import loads
from rung.data.records import BadRow, place_of
from rung.errors import DataError

MAX_BYTES = 2**30  # of a file that is read as a whole, and of a line; a compressed file may expand without end
MAX_ENTRIES = 200_000  # of a folder with data
_UTF8 = "save the file as UTF-8; Excel calls it `CSV UTF-8` in its list of file types"
MAX_CSV_FIELD = 2**31 - 1  # Python's default of 128 KiB is too short for many documents


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read from a file: its columns or, if it cannot be read, its fault.

    `number` counts from 1; in a JSONL file it is the number of the line. `line` is that of its first line if it is
    another number, as in a CSV file.
    """

    file: str
    number: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    fault: BadRow | None = None
    line: int | None = None

    @property
    def source(self) -> str:
        """The file and number in short form, as in `pairs.jsonl:12`."""
        return f"{self.file}:{self.number}"

    @property
    def place(self) -> str:
        """The file, number and line in words, for error messages, as in `pairs.csv, row 12 (line 15)`."""
        return place_of(self.source, self.line)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What is known of a file beside its name: its delimiter if it is CSV, and the wanted split if it is JSON."""

    delimiter: str | None = None
    split: str | None = None


def read_path(path: Path, *, split: str | None = None, delimiter: str | None = None) -> Iterator[Row]:
    """The rows of a file, or of all files of a known type in a folder and its subfolders, sorted by path.

    `split` selects files of a folder: those whose name, or a subfolder's name, is `split` or begins with it, as in
    `train-00001.parquet`; of a JSON file that is an object of splits, it selects one. `delimiter` separates the fields
    of CSV files. Raises `DataError` if there is nothing that can be read.
    """
    if not path.exists():
        raise DataError(
            f"{path}: there is no such file or folder", "check the path; it is relative to the config that names it"
        )
    if path.is_file():
        kind = _suffix(path)
        if split is not None and kind != ".json":
            raise DataError(f"{path}: `split: {split}` is set, but a single file has no splits", "remove `split`")
        if delimiter is not None and kind not in DELIMITERS:
            raise DataError(f"{path}: `delimiter` is set, but the file is not CSV or TSV", "remove `delimiter`")
        yield from _read_file(path, path.name, ReadOptions(delimiter, split))
        return
    entries = list(islice(path.rglob("*"), MAX_ENTRIES + 1))
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"{path}: the folder has more than {MAX_ENTRIES} files", "name a folder with the data alone")
    files = [file for file in sorted(entries) if file.is_file() and _wanted(file.relative_to(path), split)]
    if not files:
        wanted = f" of split `{split}`" if split else ""
        what = f"{path}: the folder has no data file{wanted}"
        raise DataError(what, f"the file types are {', '.join(READERS)}, and .gz of each")
    for file in files:
        yield from _read_file(file, file.relative_to(path).as_posix(), ReadOptions(delimiter))


def read_hub(name: str, *, subset: str | None = None, split: str | None = None) -> Iterator[Row]:
    """The rows of a hub data set, or of whatever `datasets.load_dataset` can load; `split` defaults to `train`.

    Raises `DataError` if the data set, subset or split does not exist, or if there is no connection.
    """
    import datasets

    try:
        rows = cast(datasets.Dataset, datasets.load_dataset(name, subset, split=split or "train"))
    except (OSError, ValueError) as error:  # ConnectionError and DatasetNotFoundError are OSErrors
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{name}: neither a local file nor a hub data set that can be loaded ({reason})",
            "check `path`, `name`, `subset`, `split` and the connection",
        ) from error
    classes = class_names(cast(dict[str, Any], rows.features.to_dict()))
    for number, columns in enumerate(rows, 1):
        yield Row(name, number, from_arrow(cast(dict[str, Any], columns), classes))


def _read_file(path: Path, name: str, options: ReadOptions) -> Iterator[Row]:
    reader = _reader(path)
    if reader is None:
        raise DataError(f"{path} has an unknown file type", f"the file types are {', '.join(READERS)}, and .gz of each")
    last = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as content:
            for row in reader(cast(BinaryIO, content), name, options):
                last = row.number
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}, after row {last}: the compressed file is corrupt or truncated ({error})",
            "download or compress it again",
        ) from error
    if not last:
        raise DataError(f"{path}: the file is empty", "add at least one row")


def _json_lines(content: BinaryIO, name: str, _: ReadOptions) -> Iterator[Row]:
    for number, line in enumerate(iter(lambda: content.readline(MAX_BYTES), b""), 1):
        if len(line) == MAX_BYTES:
            raise DataError(f"{name}, row {number}: the line has {MAX_BYTES} bytes or more", "split the row")
        if not line.strip():
            continue
        try:
            columns = loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield Row(name, number, fault=BadRow("the line is not UTF-8", f"byte {error.start}"))
        except ValueError as error:
            end = "" if line.endswith(b"\n") else ", at the end of the file: is it truncated?"
            yield Row(name, number, fault=BadRow("the line is not valid JSON", f"{error}{end}"))
        else:
            yield _as_row(name, number, columns)


def _json(content: BinaryIO, name: str, options: ReadOptions) -> Iterator[Row]:
    raw = _whole(content, name)
    if not raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        whole = _json_object(raw)
        if whole is None:  # many .json files contain JSON lines
            yield from _json_lines(io.BytesIO(raw), name, options)
            return
        rows = _rows_of_object(whole, name, options.split)
    else:
        try:
            rows = loads(_decode(raw, name))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            what = f"{name} is not valid JSON ({error})"
            raise DataError(what, "the file must contain one list of objects") from error
    for number, columns in enumerate(rows, 1):
        yield _as_row(name, number, columns)


def _whole(content: BinaryIO, name: str) -> bytes:
    raw = content.read(MAX_BYTES)
    if len(raw) == MAX_BYTES:
        raise DataError(f"{name} has {MAX_BYTES} bytes or more", "convert it to JSON Lines or Parquet, or split it")
    return raw


def _json_object(raw: bytes) -> dict[str, Any] | None:
    """The one object of a file; None if the file contains something else."""
    try:
        value = loads(raw.decode("utf-8-sig"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _rows_of_object(whole: dict[str, Any], name: str, split: str | None) -> list[Any]:
    """The rows of a JSON file that is one object: of one of its splits (as in CLINC150), or the object itself."""
    splits = [key for key, rows in whole.items() if isinstance(rows, list)]
    if split is not None:
        if split not in splits:
            what = f"{name}: `split: {split}` is set, but the file has no list of this name"
            raise DataError(what, f"the lists of the file are: {', '.join(splits) or 'none'}")
        return [_labelled(row) for row in whole[split]]
    if splits and ("train" in splits or all(_is_labelled(row) for key in splits for row in whole[key][:1])):
        raise DataError(f"{name} has several splits", f"set `split` to one of: {', '.join(splits)}")
    return [whole]


def _is_labelled(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)


def _labelled(row: Any) -> Any:
    return {"text": row[0], "label": row[1]} if _is_labelled(row) else row


def _csv(content: BinaryIO, name: str, options: ReadOptions) -> Iterator[Row]:
    text = _decode(_whole(content, name), name)
    csv.field_size_limit(MAX_CSV_FIELD)
    delimiter = options.delimiter or DELIMITERS[_suffix(Path(name))]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        check_fit(text, name, delimiter)
        raise DataError(f"{name}: the header is not valid CSV ({error})", "check its quotation marks") from error
    if len(header) == 1:
        check_header(header[0], name, delimiter)
    if len(set(header)) < len(header):
        raise DataError(f"{name}: the header names a column twice ({', '.join(header)})", "rename one of them")
    number, line, fits = 0, reader.line_num + 1, True
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if not fields:
                continue
            number += 1
            if len(fields) == len(header):
                yield Row(name, number, dict(zip(header, fields, strict=True)), line=start)
                continue
            if fits:
                check_fit(text, name, delimiter)
            fits = False
            counts = f"{len(fields)} instead of {len(header)}"
            yield Row(name, number, fault=BadRow("the number of fields differs from the header", counts), line=start)
    except csv.Error as error:
        check_fit(text, name, delimiter)
        place = place_of(f"{name}:{number + 1}", line)
        raise DataError(f"{place} is not valid CSV ({error})", "check the quotation marks of this row") from error


def _parquet(content: BinaryIO, name: str, _: ReadOptions) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(content)
        classes = classes_of_parquet(file.schema_arrow.metadata)
        for chunk in file.iter_batches():
            for columns in chunk.to_pylist():
                number += 1
                yield Row(name, number, from_arrow(columns, classes))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: the parquet file cannot be read after row {number} ({error})", "write the file again"
        ) from error


READERS: dict[str, Callable[[BinaryIO, str, ReadOptions], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _suffix(path: Path) -> str:
    """The suffix that tells the type of a file, in lower case, without `.gz`."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _reader(path: Path) -> Callable[[BinaryIO, str, ReadOptions], Iterator[Row]] | None:
    return READERS.get(_suffix(path))


def _wanted(path: Path, split: str | None) -> bool:
    if _reader(path) is None or any(part.startswith(".") for part in path.parts):
        return False
    return split is None or any(re.match(rf"{re.escape(split)}([-_.]|$)", part) for part in path.parts)


def _as_row(name: str, number: int, columns: Any) -> Row:
    if isinstance(columns, dict):
        return Row(name, number, columns)
    return Row(name, number, fault=BadRow("the row is not a JSON object", f"found {type(columns).__name__}"))


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{name}, line {line} is not UTF-8 (byte {error.start})", _UTF8) from error

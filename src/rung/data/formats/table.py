"""The table of formats, and which of them the rows have."""

from collections.abc import Sequence

from rung.data.formats import answers, pairs, prompts, tatqa, transcripts
from rung.data.formats.form import Format
from rung.data.read import Row
from rung.errors import DataError

NUM_SAMPLED = 32  # rows that must agree on a format, spread evenly over the data

# A form that contains another one's columns stands before it.
FORMATS: tuple[Format, ...] = (
    prompts.VERL,
    prompts.RFT,
    pairs.GSM8K_SOLUTIONS,
    tatqa.TATQA,
    transcripts.SHAREGPT_PREFERENCE,
    transcripts.HH_RLHF,
    pairs.PREFERENCE,
    pairs.RANKING,
    answers.UNPAIRED,
    answers.MESSAGES,
    transcripts.SHAREGPT,
    transcripts.TRANSCRIPT,
    answers.GSM8K,
    answers.PROMPT_COMPLETION,
    answers.ALPACA,
    answers.CLASSIFICATION,
    prompts.PROMPT,
    answers.TEXT,
)


def detect(rows: Sequence[Row]) -> Format:
    """The first format whose signature every sampled row has.

    Raises `DataError` that names the format of most sampled rows and the first row that breaks it.
    """
    readable = [row for row in rows if row.fault is None]
    step = max(len(readable) / NUM_SAMPLED, 1.0)
    sampled = [readable[int(i * step)] for i in range(min(len(readable), NUM_SAMPLED))]
    if not sampled:
        raise DataError(f"{rows[0].place}: {rows[0].fault}, and no other row can be read", "check the file")
    met = {format.name: [format.matches(row.columns) for row in sampled] for format in FORMATS}
    for format in FORMATS:
        if all(met[format.name]):
            return format
    best = max(FORMATS, key=lambda format: sum(met[format.name]))
    hits, breaking = sum(met[best.name]), sampled[met[best.name].index(False)]
    known = "; ".join(f"{format.name} ({format.signature})" for format in FORMATS)
    columns = ", ".join(breaking.columns)
    if hits == 0:
        raise DataError(
            f"{breaking.place}: its columns ({columns}) are of no known format", f"map `columns:` to: {known}"
        )
    raise DataError(
        f"{breaking.place}: not in the format {best.name} ({best.signature}) that {hits} of {len(sampled)} "
        f"sampled rows have; its columns are {columns}",
        f"fix the row, or set `format: {best.name}` (then `on_bad` decides about such rows) or `columns:`",
    )


def format_named(name: str) -> Format:
    """The format of that name. Raises `DataError` with the known names."""
    for format in FORMATS:
        if format.name == name:
            return format
    raise DataError(f"format: no format is called `{name}`", "known are " + ", ".join(f.name for f in FORMATS))

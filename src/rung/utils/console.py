"""Console output of a run: a progress bar or plain lines, and tables. rich is imported on first use."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rung.utils.conversation import conversation_text
from rung.utils.secrets import without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Update = Callable[[int, Mapping[str, float]], None]

_LEFT_TO_THE_FILE = frozenset(
    {"row_id", "columns", "details", "raw_completion", "messages"}
)  # of a line of completions.jsonl
_LEVELS, _ASCII_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.-=+*#@"
_SHOWN = {"loss": "loss {:.4g}", "reward": "reward {:.3f}", "tokens_per_second": "{:.0f} tokens/s"}


@contextmanager
def progress(
    total: int, description: str, *, start: int = 0, every_s: float = 20.0, console: Console | None = None
) -> Iterator[Update]:
    """Shows progress: in `with progress(60, "dapo") as update`, call `update(step, values)` for each step of 1..total.

    `loss`, `reward` and `tokens_per_second` of `values` are shown where present. A terminal shows a bar with the
    remaining time; other outputs get a plain line at most every `every_s` seconds, and always at the last step.
    """
    import rich

    console = console or rich.get_console()
    if console.is_terminal:
        with _bar(total, description, start, console) as update:
            yield update
    else:
        yield _lines(total, description, start, every_s, console)


@contextmanager
def _bar(total: int, description: str, start: int, console: Console) -> Iterator[Update]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, speed_estimate_period=600) as bar:
        task = bar.add_task(description, total=total, completed=start, values="")
        yield lambda step, values: bar.update(task, completed=step, values=_described(values))


def _lines(total: int, description: str, start: int, every_s: float, console: Console) -> Update:
    begun = last = time.monotonic()

    def update(step: int, values: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every_s and step < total:
            return
        last = now
        left = timedelta(seconds=round((now - begun) / max(step - start, 1) * (total - step)))
        parts = (f"{description} {step}/{total}", _described(values), f"ETA {left}" if step < total else "")
        console.print("  ".join(part for part in parts if part), markup=False, highlight=False, soft_wrap=True)

    return update


def note(*lines: str) -> None:
    """Prints lines above a progress bar that is shown, or as plain lines."""
    import rich

    for line in lines:
        rich.get_console().print(printable(line), markup=False, highlight=False, soft_wrap=True)


def say(*lines: str) -> None:
    """Prints lines at once, with what is not printable in them escaped: they may name files, rows or models."""
    for line in lines:
        print(printable(line), flush=True)


def say_error(what: str, remedy: str) -> None:
    """Prints an error in two lines on stderr."""
    print(printable_line(what), printable_line(remedy), sep="\n", file=sys.stderr)


def warn(line: str) -> None:
    """Prints a warning, above a progress bar that is shown."""
    note(f"warning: {line}")


def _described(values: Mapping[str, float]) -> str:
    return "  ".join(form.format(values[name]) for name, form in _SHOWN.items() if name in values)


def table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """A rich table of rows that share their keys; columns of numbers are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=None if title is None else Text(printable(title), style="table.title"))
    for name in rows[0] if rows else ():
        number = all(row[name] is None or isinstance(row[name], int | float) for row in rows)
        shown.add_column(Text(printable(name)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    return shown


def blocks(rows: Sequence[Mapping[str, str]]) -> Table:
    """A list of rows that are too long for a table: two values on the first line, then a line for each other key.

    Empty values are left out, and long values are wrapped.
    """
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        (_, name), (_, about), *others = row.items()
        shown.add_row(Text(printable(name), style="bold"), Text(printable(about)))
        for key, value in others:
            if value:
                shown.add_row(Text(f"  {key}"), Text(printable(value)))
        shown.add_row()
    return shown


def show_completions(
    rows: Sequence[Mapping[str, Any]], title: str, *, limit: int = 3, console: Console | None = None
) -> None:
    """Prints `limit` sampled completions of different prompts with their rewards; long texts are shortened.

    Each row has `prompt`, `completion`, and a number for each reward; columns and details of a row are left out.
    """
    import rich

    (console or rich.get_console()).print(table(readable_completions(rows, limit), title))


def readable_completions(rows: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows of sampled completions, of different prompts as far as there are any, in their order.

    >>> rows = [{"prompt": "a", "n": 1}, {"prompt": "a", "n": 2}, {"prompt": "b", "n": 3}]
    >>> readable_completions(rows, 2)
    [{'prompt': 'a', 'n': 1}, {'prompt': 'b', 'n': 3}]
    """
    firsts = {str(row.get("prompt")): i for i, row in reversed(list(enumerate(rows)))}
    order = [*sorted(firsts.values()), *(i for i in range(len(rows)) if i not in firsts.values())]
    chosen = sorted(order[:limit])
    return [
        {key: value for key, value in _as_conversation(rows[i]).items() if key not in _LEFT_TO_THE_FILE} for i in chosen
    ]


def _as_conversation(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its conversation as completion, if it has several messages."""
    messages = row.get("messages")
    return {**row, "completion": conversation_text(messages)} if isinstance(messages, list) else row


def spark(values: Sequence[float], width: int = 12) -> str:
    """A sparkline of at most `width` bars, each the mean of an equal share of the values.

    Values that are not finite are ignored; if all values are equal, the result is empty.
    """
    import numpy as np
    import rich

    parts = np.array_split(np.asarray(values, dtype=float), min(width, len(values)))
    finite = [part[np.isfinite(part)] for part in parts]
    means = np.array([part.mean() for part in finite if len(part)])
    if not len(means) or not np.ptp(means):
        return ""
    levels = _ASCII_LEVELS if rich.get_console().options.ascii_only else _LEVELS
    heights = (means - means.min()) / np.ptp(means) * (len(levels) - 1)
    return "".join(levels[round(height)] for height in heights)


def printable(text: str) -> str:
    r"""A text without secrets and with its control characters escaped, since a model may write terminal escapes.

    >>> printable("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def printable_line(text: str, longest: int = 2000) -> str:
    r"""A printable text on one line, with the middle left out if it has more than `longest` characters.

    >>> printable_line("a\n b" + "c" * 9, 10)
    'a bcc ... ccccc'
    """
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest // 2]} ... {line[-(longest // 2) :]}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    if len(text) > 400:
        text = f"{text[:200]} ... {text[-200:]}"
    return printable(text)

"""What a run shows: when a plain line is due, how much time is left, and how values look."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
from rich.console import Console

from rung.utils.console import blocks, printable, progress, show_completions, spark, table


def console() -> Console:
    return Console(file=io.StringIO(), width=60, force_terminal=False, color_system=None)


def text(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now[0])
        yield now


def lines(clock: list[float], seen: Sequence[tuple[float, int, Mapping[str, float]]], **settings: float) -> list[str]:
    shown = console()
    clock[0] = 100.0
    with progress(10, "sft", console=shown, **settings) as update:  # type: ignore[arg-type]
        for at, step, values in seen:
            clock[0] = 100.0 + at
            update(step, values)
    return text(shown).splitlines()


def test_a_line_is_due_20_seconds_after_the_last_one_and_at_the_end(clock: list[float]) -> None:
    told = lines(clock, [(19.9, 1, {}), (20, 2, {}), (39.9, 3, {}), (40, 4, {}), (41, 9, {}), (42, 10, {})])
    assert [line.split("  ")[0] for line in told] == ["sft 2/10", "sft 4/10", "sft 10/10"]


def test_the_time_left_is_that_of_the_steps_since_the_start(clock: list[float]) -> None:
    """2 steps in 30 s from step 4 on, 4 to go: a minute; before a step is over it counts as one."""
    assert lines(clock, [(30, 6, {})], start=4) == ["sft 6/10  ETA 0:01:00"]
    assert lines(clock, [(30, 4, {})], start=4) == ["sft 4/10  ETA 0:03:00"]
    assert lines(clock, [(30, 10, {})], start=4) == ["sft 10/10"]
    assert lines(clock, [(10, 5, {})], every_s=10) == ["sft 5/10  ETA 0:00:10"]


def test_loss_reward_and_speed_are_shown_in_this_order(clock: list[float]) -> None:
    values = {"tokens_per_second": 99.6, "kl": 1.0, "reward": 0.12345, "loss": 0.000123456}
    assert lines(clock, [(30, 10, values)]) == ["sft 10/10  loss 0.0001235  reward 0.123  100 tokens/s"]
    assert lines(clock, [(30, 10, {"reward": 0.0})]) == ["sft 10/10  reward 0.000"]


def test_a_long_line_stays_one(clock: list[float]) -> None:
    out = console()
    with progress(1, "x" * 100, console=out) as update:
        update(1, {})
    assert text(out) == f"{'x' * 100} 1/1\n"


def shown(rows: Sequence[Mapping[str, object]], title: str | None = None) -> list[str]:
    out = console()
    out.print(table(rows, title))
    return [line.strip() for line in text(out).splitlines()]


def test_numbers_stand_right_and_texts_left() -> None:
    rows = [{"name": "a", "n": 1, "x": None}, {"name": "bbb", "n": 0.123456, "x": 2.0}]
    found = shown(rows, "told")
    assert "told" in found[0]
    (first, second) = (line for line in found if line.startswith("│"))
    assert first == "│ a    │      1 │ - │"
    assert second == "│ bbb  │ 0.1235 │ 2 │"


def test_a_column_with_one_text_stands_left() -> None:
    rows = [{"x": 1}, {"x": "two"}]
    assert [line for line in shown(rows) if line.startswith("│")] == ["│ 1   │", "│ two │"]


@pytest.mark.parametrize(("length", "cut"), [(400, False), (401, True)])
def test_a_text_of_more_than_400_characters_is_cut_in_the_middle(length: int, cut: bool) -> None:
    word = "a" * 200 + "b" * (length - 400) + "c" * 200
    out = Console(file=io.StringIO(), width=1000, color_system=None)
    out.print(table([{"x": word}]))
    assert (f"{'a' * 200} ... {'c' * 200}" in text(out)) is cut
    assert (word in text(out)) is not cut


def test_three_completions_are_shown() -> None:
    out = console()
    show_completions([{"n": f"row{i}"} for i in range(5)], "last", console=out)
    assert [f"row{i}" in text(out) for i in range(5)] == [True, True, True, False, False]


def test_blocks_have_a_line_for_each_value_that_is_there() -> None:
    out = console()
    out.print(blocks([{"name": "dpo", "about": "pairs", "needs": "", "source": "paper"}, {"name": "x", "about": "y"}]))
    told = [line.rstrip() for line in text(out).splitlines()]
    assert told == ["dpo       pairs", "  source  paper", "", "x         y", ""]


def bars(values: Sequence[float], width: int = 12) -> str:
    """The bars as digits, whatever the terminal can show."""
    row = spark(values, width)
    return "".join(str(max("▁▂▃▄▅▆▇█".find(bar), "_.-=+*#@".find(bar))) for bar in row)


def test_bars_go_from_the_lowest_to_the_highest() -> None:
    assert bars([0, 1, 2, 3, 4, 5, 6, 7]) == "01234567"
    assert bars([5, 4, 3]) == "740"  # 3.5 is rounded to the even 4
    assert bars([-1, 1]) == "07"


def test_bars_are_as_many_as_fit_and_each_a_mean() -> None:
    """0 2, 4 6, 8 are 1, 5 and 8: 4 / 7 of 7 is 4."""
    assert bars([0, 2, 4, 6, 8], width=3) == "047"
    assert len(bars(list(range(13)))) == 12
    assert len(bars(list(range(12)))) == 12


def test_what_is_not_finite_counts_as_nothing() -> None:
    nan = float("nan")
    assert bars([0, nan, 7]) == "07"
    assert bars([0, nan, 2, 14], width=2) == "07"  # 0 and 8
    assert bars([nan, nan]) == bars([1, 1, 1]) == bars([3]) == ""


def test_line_ends_stay_and_commands_are_spelt_out() -> None:
    assert printable("a\nb\tc\x07é") == "a\nb\\tc\\x07é"

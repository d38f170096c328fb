"""What the terminal shows: progress, completions as text, and tables."""

import io

from rich.console import Console

from rung.utils.console import progress, show_completions, table


def screen(*, terminal=False):
    shown = io.StringIO()
    return Console(file=shown, width=200, force_terminal=terminal), shown


def test_without_a_terminal_the_last_step_is_a_plain_line_and_the_others_rest():
    console, shown = screen()
    with progress(3, "dapo", console=console) as update:
        for step in (1, 2, 3):
            update(step, {"loss": 0.123456, "reward": 0.5, "tokens_per_second": 310.4, "kl": 9.0})
    assert shown.getvalue() == "dapo 3/3  loss 0.1235  reward 0.500  310 tokens/s\n"


def test_without_a_terminal_lines_tell_the_time_left():
    console, shown = screen()
    with progress(4, "sft", every_s=0.0, console=console) as update:
        for step in range(1, 5):
            update(step, {})
    printed = shown.getvalue().splitlines()
    assert [line.split("  ")[0] for line in printed] == ["sft 1/4", "sft 2/4", "sft 3/4", "sft 4/4"]
    assert ["ETA" in line for line in printed] == [True, True, True, False]


def test_on_a_terminal_a_bar_shows_loss_reward_speed_and_steps():
    console, shown = screen(terminal=True)
    with progress(10, "dapo[b]", start=5, console=console) as update:
        update(6, {"loss": 0.25, "reward": 0.5, "tokens_per_second": 99.0})
    for part in ("dapo[b]", "6/10", "loss 0.25", "reward 0.500", "99 tokens/s"):
        assert part in shown.getvalue()


def test_completions_are_shown_as_text_even_where_they_look_like_markup_or_terminal_codes():
    rows = [
        {"prompt": "p", "completion": "[red]x[/red] \x1b[2J\x07", "reward": 0.123456},
        {"prompt": "q", "completion": "a" * 300 + "b" * 300, "reward": None},
        {"prompt": "third", "completion": "", "reward": 1},
    ]
    console, shown = screen()
    show_completions(rows, "step 3", limit=2, console=console)
    text = shown.getvalue()
    assert r"[red]x[/red] \x1b[2J\x07" in text
    assert "\x1b" not in text
    assert "0.1235" in text
    assert text.count("a") < 300
    assert "bbb" in text
    assert "third" not in text
    assert "step 3" in text


def test_a_table_of_no_rows_is_printed_too():
    console, shown = screen()
    console.print(table([]))
    console.print(table([{"stage": "sft", "correct": 0.5}]))
    assert "correct" in shown.getvalue()

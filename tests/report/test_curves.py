"""Training curves: which metrics are drawn, how, and that any run's numbers give a picture."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rung.errors import CheckpointError
from rung.report.curves import Curves, choose, read_metrics
from rung.report.plot import figure, is_smoothed
from rung.report.svg import number, ticks

SVG = "{http://www.w3.org/2000/svg}"


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chosen(folder: Path, rows: list[dict[str, Any]]) -> Curves:
    return choose(read_metrics(written(folder, rows)))


def titles(curves: Curves) -> dict[str, list[str]]:
    return {f"{panel.title} {panel.unit}".strip(): [line.label for line in panel.lines] for panel in curves.panels}


def steps(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"step": number, **row} for number, row in enumerate(rows, 1)]


def test_metrics_of_one_kind_share_a_panel_and_those_of_an_unknown_algorithm_have_their_own(tmp_path):
    first = {"loss": 2.0, "num_tokens": 10.0, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "mine/a": 1, "mine/b": 2}
    last = {"loss": 1.0, "num_tokens": 20.0, "rewards/chosen": 1.0, "rewards/rejected": -1.0, "mine/a": 3, "mine/b": 4}
    assert titles(chosen(tmp_path, steps(first, last))) == {
        "loss": ["loss"],
        "rewards mean": ["chosen", "rejected"],
        "mine": ["a", "b"],
    }


def test_what_never_moves_is_told_and_what_repeats_another_metric_is_left_out(tmp_path):
    row = {"beta": 0.05, "reward": 1.0, "reward/unshaped": 1.0, "rewards/digits/mean": 1.0}
    curves = chosen(tmp_path, steps(row, row | {"reward": 2.0, "reward/unshaped": 2.0, "rewards/digits/mean": 2.0}))
    assert titles(curves) == {"reward mean, and spread within groups": ["reward"]}
    assert curves.still == {"beta": 0.05}


def test_a_reward_has_its_spread_around_it_and_a_length_its_extremes(tmp_path):
    def row(reward: float) -> dict[str, float]:
        lengths = {"mean_length": 5 * reward, "min_length": 1.0, "max_length": 9 * reward}
        return {"reward": reward, "reward_std": 0.5, **{f"completions/{name}": each for name, each in lengths.items()}}

    reward, length = chosen(tmp_path, steps(row(1.0), row(2.0))).panels
    assert [line.values.tolist() for line in reward.band or ()] == [[0.5, 1.5], [1.5, 2.5]]
    assert [line.values.tolist() for line in length.band or ()] == [[1.0, 1.0], [9.0, 18.0]]


def test_metrics_of_a_rollout_are_drawn_at_the_steps_where_they_stand(tmp_path):
    rows = [{"step": step, "loss": -step, **({"reward": step} if step % 4 == 1 else {})} for step in range(1, 13)]
    reward = next(panel for panel in chosen(tmp_path, rows).panels if panel.title == "reward")
    assert reward.lines[0].steps.tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("rows", "num_panels"),
    [
        ([], 0),
        (steps({"loss": 1.0, "kl": 0.0}), 2),
        (steps({"loss": None}, {"loss": None}), 0),
        (steps({"loss": 1.0}, {"loss": None}, {"loss": 2.0}), 1),
        (steps({"loss": 1e-300}, {"loss": 1e300}), 1),
        (steps({"loss": -3.0}, {"loss": -3.0 + 1e-12}), 1),
        (steps({"<b>&": 1.0}, {"<b>&": 2.0}), 1),
    ],
    ids=["nothing", "one step", "never finite", "a gap", "far apart", "close together", "markup in a name"],
)
def test_any_log_gives_a_picture(tmp_path, rows, num_panels):
    panels = chosen(tmp_path, rows).panels
    assert len(panels) == num_panels
    if panels:
        drawn = figure(panels, "a <run>")
        ElementTree.fromstring(drawn)
        assert not re.search(r"\b(nan|inf)\b", drawn)


def test_a_number_that_is_not_finite_breaks_the_line(tmp_path):
    rows = steps(*({"loss": value} for value in (1.0, 2.0, None, 2.0, 1.0)))
    (path,) = ElementTree.fromstring(figure(chosen(tmp_path, rows).panels, "x")).iter(f"{SVG}path")
    assert path.attrib["d"].count("M") == 2


def test_noise_is_smoothed_over_the_raw_values_and_a_schedule_is_not(tmp_path):
    rng = random.Random(0)
    rows = steps(*({"loss": rng.random(), "learning_rate": 1 - i / 200} for i in range(200)))
    loss, rate = chosen(tmp_path, rows).panels
    assert (is_smoothed(loss), is_smoothed(rate)) == (True, False)
    classes = [path.attrib["class"] for path in ElementTree.fromstring(figure([loss], "x")).iter(f"{SVG}path")]
    assert classes == ["raw s0", "s0"]


def test_a_long_run_is_thinned_and_keeps_its_peak(tmp_path):
    rows = [{"step": step, "grad_norm": math.sin(step) + (40.0 if step == 7777 else 0)} for step in range(1, 20_001)]
    (panel,) = chosen(tmp_path, rows).panels
    drawn = figure([panel], "x")
    assert len(drawn) < 20_000
    assert f"highest {number(math.sin(7777) + 40)}" in drawn
    ys = [float(y) for y in re.findall(r" (-?\d+\.\d)", drawn[drawn.index('class="raw') : drawn.index('class="s0"')])]
    assert min(ys) < np.median(ys) - 100, "the peak leaves the plot at its top"


def test_a_row_that_is_no_step_is_named(tmp_path):
    file = written(tmp_path, steps({"loss": 1.0}))
    file.write_text(file.read_text() + '{"step": 2, "lo')
    with pytest.raises(CheckpointError, match="row 2"):
        read_metrics(file)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 9))
def test_ticks_are_few_and_inside(low: float, span: float, most: int):
    assume(span > 1e-6 * abs(low))
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)

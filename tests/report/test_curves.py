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
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rung.errors import CheckpointError
from rung.report.curves import Curves, Line, Panel, choose, read_metrics, smoothed
from rung.report.plot import figures, is_smoothed, paint
from rung.report.svg import alone, number

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


def painted(panel: Panel) -> Axes:
    figure = Figure(dpi=72)
    paint(figure, panel)
    (axes,) = figure.axes
    return axes


def curves_of(drawn: str) -> list[ElementTree.Element]:
    """The lines of a picture, raw ones and those over them: what is cut at the edges of the plot, without the rules."""
    paths = [path for path in ElementTree.fromstring(drawn).iter(f"{SVG}path") if "clip-path" in path.attrib]
    return [path for path in paths if "var(--c" in path.attrib["style"] and "fill: none" in path.attrib["style"]]


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])]


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
        drawn = alone(figures(panels, "a <stage>"), 3, "a <run>")
        ElementTree.fromstring(drawn)
        assert not re.search(r"\b(nan|inf)\b", drawn)


def test_one_step_stands_in_the_middle_of_its_axis(tmp_path):
    (panel,) = chosen(tmp_path, steps({"loss": 1.0})).panels
    assert painted(panel).get_xlim() == (0.5, 1.5)


def test_a_file_is_as_wide_as_its_pictures_with_gaps_and_margins() -> None:
    panel = '<svg viewBox="0 0 300 200" ></svg>'
    sizes = [re.search(r'viewBox="0 0 (\d+) (\d+)"', alone([panel] * n, 3, "x")) for n in (1, 2, 4)]
    (one, two, four) = [tuple(map(int, found.groups())) for found in sizes if found]
    gap = two[0] - one[0] - 300
    assert 0 < gap < 100
    assert 0 < one[0] - 300 < 100
    assert four == (one[0] + 2 * (300 + gap), one[1] + 200 + gap)


def test_a_number_that_is_not_finite_breaks_the_line(tmp_path):
    rows = steps(*({"loss": value} for value in (1.0, 2.0, None, 2.0, 1.0)))
    (curve,) = curves_of(figures(chosen(tmp_path, rows).panels, "x")[0])
    assert len(points(curve)) == 4
    assert curve.attrib["d"].count("M") == 2


def test_a_number_that_is_not_finite_breaks_the_band(tmp_path):
    rows = steps(*({"reward": value, "reward_std": 0.5} for value in (1.0, 2.0, None, 2.0, 1.0)))
    (panel,) = chosen(tmp_path, rows).panels
    (band,) = painted(panel).collections
    assert [path.get_extents().bounds for path in band.get_paths()] == [(1, 0.5, 1, 2), (4, 0.5, 1, 2)]


def test_a_point_is_drawn_where_its_step_and_its_value_are(tmp_path):
    """Steps 1 to 3 end the axis; the values keep their distances, and higher is further up."""
    drawn = figures(chosen(tmp_path, steps(*({"loss": value} for value in (4.0, 1.0, 2.0)))).panels, "x")[0]
    (x1, y1), (x2, y2), (x3, y3) = points(*curves_of(drawn))
    assert (x2 - x1, x3 - x2) == (pytest.approx((300 - 44) / 2), pytest.approx((300 - 44) / 2))
    assert y1 < y3 < y2
    assert (y2 - y3) / (y2 - y1) == pytest.approx(1 / 3, abs=0.005)
    assert {text for text in ElementTree.fromstring(drawn).itertext() if text.strip()} >= {"loss", "2", "step"}
    assert len(list(ElementTree.fromstring(drawn).iter(f"{SVG}use"))) >= 3, "few points are dots"


@pytest.mark.parametrize(("steps_drawn", "dotted"), [(12, True), (13, False)])
def test_twelve_points_are_dots_and_thirteen_are_a_line(steps_drawn, dotted, tmp_path):
    (panel,) = chosen(tmp_path, steps(*({"loss": float(i)} for i in range(steps_drawn)))).panels
    assert (painted(panel).lines[0].get_marker() == "o") is dotted


def test_lines_have_a_legend_with_their_last_values_and_a_title_at_the_pointer(tmp_path):
    rows = steps({"rewards/chosen": 0.0, "rewards/rejected": 2.0}, {"rewards/chosen": 1.5, "rewards/rejected": -1.0})
    (drawn,) = figures(chosen(tmp_path, rows).panels, "Training: dpo")
    svg = ElementTree.fromstring(drawn)
    assert svg.attrib["aria-label"] == "Training: dpo: rewards mean: chosen, rejected"
    assert {"rewards", "mean", "chosen 1.5", "rejected -1"} <= {text.text for text in svg.iter(f"{SVG}text")}
    assert [title.text for title in svg.iter(f"{SVG}title")] == [
        "chosen: 0 at step 1, 1.5 at step 2; lowest 0, highest 1.5",
        "rejected: 2 at step 1, -1 at step 2; lowest -1, highest 2",
    ]
    strokes = [re.findall(r"stroke: (\S+?)[;\"]", f"{path.attrib['style']};")[0] for path in curves_of(drawn)]
    assert strokes == ["var(--c0)", "var(--c1)"]


def test_a_line_that_has_the_name_of_its_panel_has_its_last_value_beside_the_title(tmp_path):
    (drawn,) = figures(chosen(tmp_path, steps({"kl": 0.5}, {"kl": 0.25})).panels, "x")
    texts = [text.text for text in ElementTree.fromstring(drawn).iter(f"{SVG}text")]
    assert "to the reference, nats a token: 0.25" in texts
    assert "kl 0.25" not in texts


def test_noise_is_smoothed_over_the_raw_values_and_a_schedule_is_not(tmp_path):
    rng = random.Random(0)
    rows = steps(*({"loss": rng.random(), "learning_rate": 1 - i / 200} for i in range(200)))
    loss, rate = chosen(tmp_path, rows).panels
    assert (is_smoothed(loss), is_smoothed(rate)) == (True, False)
    raw, mean = painted(loss).lines
    assert np.array_equal(np.asarray(raw.get_ydata()), loss.lines[0].values)
    assert np.array_equal(np.asarray(mean.get_ydata()), smoothed(loss.lines[0].values, 11))
    assert raw.get_color() == mean.get_color()
    assert (raw.get_alpha(), raw.get_linewidth()) == (0.3, 1)
    (line,) = painted(rate).lines
    assert np.array_equal(np.asarray(line.get_ydata()), rate.lines[0].values)


def test_an_axis_begins_at_0_where_that_is_near_and_leaves_out_what_is_far_away(tmp_path):
    rows = steps(*({"loss": 1 + i % 10, "entropy": 100 + i % 10, "accuracy": i % 2} for i in range(2000)))
    rows[777]["loss"] = 100
    axes = {panel.title: painted(panel) for panel in chosen(tmp_path, rows).panels}
    assert {each.get_xlim() for each in axes.values()} == {(1, 2000)}
    assert axes["loss"].get_ylim() == pytest.approx((0, 10.5), abs=0.1)
    assert axes["entropy"].get_ylim() == pytest.approx((99.55, 109.45))
    assert axes["accuracy"].get_ylim() == (0, 1)


def test_a_long_run_is_thinned_and_keeps_its_peak(tmp_path):
    rows = [{"step": step, "grad_norm": math.sin(step) + (40.0 if step == 7777 else 0)} for step in range(1, 20_001)]
    (panel,) = chosen(tmp_path, rows).panels
    (drawn,) = figures([panel], "x")
    assert len(drawn) < 30_000
    assert f"highest {number(math.sin(7777) + 40)}" in drawn
    raw, mean = curves_of(drawn)
    assert len(points(raw)) + len(points(mean)) < 3000
    x, y = min(points(raw), key=lambda point: point[1])
    assert y < np.median([y for _, y in points(raw)]) - 100, "the peak leaves the plot at its top"
    assert x == pytest.approx(44 + (300 - 44) * 7776 / 19_999, abs=1)


def test_a_long_band_is_thinned_and_keeps_its_extremes(tmp_path):
    lengths = {"mean_length": 10.0, "min_length": 5.0, "max_length": 20.0}
    rows = [{f"completions/{key}": value + step / 1e4 for key, value in lengths.items()} for step in range(20_000)]
    rows[7777]["completions/max_length"] = 90.0
    (panel,) = chosen(tmp_path, steps(*rows)).panels
    (path,) = painted(panel).collections[0].get_paths()
    assert len(path) < 700
    assert path.get_extents().bounds == pytest.approx((1, 5, 19_999, 85))


@pytest.mark.parametrize("name", ["$a$/$b$", "_private/_x", "a & <b> \"c\" 'd'", "\u5956\u52b1"])
def test_a_name_is_shown_as_it_is(tmp_path, name, capfd):
    (drawn,) = figures(
        chosen(tmp_path, steps({name: 1.0, f"{name}x": 3.0}, {name: 2.0, f"{name}x": 1.0})).panels[:1], name
    )
    svg = ElementTree.fromstring(drawn)
    assert any((text.text or "").startswith(name.partition("/")[0]) for text in svg.iter(f"{SVG}text"))
    assert all(title.text for title in svg.iter(f"{SVG}title"))
    assert svg.attrib["aria-label"].startswith(name)
    assert capfd.readouterr() == ("", "")


def test_a_row_that_is_no_step_is_named(tmp_path):
    file = written(tmp_path, steps({"loss": 1.0}))
    whole = file.read_text()
    file.write_text(whole + '{"step": 2, "lo')
    assert list(read_metrics(file)) == ["loss"], "a row that is being written is left out"
    file.write_text(whole + '{"step": 2, "lo\n')
    with pytest.raises(CheckpointError, match="row 2"):
        read_metrics(file)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 100_000))
def test_numbers_on_an_axis_are_few_and_steps_are_whole(low: float, span: float, last: int):
    assume(span > 1e-6 * abs(low))
    line = Line("loss", np.array([1.0, last]), np.array([low, low + span]))
    axes = painted(Panel("loss", "", (line,)))
    for axis, most in (axes.xaxis, 9), (axes.yaxis, 6):
        first, final = axis.get_view_interval()
        shown = [place for place in axis.get_ticklocs() if first <= place <= final]
        assert 1 <= len(shown) <= most
    assert all(step == int(step) for step in axes.get_xticks())
    assert [label.get_text() for label in axes.get_xticklabels()] == [number(x, last) for x in axes.get_xticks()]

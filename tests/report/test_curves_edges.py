"""Which metrics become curves: names, limits, bands, and means at the ends."""

import json
from pathlib import Path

import numpy as np
import pytest

from rung.errors import CheckpointError
from rung.report.curves import Line, choose, read_metrics, smoothed

NAN = float("nan")


def line(*values: float, steps: list[int] | None = None) -> Line:
    return Line("x", np.array(steps or range(1, len(values) + 1), float), np.array(values, float))


def panels(*names: str) -> dict[str, list[str]]:
    """The panels of metrics that all move, each in its own way."""
    metrics = {name: line(0.0, float(i + 1)) for i, name in enumerate(names)}
    return {f"{p.title}|{p.unit}": [each.label for each in p.lines] for p in choose(metrics).panels}


def test_first_and_last_are_the_finite_ones() -> None:
    found = line(NAN, 2.0, 7.0, 5.0, NAN)
    assert (found.first, found.last) == (2.0, 5.0)


def test_a_line_moves_where_it_has_two_values() -> None:
    assert line(1.0, 2.0).moves
    assert line(1.0, NAN, 1.5).moves
    assert not line(1.0, 1.0).moves
    assert not line(1.0, NAN).moves
    assert not line(1.0).moves
    assert not line(NAN, NAN).moves


def test_metrics_are_called_by_their_kind() -> None:
    assert panels(
        "learning_rate", "grad_norm", "loss", "eval_loss", "loss/policy", "kl", "rewards/a/mean", "entropy"
    ) == {
        "loss|": ["loss", "eval_loss"],
        "loss|by term": ["policy"],
        "rewards|mean": ["a"],
        "kl|to the reference, nats a token": ["kl"],
        "entropy|nats a token": ["entropy"],
        "grad_norm|": ["grad_norm"],
        "learning_rate|": ["learning_rate"],
    }
    assert panels("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen") == {
        "accuracy|share of pairs": ["accuracies"],
        "rewards|mean": ["chosen", "rejected", "margins"],
        "logps|nats a completion": ["chosen"],
    }


def test_what_only_counts_is_not_drawn() -> None:
    assert panels("epoch", "num_tokens", "reward_std", "kl/sequence", "filter/sampled_groups", "rewards/a/std") == {}


def test_an_unknown_metric_stands_with_those_of_its_first_word_before_the_last_two() -> None:
    assert list(panels("grad_norm", "mine/a", "other", "mine/b", "loss")) == ["loss|", "mine|", "other|", "grad_norm|"]
    assert panels("mine/a", "mine/b", "mine")["mine|"] == ["a", "b", "mine"]


def test_nine_panels_of_five_lines_are_the_most() -> None:
    assert len(panels(*(f"m{i}" for i in range(9)))) == 9
    assert list(panels(*(f"m{i}" for i in range(12)))) == [f"m{i}|" for i in range(9)]
    assert panels(*(f"m/{i}" for i in range(7))) == {"m|": ["0", "1", "2", "3", "4"]}


def test_equal_lines_are_drawn_once_and_equal_values_at_other_steps_are_not_equal() -> None:
    same = {"a": line(1.0, 2.0), "b": line(1.0, 2.0), "c": line(1.0, 2.0, steps=[1, 3]), "d": line(1.0, NAN, 2.0)}
    assert [p.title for p in choose({**same, "e": line(1.0, NAN, 2.0)}).panels] == ["a", "c", "d"]


def test_a_band_needs_the_steps_of_its_line() -> None:
    reward, spread = line(1.0, 2.0), line(0.25, 0.5)
    (found,) = choose({"reward": reward, "reward_std": spread}).panels
    assert [edge.values.tolist() for edge in found.band or ()] == [[0.75, 1.5], [1.25, 2.5]]
    (other,) = choose({"reward": reward, "reward_std": line(0.25, 0.5, steps=[1, 3])}).panels
    assert other.band is None


def test_what_never_moved_is_told_with_its_last_value() -> None:
    curves = choose({"beta": line(0.1, 0.1), "loss": line(1.0, 2.0), "epoch": line(1.0, 1.0)})
    assert dict(curves.still) == {"beta": 0.1}
    alone = choose({"beta": line(0.1), "loss": line(1.0)})
    assert ([p.title for p in alone.panels], dict(alone.still)) == (["loss", "beta"], {})


@pytest.mark.parametrize(
    ("window", "expected"),
    [(1, [0.0, 3.0, 6.0, 3.0]), (3, [1.5, 3.0, 4.0, 4.5]), (5, [3.0, 3.0, 3.0, 4.0])],
)
def test_means_take_fewer_at_the_ends(window: int, expected: list[float]) -> None:
    assert smoothed(np.array([0.0, 3.0, 6.0, 3.0]), window).tolist() == expected


def test_a_gap_counts_as_nothing_in_a_mean() -> None:
    found = smoothed(np.array([2.0, NAN, 4.0, NAN, NAN, NAN]), 3)
    assert found[:4].tolist() == [2.0, 3.0, 4.0, 4.0]
    assert np.isnan(found[4:]).all()


def test_a_log_is_read_by_name(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": 2, "loss": 1.5, "note": "x", "gone": None}, {"step": 4, "loss": None, "kl": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_metrics(file)
    assert list(found) == ["loss", "kl"]
    assert found["loss"].steps.tolist() == [2, 4]
    assert np.isnan(found["loss"].values).tolist() == [False, True]
    assert (found["kl"].steps.tolist(), found["kl"].values.tolist()) == ([4], [1])
    assert read_metrics(tmp_path / "none.jsonl") == {}


@pytest.mark.parametrize("row", ["[1]", "{}", '{"step": null}', '{"step": "x"}', "1", "{"])
def test_a_line_that_is_no_step_is_named_by_its_number(tmp_path: Path, row: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + row + "\n")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, row 2: no JSON object"):
        read_metrics(file)

"""Gates exactly at their limits, on changes that are the same for every item, so that intervals are points."""

import doctest
from collections.abc import Sequence

import pytest

from helpers.edges import evaluation
from rung.config.gate import GateConfig
from rung.evaluation import gate as gates
from rung.evaluation.gate import Decision, Limit, decide, lower_bound
from rung.reward.decorator import Goal

Scores = Sequence[float | None]


def decided(
    gate: dict, *, limits: Sequence[Limit] = (), goals: dict[str, Goal] | None = None, **scores: tuple[Scores, Scores]
) -> Decision:
    """The decision on metrics before and after."""
    before, after = (evaluation({name: pair[i] for name, pair in scores.items()}) for i in (0, 1))
    return decide(GateConfig.model_validate({"metric": "m", **gate}), before, after, goals or {}, limits)


def moved(by: float, count: int = 40, start: float = 0.5) -> tuple[Scores, Scores]:
    return [start] * count, [start + by] * count


def guard(tolerance: float) -> dict:
    return {"guards": [{"metric": "g", "tolerance": tolerance}]}


@pytest.mark.parametrize(
    ("min_gain", "outcome", "said"),
    [
        (0.24, "promoted", "the lower bound is above 24 points"),
        (0.25, "inconclusive", "the interval holds 25 points; no item moved apart from the rest"),
        (0.26, "kept", "the upper bound is below 26 points"),
    ],
)
def test_a_gain_of_exactly_what_is_asked_is_open(min_gain: float, outcome: str, said: str) -> None:
    found = decided({"min_gain": min_gain}, m=moved(0.25))
    assert found.outcome == outcome
    assert found.reasons == (f"`m` changed by +25.0 points [+25.0, +25.0]: {said}",)
    assert found.items_needed is None


def test_a_gain_that_is_too_small_need_not_be_told_from_none() -> None:
    found = decided({"min_gain": 0.1}, m=moved(0.0))
    assert (found.outcome, found.gain.p) == ("kept", 1.0)
    assert found.reasons == ("`m` changed by 0.0 points [0.0, 0.0]: the upper bound is below 10 points",)


@pytest.mark.parametrize(
    ("tolerance", "outcome", "said"),
    [
        (0.26, "promoted", "tolerance 26 points: holds"),
        (
            0.25,
            "inconclusive",
            "open, the lower bound -25.0 is not above -25 points; no item moved apart from the rest",
        ),
        (0.24, "kept", "broken, the upper bound is below -24 points"),
    ],
)
def test_a_guard_that_fell_by_exactly_its_tolerance_is_open(tolerance: float, outcome: str, said: str) -> None:
    found = decided(guard(tolerance), m=moved(0.25), g=moved(-0.25))
    assert found.outcome == outcome
    assert found.reasons[1].startswith("guard `g` changed by -25.0 points [-25.0, -25.0], tolerance")
    assert found.reasons[1].endswith(said)
    assert found.items_needed is None


@pytest.mark.parametrize(("count", "outcome", "needed"), [(37, "inconclusive", 38), (38, "promoted", None)])
def test_a_guard_without_a_loss_holds_from_3_point_7_over_its_tolerance_on(
    count: int, outcome: str, needed: int | None
) -> None:
    """3.7 / 37 = .1, which is not below the tolerance of .1."""
    found = decided(guard(0.1), m=moved(0.25, count), g=moved(0.0, count))
    assert (found.outcome, found.items_needed) == (outcome, needed)


def test_the_range_of_its_scores_scales_that() -> None:
    """Scores 0 to 3: 3 x 3.7 / .1 = 111, so that 112 items are needed."""
    scores = [0.0, 3.0] * 20
    found = decided(guard(0.1), m=moved(0.25), g=(scores, scores))
    assert found.items_needed == 112
    assert "no item got worse, but 40 items do not prove it: about 112 would" in found.reasons[1]
    assert lower_bound(found.changes[0]) == pytest.approx(-3.7 / 40 * 3)


def test_a_loss_that_was_seen_leaves_the_bound_to_the_bootstrap() -> None:
    found = decided(guard(0.5), m=moved(0.25), g=([1.0] * 40, [1.0] * 39 + [0.0]))
    assert found.changes[0].lost == 1
    assert lower_bound(found.changes[0]) == found.changes[0].low


def test_a_tolerance_of_0_needs_370_items_or_a_lower_bound_of_0() -> None:
    """5 gained and 1 lost of 10: the bound is 0, but 2 x (1 + 6) / 2^6 = .219; 8 and 1: 2 x (1 + 9) / 2^9 = .039."""
    before, after = [0.0] * 9 + [1.0], [1.0] * 5 + [0.0] * 5
    found = decided(guard(0.0), m=moved(0.25, 10), g=(before, after))
    assert found.changes[0].low == 0.0
    assert found.outcome == "inconclusive"
    assert "open: 5 better and 1 worse give p = 0.219, not below 0.05" in found.reasons[1]
    shown = decided(guard(0.0), m=moved(0.25, 12), g=([0.0] * 8 + [1.0] * 4, [1.0] * 8 + [0.0] + [1.0] * 3))
    assert shown.outcome == "promoted"
    unseen = decided(guard(0.0), m=moved(0.25), g=moved(0.0))
    assert (unseen.outcome, unseen.items_needed) == ("inconclusive", 370)
    lost = decided(guard(0.0), m=moved(0.25, 400), g=([1.0] * 400, [1.0] * 399 + [0.0]))
    assert lost.outcome == "inconclusive"


def test_the_items_of_the_most_demanding_open_check_are_told() -> None:
    """The guards need 3.7 / .05 + 1 = 75 and 3.7 / .02 + 1 = 186."""
    gate = {"guards": [{"metric": "g", "tolerance": 0.05}, {"metric": "h", "tolerance": 0.02}]}
    found = decided(gate, m=moved(0.25), g=moved(0.0), h=moved(0.0))
    assert (found.outcome, found.items_needed) == ("inconclusive", 186)
    broken = decided(gate, m=moved(-0.25), g=moved(0.0), h=moved(0.0))
    assert (broken.outcome, broken.items_needed) == ("kept", None)


def test_an_open_gain_tells_what_would_settle_it() -> None:
    """+1, -1, 0, 0 and so on, 21 to 19 of 100: d = .4, gain .02; 7.84 x .4 / .0004 = 7840."""
    before = [0.0] * 21 + [1.0] * 19 + [0.0] * 60
    after = [1.0] * 21 + [0.0] * 19 + [0.0] * 60
    found = decided({}, m=(before, after))
    assert found.outcome == "inconclusive"
    assert found.reasons[0].endswith(": the interval holds 0 points; about 7840 items would settle it")
    even = decided({}, m=(before[1:-1], after[1:-1]))
    assert even.items_needed is not None
    nothing = decided({}, m=([0.0, 1.0] * 20, [1.0, 0.0] * 20))
    assert nothing.reasons[0].endswith("no number of items would settle it")


def test_an_open_guard_counts_from_its_tolerance() -> None:
    """20 gained, 26 lost of 200: gain -.03, d = .23; 7.84 x .23 / (.04 - .03)^2 = 18032."""
    before, after = [0.0] * 20 + [1.0] * 180, [1.0] * 20 + [0.0] * 26 + [1.0] * 154
    found = decided(guard(0.04), m=moved(0.25, 200), g=(before, after))
    assert (found.outcome, found.items_needed) == ("inconclusive", 18032)


def test_a_limit_bars_above_its_maximum_alone() -> None:
    at, above = Limit("gap", 0.1, 0.1), Limit("errors", 0.11, 0.1)
    assert decided({}, m=moved(0.25), limits=[at]).outcome == "promoted"
    found = decided({}, m=moved(0.25), limits=[at, above])
    assert found.outcome == "kept"
    assert found.reasons[1:] == ("gap is 0.1, at most 0.1: holds", "errors is 0.11, at most 0.1: broken")


def test_what_was_not_scored_is_open() -> None:
    nothing = ([None, 1.0], [1.0, None])
    found = decided(guard(0.1), m=nothing, g=nothing)
    assert found.outcome == "inconclusive"
    assert found.reasons == (
        "`m`: no item was scored for both models",
        "guard `g`: no item was scored for both models",
    )


def test_less_is_better_where_the_goal_says_so() -> None:
    assert decided({}, m=moved(-0.25), goals={"m": "min"}).outcome == "promoted"
    assert decided({}, m=moved(0.25), goals={"m": "min"}).outcome == "kept"


def test_a_gate_reads_its_metric_and_its_guards() -> None:
    gate = GateConfig.model_validate({"metric": "m", **guard(0.1)})
    assert (gate.metrics, gate.min_gain, gate.on_gate) == (("m", "g"), 0.0, "continue")
    twice = {"metric": "m", "guards": [{"metric": "g", "tolerance": 0}, {"metric": "g", "tolerance": 0}]}
    with pytest.raises(ValueError, match="guard each metric once; repeated: g"):
        GateConfig.model_validate(twice)


def test_changes_of_a_metric_that_is_no_share_are_told_in_its_own_unit() -> None:
    """Also if the range of its scores happens to be 1."""
    found = decided({"min_gain": 0.5}, m=([3.0] * 40, [4.0] * 40))
    assert found.reasons == ("`m` changed by +1.0000 [+1.0000, +1.0000]: the lower bound is above 0.5",)


def test_the_examples_of_units_hold() -> None:
    assert doctest.testmod(gates).failed == 0

"""Gates: which gain promotes a stage, which guards keep the model of before, and what is inconclusive."""

import pytest
from pydantic import ValidationError

from helpers.evaluations import evaluation, scores_before_and_after
from rung.config.gate import GateConfig
from rung.errors import UserError
from rung.evaluation.comparison import compare, pooled_ratio
from rung.evaluation.gate import Decision, Limit, decide

CORRECT = GateConfig.model_validate({"metric": "correct"})


def decided(scores: dict, *, gate: GateConfig = CORRECT, goals: dict | None = None, limits=(), groups=None) -> Decision:
    """The decision on {metric: (before, after)}."""
    before = evaluation({name: pair[0] for name, pair in scores.items()}, groups=groups)
    after = evaluation({name: pair[1] for name, pair in scores.items()}, groups=groups)
    return decide(gate, before, after, goals or {}, limits)


def guarded(tolerance: float, metric: str = "style") -> GateConfig:
    return GateConfig.model_validate({"metric": "correct", "guards": [{"metric": metric, "tolerance": tolerance}]})


CLEAR_GAIN = scores_before_and_after(300, 90, 30, 180)


def test_a_gain_above_its_interval_is_promoted():
    decision = decided({"correct": CLEAR_GAIN})
    assert decision.outcome == "promoted"
    assert (decision.gain.gained, decision.gain.lost) == (90, 30)
    assert decision.gain.gain == pytest.approx(0.1)
    assert "changed by +10.0 points" in decision.reasons[0]


def test_a_gain_must_exceed_what_the_gate_asks_for():
    gate = GateConfig(metric="correct", min_gain=0.09)
    decision = decided({"correct": CLEAR_GAIN}, gate=gate)
    assert decision.outcome == "inconclusive"
    assert decision.items_needed == 15680  # 7.84 * 0.2 / 0.01^2
    assert decided({"correct": CLEAR_GAIN}, gate=GateConfig(metric="correct", min_gain=0.2)).outcome == "kept"


def test_a_clear_loss_keeps_the_previous_model():
    assert decided({"correct": scores_before_and_after(300, 30, 90, 180)}).outcome == "kept"


def test_less_is_better_where_the_metric_says_so():
    fewer = (CLEAR_GAIN[1], CLEAR_GAIN[0])
    decision = decided({"correct": fewer}, goals={"correct": "min"})
    assert decision.outcome == "promoted"
    assert decision.gain.gain == pytest.approx(0.1)
    assert decision.gain.gained == 90


def test_equal_models_are_inconclusive_not_equal():
    assert decided({"correct": scores_before_and_after(300, 0, 0, 300)}).outcome == "inconclusive"


@pytest.mark.maths
def test_an_insignificant_gain_names_the_items_that_would_settle_it():
    """600 items, 33 to 27: d = .1, gain .01, so 7.84 * .1 / .01^2 items."""
    decision = decided({"correct": scores_before_and_after(300, 33, 27, 240)})
    assert decision.outcome == "inconclusive"
    assert decision.items_needed == 7840
    assert "7840" in decision.reasons[0]


def test_a_guard_that_is_not_shown_to_hold_is_inconclusive():
    decision = decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(400, 20, 26, 154)}, gate=guarded(0.01))
    assert decision.outcome == "inconclusive"
    assert "open" in decision.reasons[1]


def test_a_guard_within_its_tolerance_holds():
    assert (
        decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(400, 20, 26, 154)}, gate=guarded(0.05)).outcome
        == "promoted"
    )


def test_a_broken_guard_keeps_the_previous_model_whatever_the_gain():
    assert (
        decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(300, 0, 60, 240)}, gate=guarded(0.02)).outcome
        == "kept"
    )


def test_a_guard_on_a_metric_of_which_less_is_better_breaks_when_it_rises():
    decision = decided(
        {"correct": CLEAR_GAIN, "dangerous": scores_before_and_after(60, 60, 0, 480)},
        gate=guarded(0.02, "dangerous"),
        goals={"dangerous": "min"},
    )
    assert decision.outcome == "kept"
    assert decision.changes[0].gain == pytest.approx(-0.1)


@pytest.mark.maths
@pytest.mark.parametrize(("n", "outcome"), [(360, "inconclusive"), (369, "inconclusive"), (371, "promoted")])
def test_without_a_flip_to_the_worse_a_tolerance_of_a_point_needs_370_items(n, outcome):
    """The lower bound is -3.7 / n, and must be above -.01."""
    scores = {"correct": scores_before_and_after(0, 100, 0, n - 100), "style": scores_before_and_after(n, 0, 0, 0)}
    assert decided(scores, gate=guarded(0.01)).outcome == outcome


@pytest.mark.parametrize(("n", "outcome"), [(369, "inconclusive"), (370, "promoted")])
def test_a_tolerance_of_nothing_passes_on_370_items_without_a_flip_to_the_worse(n, outcome):
    scores = {"correct": scores_before_and_after(0, 100, 0, n - 100), "style": scores_before_and_after(n - 5, 5, 0, 0)}
    decision = decided(scores, gate=guarded(0.0))
    assert decision.outcome == outcome
    assert decision.items_needed == (370 if outcome == "inconclusive" else None)


def test_a_tolerance_of_nothing_passes_where_the_lower_bound_shows_a_gain():
    assert (
        decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(300, 60, 10, 230)}, gate=guarded(0.0)).outcome
        == "promoted"
    )


def test_unseen_failures_are_bounded_by_independent_items_not_by_rows():
    groups = [str(i % 100) for i in range(600)]
    scores = {"correct": scores_before_and_after(0, 500, 0, 100), "style": scores_before_and_after(600, 0, 0, 0)}
    assert decided(scores, gate=guarded(0.01)).outcome == "promoted"
    assert decided(scores, gate=guarded(0.01), groups=groups).outcome == "inconclusive"


def test_a_limit_above_its_maximum_keeps_the_previous_model():
    broken = Limit("reward error rate", 0.03, 0.02)
    decision = decided({"correct": CLEAR_GAIN}, limits=[Limit("reward gap", 0.1, 0.1), broken])
    assert decision.outcome == "kept"
    assert "reward error rate is 0.03, at most 0.02: broken" in decision.reasons


def test_items_that_one_model_has_no_score_for_are_left_out_and_told():
    before, after = CLEAR_GAIN
    decision = decided({"correct": ([None, *before[1:]], [*after[:-1], None])})
    assert (decision.gain.n, decision.gain.unscored) == (598, 2)
    assert "2 items without a score" in decision.reasons[0]


def test_a_metric_without_any_common_score_is_inconclusive():
    decision = decided({"correct": ([None, 1.0], [1.0, None])})
    assert decision.outcome == "inconclusive"
    assert decision.gain.gain is None


def test_few_items_are_told():
    assert "only 10 independent items" in decided({"correct": scores_before_and_after(0, 8, 0, 2)}).reasons[0]


def test_evaluations_that_were_not_measured_alike_are_refused():
    before = evaluation({"correct": [1.0, 0.0]})
    after = evaluation({"correct": [1.0, 0.0]}, measured={"decoding": "other"})
    with pytest.raises(UserError, match="differ in decoding"):
        decide(CORRECT, before, after, {})


def test_a_metric_that_was_not_evaluated_is_refused():
    with pytest.raises(UserError, match="`correct` was not evaluated"):
        decided({"style": CLEAR_GAIN})


def test_independent_flips_get_mcnemars_p_and_clustered_ones_the_bootstraps():
    before, after = (evaluation({"correct": scores}) for scores in scores_before_and_after(300, 33, 27, 240))
    assert compare(before, after, "correct", {}).p == pytest.approx(0.5190, abs=1e-4)
    groups = [str(i % 300) for i in range(600)]
    before, after = (
        evaluation({"correct": scores}, groups=groups) for scores in scores_before_and_after(300, 33, 27, 240)
    )
    clustered = compare(before, after, "correct", {})
    assert clustered.clusters == 300
    assert clustered.p == pytest.approx(0.45, abs=0.15)


def test_the_ratio_of_error_rates_is_pooled_over_seeds():
    seeds = [scores_before_and_after(60, 0, 60, 480), scores_before_and_after(90, 0, 30, 480)]
    runs = [tuple(evaluation({"dangerous": scores}) for scores in seed) for seed in seeds]
    ratio = pooled_ratio(runs, "dangerous")  # type: ignore[arg-type]
    assert ratio is not None
    assert ratio.value == pytest.approx(150 / 240)
    assert ratio.interval.low < 150 / 240 < ratio.interval.high < 1


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "correct", "min_gan": 0.1},
        {"metric": "correct", "guards": [{"metric": "style", "tolerance": -0.1}]},
        {"metric": "correct", "guards": [{"metric": "style", "tolerance": 0}, {"metric": "style", "tolerance": 1}]},
        {"metric": "correct", "on_gate": "explode"},
        {"metric": "correct", "min_gain": float("nan")},
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused(gate):
    with pytest.raises(ValidationError):
        GateConfig.model_validate(gate)


@pytest.mark.maths
@pytest.mark.parametrize(
    ("gained", "lost", "n", "p", "outcome"),
    [
        (4, 0, 119, 0.125, "inconclusive"),  # 2 / 2^4
        (5, 0, 119, 0.0625, "inconclusive"),
        (6, 0, 119, 0.03125, "promoted"),
        (0, 4, 119, 0.125, "inconclusive"),
        (0, 6, 119, 0.03125, "kept"),
        (4, 0, 4, 0.125, "inconclusive"),
        (8, 1, 119, 2 * (1 + 9) / 2**9, "promoted"),  # .0391
        (7, 1, 119, 2 * (1 + 8) / 2**8, "inconclusive"),  # .0703
    ],
)
def test_a_gate_on_right_and_wrong_answers_decides_by_the_exact_paired_test(
    gained: int, lost: int, n: int, p: float, outcome: str
) -> None:
    """p = 2 sum_{i <= min} C(flips, i) / 2^flips, below .05; the bootstrap's bound lies above 0 from 4 to 0 on."""
    decision = decided({"correct": scores_before_and_after(0, gained, lost, n - gained - lost)})
    assert decision.gain.p == pytest.approx(p)
    assert decision.outcome == outcome
    if outcome == "inconclusive":
        assert f"{gained} better and {lost} worse give p = {p:.3g}, not below 0.05" in decision.reasons[0]
        assert decision.items_needed is not None
        assert decision.items_needed > n


def test_a_few_losses_alone_break_no_guard_and_a_few_gains_prove_none() -> None:
    few = decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(596, 0, 4, 0)}, gate=guarded(0.0))
    assert few.outcome == "inconclusive"
    assert "0 better and 4 worse give p = 0.125" in few.reasons[1]
    more = decided({"correct": CLEAR_GAIN, "style": scores_before_and_after(594, 0, 6, 0)}, gate=guarded(0.0))
    assert more.outcome == "kept"


@pytest.mark.parametrize(("moved", "outcome"), [(4, "inconclusive"), (5, "inconclusive"), (6, "promoted")])
def test_few_clusters_that_moved_are_not_enough_whatever_the_score(moved: int, outcome: str) -> None:
    """Twelve items in pairs, or scores of .5: with m clusters that moved no test gives less than 2 / 2^m."""
    paired = scores_before_and_after(0, 2 * moved, 0, 240 - 2 * moved)
    groups = [str(i // 2) for i in range(240)]
    assert decided({"correct": paired}, groups=groups).outcome == outcome
    halves = ([0.0] * 120, [0.5] * moved + [0.0] * (120 - moved))
    assert decided({"correct": halves}).outcome == outcome


def test_a_gate_that_allows_a_loss_bounds_the_losses_that_it_has_not_seen() -> None:
    """No item of 119 moved: -3.7 / 119 = -.031, so that a loss of 2 points is not excluded, and one of 4 is."""
    still = scores_before_and_after(60, 0, 0, 59)
    assert decided({"correct": still}, gate=GateConfig(metric="correct", min_gain=-0.02)).outcome == "inconclusive"
    assert decided({"correct": still}, gate=GateConfig(metric="correct", min_gain=-0.04)).outcome == "promoted"

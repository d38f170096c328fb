"""What the metrics of a stage show of a run that learns nothing: by hand, each kind once, and not of a healthy one."""

import json
from pathlib import Path

import pytest

from rung.training.symptoms import Symptoms, read_symptoms


def rollout(zero: float = 0.5, clipped: float = 0.0, reward: float = 0.25, **more: float) -> dict[str, float]:
    return {"frac_reward_zero_std": zero, "completions/clipped_ratio": clipped, "reward": reward, "loss": 0.0, **more}


def told(*steps: dict[str, float], total: int = 100) -> dict[int, list[str]]:
    """The step at which each symptom was told."""
    symptoms = Symptoms(total)
    found = {number: symptoms.observe(number, seen) for number, seen in enumerate(steps, 1)}
    return {number: words for number, words in found.items() if words}


def test_rewards_that_do_not_vary_in_five_rollouts_are_told_once() -> None:
    found = told(rollout(), *[rollout(zero=1.0, reward=0.0)] * 9)
    assert list(found) == [6]
    (words,) = found[6]
    assert words.startswith("steps 2 to 6: every answer had the reward 0, which teaches nothing. Use easier prompts")
    assert "completions.jsonl" in words


@pytest.mark.parametrize(
    ("reward", "what", "remedy"),
    [
        (1.0, "every answer had the full reward (1)", "Use harder prompts or fewer SFT epochs"),
        (0.9, "all answers to a prompt had the same reward (0.9 on average)", "Use harder prompts or fewer SFT epochs"),
        (0.5, "all answers to a prompt had the same reward (0.5 on average)", "answered well only sometimes"),
        (0.1, "all answers to a prompt had the same reward (0.1 on average)", "Use easier prompts"),
        (3.0, "all answers to a prompt had the same reward (3 on average)", "answered well only sometimes"),
    ],
)
def test_the_remedy_for_equal_rewards_depends_on_how_high_they_are(reward: float, what: str, remedy: str) -> None:
    """On the scale from 0 to 1; of others it is not known what is high."""
    (words,) = told(*[rollout(zero=1.0, reward=reward)] * 5)[5]
    assert words.startswith(f"steps 1 to 5: {what}, which teaches nothing. ")
    assert remedy in words


def test_one_rollout_that_varies_begins_the_count_again() -> None:
    flat = [rollout(zero=1.0)] * 4
    assert told(*flat, rollout(), *flat) == {}


def test_a_rollout_of_several_updates_counts_once() -> None:
    """Its metrics come with the first update; the others have none."""
    found = told(*[rollout(zero=1.0), {"loss": 0.0}] * 5)
    assert list(found) == [9]


def test_with_one_completion_a_prompt_the_mean_reward_must_stay() -> None:
    single = {"completions/clipped_ratio": 0.0, "reward": 0.5, "loss": 0.0}
    assert list(told(*[single] * 8)) == [6]
    moving = [{**single, "reward": 0.5 + 0.01 * i} for i in range(8)]
    assert told(*moving) == {}


def test_a_stage_shorter_than_that_is_told_at_its_end_if_it_always_showed() -> None:
    assert list(told(*[rollout(zero=1.0)] * 3, total=3)) == [3]
    assert told(rollout(), rollout(zero=1.0), rollout(zero=1.0), total=3) == {}
    assert told(rollout(zero=1.0), rollout(zero=1.0), rollout(), total=3) == {}
    assert told(rollout(zero=1.0), total=1) == {}, "a single rollout says nothing"


def test_truncated_completions_are_told() -> None:
    (words,) = told(*[rollout(clipped=1.0)] * 5)[5]
    assert words.startswith("steps 1 to 5: every completion is cut off at the length limit; ")
    assert "`rollout.max_completion_length`" in words
    assert told(*[rollout(clipped=0.99)] * 9) == {}


def test_steps_with_nothing_to_train_are_told() -> None:
    (words,) = told(*[{"loss": 0.0, "filter/empty_steps": 1.0}] * 5)[5]
    assert words.startswith("steps 1 to 5: nothing to train; ")


@pytest.mark.parametrize(("apart", "step"), [(0.0, 20), (0.69e-4, 20), (0.7e-3, 50)])
def test_a_loss_that_stays_is_told(apart: float, step: int) -> None:
    """Within 1e-4 of its mean for 20 steps; else if the second half of 50 steps is not 1 % below the first."""
    losses = [{"loss": 0.69 + apart * (i % 2)} for i in range(60)]
    found = told(*losses)
    assert list(found) == [step]
    assert "the loss stays at 0.69" in found[step][0] if step == 20 else "does not fall" in found[step][0]


def test_a_loss_that_falls_is_not_told_nor_is_that_of_rollouts() -> None:
    assert told(*[{"loss": 2.0 * 0.99**i} for i in range(100)]) == {}
    assert told(*[{"loss": 1e-3 / (i + 1)} for i in range(100)]) == {}
    assert told(*[rollout()] * 100) == {}


def test_the_log_tells_the_same_with_the_number_of_rollouts(tmp_path: Path) -> None:
    steps = [rollout(zero=1.0, clipped=1.0, reward=1.0)] * 6 + [rollout()] * 2
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": i, **seen}) + "\n" for i, seen in enumerate(steps, 1)))
    summary = read_symptoms(file).summary()
    assert summary[0].endswith("(6 of 8 rollouts)")
    rewards = "6 of 8 rollouts: every answer had the full reward (1), which teaches nothing"
    assert summary[1] == f"{rewards}. Use harder prompts or fewer SFT epochs"
    resumed = read_symptoms(file, 100)
    assert resumed.observe(9, rollout(zero=1.0)) == [], "what was told before a stop is not told again"
    assert read_symptoms(tmp_path / "none.jsonl").summary() == []


def test_steps_that_are_skipped_and_evaluations_that_are_not_finite_are_told_once_and_counted() -> None:
    symptoms = Symptoms(100)
    (words,) = symptoms.observe(3, {"loss": 1.0, "skipped_steps": 1.0})
    assert words.startswith("step 3 is skipped, because its loss or gradient is not finite; the weights stay")
    assert symptoms.observe(4, {"loss": 1.0, "skipped_steps": 2.0}) == []
    (words,) = symptoms.observe(5, {"loss": 1.0, "eval_loss": None})  # type: ignore[dict-item]
    assert words.startswith("step 5: the loss on the held-out rows is not finite")
    assert symptoms.observe(6, {"loss": 1.0, "eval_loss": float("inf")}) == []
    assert [words.endswith(" (2 in all)") for words in symptoms.summary()] == [True, False]
    assert Symptoms(9).observe(1, {"eval_loss": 1.0}) == []


def test_the_last_step_decides_over_a_longer_run_whose_loss_does_not_fall() -> None:
    """It falls in the first fifty steps and rises again; a loss below zero falls by a share of its size."""
    losses = [{"loss": 1.0 - 0.01 * i} for i in range(50)] + [{"loss": 1.0 + 0.01 * i} for i in range(70)]
    assert list(told(*losses, total=120)) == [120]
    assert told(*losses, total=121) == {}
    assert list(told(*[{"loss": -1.0 + 1e-3 * (i % 2)} for i in range(50)])) == [50]
    assert told(*[{"loss": -1.0 - 0.01 * i} for i in range(50)]) == {}
    steady, missing = [{"loss": 1.0}] * 10, {"loss": float("nan")}
    assert list(told(*steady, missing, *steady)) == [21], "a loss that is not finite is left out"
    halves = [*[0.5, 1.5] * 12, 1.0, 2.0, *[1.5, 2.5] * 12]
    (words,) = told(*({"loss": loss} for loss in halves))[50]
    assert words.startswith("steps 1 to 50: the loss does not fall (1, then 2); ")


def test_a_sign_that_begins_late_is_told_from_where_it_began() -> None:
    (words,) = told(*({"loss": 9.0 - i / 10} for i in range(25)), *[{"loss": 1.0}] * 20)[45]
    assert words.startswith("steps 26 to 45: the loss stays at 1; ")
    found = told(*[rollout()] * 3, *[rollout(clipped=1.0)] * 5)
    assert [words[0].split(":")[0] for words in found.values()] == ["steps 4 to 8"]
    assert told(*[rollout(clipped=1.0)] * 4) == {}
    (words,) = told(*[rollout(clipped=1.0)] * 2, total=2)[2]
    assert words.startswith("steps 1 to 2: every completion")

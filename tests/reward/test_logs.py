"""What rewards log keeps clear of the trainer's own names; failures are counted by call and told in bounded lines."""

from __future__ import annotations

import json

import pytest

from rung.errors import RewardError
from rung.reward import RewardPolicy, RewardSet
from rung.reward.environment import is_secret, worker_environment
from rung.rollout.generate import bounded

LENIENT = RewardPolicy(max_error_rate=1.0)


def test_a_name_of_the_trainer_is_logged_under_a_prefix_and_told_once(sample, capsys) -> None:
    def judge(completions, log_metric, log_extra, **columns):
        log_metric("reward", 10.0**9)
        log_metric("loss", float("nan"))
        log_metric("kl/x", 2.0)
        log_metric("letters", 1.0)
        log_extra("completion", ["?"] * len(completions))
        log_extra("letters", ["x"] * len(completions))
        return [1.0] * len(completions)

    rewards = RewardSet([judge])
    scores, _ = rewards.score([sample()]), rewards.score([sample()])
    metrics = {name: metric.value() for name, metric in scores.metrics().items()}
    assert (metrics["reward"], metrics["logged/reward"], metrics["logged/kl/x"], metrics["letters"]) == (1, 1e9, 2, 1)
    assert "loss" not in metrics
    assert metrics["logged/loss"] is None
    assert scores.columns == {"logged/completion": ["?"], "letters": ["x"]}
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    first = "warning: reward `judge` logs `completion`, a name of the trainer: it is logged as `logged/completion`"
    assert told[0] == f"{first} (told once)"


def test_names_are_bounded_and_printable(sample, capsys) -> None:
    def judge(completions, log_metric, **columns):
        for number in range(300):
            log_metric(f"\x1b[31m{number}{'x' * 1000}", 1.0)
        return [1.0]

    logged = RewardSet([judge]).score([sample()]).logged
    assert len(logged) == 100
    assert all(name.isprintable() and len(name) < 120 for name in logged)
    assert (
        capsys.readouterr().err
        == "warning: reward `judge` logs more than 100 names: the others are left out (told once)\n"
    )


def test_a_long_value_is_cut_in_the_log_of_completions() -> None:
    assert bounded("x" * 30_000) == '"' + "x" * 19_999 + "..."
    assert bounded([1, "a"]) == [1, "a"]


def test_a_dead_call_for_a_whole_batch_is_one_failed_call(sample) -> None:
    """1 of 60 calls is below 2 %, although it is 8 rows of 480."""

    def judge(completions, trainer_state, **columns):
        if trainer_state.global_step == dead[0]:
            raise OSError("no grader")
        return [1.0] * len(completions)

    samples = [sample(row=row) for row in range(8)]
    for dead in ([0], [30]):
        rewards = RewardSet([judge])
        totals = [rewards.score(samples, step=step).totals for step in range(60)]
        assert [step for step, each in enumerate(totals) if each[0] is None] == dead
        assert json.loads(json.dumps(rewards.state_dict()))["judge"].count("x") == 1


@pytest.mark.parametrize("every", [1, 2])
def test_a_batch_reward_that_often_dies_ends_the_run(sample, every) -> None:
    """If all calls fail, after the second one; if every second one fails, when there are 50."""

    def judge(completions, trainer_state, **columns):
        assert trainer_state.global_step % every
        return [1.0] * len(completions)

    rewards = RewardSet([judge])
    samples, last = [sample(row=row) for row in range(8)], {1: 1, 2: 49}[every]
    for step in range(last):
        rewards.score(samples, step=step)
    with pytest.raises(RewardError, match=f"of its last {last + 1} calls"):
        rewards.score(samples, step=last)


def test_a_share_of_bad_rows_in_each_batch_counts_as_that_share_of_a_call(sample) -> None:
    def judge(completions, **columns):
        return [float("nan"), *[1.0] * (len(completions) - 1)]

    rewards = RewardSet([judge])
    samples = [sample(row=row) for row in range(8)]
    for _ in range(49):
        rewards.score(samples)
    again = RewardSet([judge])
    again.load_state_dict(json.loads(json.dumps(rewards.state_dict())))
    with pytest.raises(RewardError, match=r"failed on 6\.25 of its last 50 calls"):
        again.score(samples)


def test_an_exception_with_a_long_text_and_escapes_is_cut_everywhere(sample, capsys) -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise ValueError

    def judge(completion: str) -> float:
        raise Rude if completion == "rude" else ValueError("\x1b[31m" + "x" * 10_000_000)

    with pytest.raises(RewardError) as caught:
        RewardSet([judge]).score([sample(), sample("rude", row=1)])
    rewards = RewardSet([judge], LENIENT)
    scores = rewards.score([sample(), sample("rude", row=1)])
    said = [str(caught.value), scores.details(0)["judge"]["error"], capsys.readouterr().err]
    assert all("\x1b" not in text and "\\x1b[31mxx" in text and len(text) < 2_000 for text in said)
    assert "Rude: it cannot be shown" in scores.details(1)["judge"]["error"]
    assert len(scores.by_reward["judge"][0].detail) < 11_000


@pytest.mark.parametrize(
    ("returned", "kind"),
    [(10**400, "error"), (10**18, "scored"), (-1e19, "error"), (1e300, "error"), (float("-inf"), "error")],
)
def test_a_number_whose_square_float32_cannot_hold_is_an_error(sample, returned, kind) -> None:
    rewards = RewardSet([lambda completion: returned], LENIENT)
    assert rewards.score([sample()]).by_reward["<lambda>"][0].kind == kind


def test_weights_that_make_a_total_too_large_are_refused(sample) -> None:
    rewards = RewardSet([{"name": lambda completion: 1e18, "weight": 10.0}])
    with pytest.raises(RewardError, match=r"add up to 1e\+19"):
        rewards.score([sample()])


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "", True),
        ("WANDB_API_KEY", "", True),
        ("AWS_SECRET_ACCESS_KEY", "", True),
        ("openaiApiKey", "", True),
        ("MYSQL_PASSWORD", "", True),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("KEYBOARD", "us", False),
        ("PATH", "/bin", False),
        ("DATABASE_URL", "postgres://me:secret@host/db", True),
        ("HTTP_PROXY", "http://proxy:8080", False),
    ],
)
def test_secrets_are_known_by_the_words_of_a_name_or_a_login_in_a_url(name, value, secret) -> None:
    assert is_secret(name, value) == secret
    assert (name in worker_environment({name: value})) != secret

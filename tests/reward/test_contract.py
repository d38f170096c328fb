"""A reward's signature is its schema: what is wrong is known before anything is computed."""

from __future__ import annotations

import functools

import pytest

from rung.errors import ConfigError, RewardError, UserError
from rung.reward import RewardPolicy, RewardSet, RewardSpec, Verdict, reward


def cites(completion: str, source: str, *, strict: bool = False) -> float:
    return float(source in completion)


@reward(range=(0, 1))
def graded(completion: str, gold: str, *, levels: tuple[int, ...] = (1,), tolerance: float = 0.0) -> float:
    assert isinstance(levels, tuple)
    return float(completion == gold)


@reward(goal="min")
def harm(completion: str) -> float:
    return 0.0


def test_a_declared_reward_stays_a_plain_function() -> None:
    assert graded("a", "a") == 1.0
    assert graded.__name__ == "graded"


def test_columns_are_read_by_parameter_name_or_by_the_name_that_the_config_gives(sample) -> None:
    rewards = RewardSet([{"name": "exact_match", "columns": {"answer": "truth"}}])
    rewards.check(["truth"])
    assert rewards.score([sample("4", truth="4"), sample("5", truth="4")]).totals == [1.0, 0.0]


def test_a_missing_column_names_the_nearest_one() -> None:
    with pytest.raises(RewardError, match="no column `answer`") as caught:
        RewardSet(["exact_match"]).check(["answers", "id"])
    assert "did you mean `answers`?" in caught.value.remedy


def test_a_column_with_a_default_may_be_absent(sample) -> None:
    def polite(completion: str, word: str = "yes") -> float:
        return float(word in completion)

    rewards = RewardSet([polite])
    rewards.check([])
    assert rewards.score([sample("yes")]).totals == [1.0]
    assert rewards.score([sample("yes", word="no")]).totals == [0.0]


def test_a_column_that_hides_behind_a_standard_field_is_refused() -> None:
    with pytest.raises(RewardError, match="column `completion`"):
        RewardSet([cites]).check(["source", "completion"])


@pytest.mark.parametrize(
    ("entry", "what", "remedy"),
    [
        ({"name": "exact_mach"}, "unknown reward `exact_mach`", "did you mean `exact_match`"),
        ({"name": "final_number", "args": {"tolerence": 1}}, "unknown setting `tolerence`", "did you mean `tolerance`"),
        ({"name": "final_number", "args": {"tolerance": "1"}}, "`tolerance` is '1'", "it must be a number"),
        ({"name": "soft_overlong", "args": {"max_length": 5}}, "`buffer` is missing", "args"),
        ({"name": "soft_overlong", "args": {"max_length": 5, "buffer": 0}}, "`buffer` is 0", "greater than 0"),
        ({"name": "exact_match", "wieght": 2}, "unknown key `wieght`", "did you mean `weight`"),
        (
            {"name": "exact_match", "columns": {"anwser": "x"}},
            "does not read a column `anwser`",
            "did you mean `answer`",
        ),
        ({"name": "exact_match", "threshold": 0.5}, "it is not a gate", "role: gate"),
        ({"name": "token_f1", "weight": 2.0}, "its weight has no effect", "leave `weight` out"),
        ({"name": "output_tokens", "role": "reward"}, "better when lower", "negative weight"),
        ({"name": "exact_match", "weight": float("nan")}, "`weight` is nan", "finite"),
    ],
)
def test_a_wrong_entry_says_what_it_is_and_what_to_do(entry, what, remedy) -> None:
    with pytest.raises(UserError) as caught:
        RewardSet([entry])
    assert what in caught.value.what
    assert remedy in caught.value.remedy


def test_a_list_of_a_config_becomes_the_tuple_that_a_setting_asks_for(sample) -> None:
    rewards = RewardSet([RewardSpec(name="label", args={"labels": ["A", "B"]})])
    assert rewards.score([sample("B", answer="B")]).totals == [1.0]
    rewards = RewardSet([functools.partial(graded, tolerance=0.1)])
    assert rewards.rewards[0].range == (0, 1)


def test_two_rewards_of_one_name_need_labels() -> None:
    entries = [{"name": "exact_match"}, {"name": "exact_match", "columns": {"answer": "other"}}]
    with pytest.raises(RewardError, match="two rewards are called `exact_match`"):
        RewardSet(entries)
    RewardSet([entries[0], {**entries[1], "label": "other"}])


@pytest.mark.parametrize("clip", [[1, -1], [0, 0], [0, float("inf")]])
def test_a_clip_is_an_interval(clip) -> None:
    from pydantic import ValidationError

    from rung.reward import RewardPolicy

    with pytest.raises(ValidationError):
        RewardPolicy(clip=clip)


def test_parameters_that_cannot_be_named_are_refused() -> None:
    def positional(completion: str, /) -> float:
        return 0.0

    @reward()
    def greedy(**columns: str) -> float:
        return 0.0

    for function in (positional, greedy):
        with pytest.raises(RewardError):
            RewardSet([function])


def test_an_impossible_declaration_fails_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="range"):
        reward(range=(1, 0))
    with pytest.raises(ValueError, match="timeout"):
        reward(timeout=0)


def test_less_is_better_makes_a_metric_that_may_be_a_reward_with_a_negative_weight(sample) -> None:
    assert RewardSet([harm]).rewards[0].role == "metric"
    assert RewardSet([harm]).goals == {"harm": "min"}
    rewards = RewardSet([{"name": "output_tokens", "role": "reward", "weight": -1.0}])
    assert rewards.score([sample("abc")]).totals == [-3.0]


def test_a_file_beside_the_config_gives_rewards(tmp_path, sample) -> None:
    (tmp_path / "mine.py").write_text("def loud(completion: str) -> float:\n    return float(completion.isupper())\n")
    rewards = RewardSet(["./mine.py:loud"], base=tmp_path)
    assert rewards.score([sample("YES")]).by_reward["loud"][0].value == 1.0
    with pytest.raises(ConfigError, match="no `lout`"):
        RewardSet(["./mine.py:lout"], base=tmp_path)


def test_standard_fields_are_text_and_messages_whatever_the_form_of_the_data(sample) -> None:
    seen = []

    def spy(prompt: str, completion: str, messages: list, finish_reason: str, n_tokens: int, row_id: str) -> float:
        seen.append((prompt, completion, messages, finish_reason, n_tokens, row_id))
        return 0.0

    def assistant(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    RewardSet([spy]).score([sample("yes"), sample((assistant("no"),), prompt=chat, row=1)])
    assert seen[0] == (
        "Why?",
        "yes",
        [{"role": "user", "content": "Why?"}, assistant("yes")],
        "eos",
        3,
        "rows.jsonl:0",
    )
    assert seen[1][:3] == ("Be brief.\n\nWhy?", "no", [*chat, assistant("no")])


def test_a_verdict_carries_parts_that_are_logged_and_not_summed(sample) -> None:
    def judge(completion: str) -> Verdict:
        return Verdict(0.5, parts={"tone": 1.0, "facts": 0.0}, note="dry")

    scores = RewardSet([judge]).score([sample()])
    assert scores.totals == [0.5]
    assert scores.by_reward["judge"][0].parts == {"tone": 1.0, "facts": 0.0}
    assert scores.by_reward["judge"][0].note == "dry"


def test_a_group_reward_sees_the_rows_of_one_group_at_a_time(sample) -> None:
    sizes = []

    @reward(group=True)
    def longest(completion: list[str]) -> list[float]:
        sizes.append(len(completion))
        best = max(map(len, completion))
        return [float(len(text) == best) for text in completion]

    samples = [sample("a"), sample("bbb", group=1), sample("cc"), sample("d", group=1)]
    assert RewardSet([longest]).score(samples).totals == [0.0, 1.0, 1.0, 0.0]
    assert sizes == [2, 2]


def test_a_check_sees_settings_and_tokenizer_before_anything_is_scored() -> None:
    seen = []

    @reward(check=lambda settings, tokenizer: seen.append((dict(settings), tokenizer)))
    def picky(completion: str, *, level: int = 1) -> float:
        return float(level)

    RewardSet([picky]).check_policy("a tokenizer")
    assert seen == [({}, "a tokenizer")]


def test_a_function_of_the_whole_batch_is_called_once_with_all_groups(sample) -> None:
    calls = []

    @reward(batch=True)
    def spy(prompts: list[str], completions: list[str], *, scale: float = 1.0) -> list[float]:
        calls.append(list(completions))
        return [scale * len(text) for text in completions]

    rewards = RewardSet([spy])
    assert rewards.score([sample("a", row=0, group=0), sample("bb", row=1, group=1)]).totals == [1.0, 2.0]
    assert calls == [["a", "bb"]]
    with pytest.raises(ValueError, match="group and batch"):
        reward(group=True, batch=True)


def test_a_reward_that_would_compare_the_completion_with_itself_is_refused() -> None:
    rewards = RewardSet([{"name": "exact_match", "columns": {"answer": "completion"}}])
    with pytest.raises(
        RewardError, match=r"reads the field `completion` both as `completion` and as `answer`"
    ) as caught:
        rewards.check({"ground_truth"})
    assert "`ground_truth`" in caught.value.remedy


def test_a_callable_whose_signature_cannot_be_read_is_refused_with_a_remedy() -> None:
    """For `max` Python has none (a ValueError), and this object gives a wrong one (a TypeError)."""

    class Judge:
        __signature__ = 3

        def __call__(self, completion: str) -> float:
            return 1.0

    for judge in (max, Judge()):
        with pytest.raises(RewardError, match="its signature cannot be read") as caught:
            RewardSet([{"name": judge, "label": "judge"}])
        assert "call it from a Python function" in caught.value.remedy


def test_rewards_that_are_normalised_one_by_one_are_two_at_least_without_a_gate_or_a_clip() -> None:
    def checked(*entries: object, **policy: object) -> str:
        try:
            RewardSet(list(entries), RewardPolicy.model_validate(policy)).check_separate()  # type: ignore[arg-type]
        except RewardError as error:
            return error.what
        return ""

    shaping, metric = {"name": cites, "role": "shaping"}, {"name": cites, "label": "m", "role": "metric"}
    gate = {"name": graded, "role": "gate", "label": "door"}
    assert checked(cites, graded) == checked(graded, shaping) == checked(graded, shaping, metric, "exact_match") == ""
    assert checked(cites, graded, gate).startswith("the gate `door` sets the sum of rewards, but")
    assert checked(cites, graded, clip=(0, 1)).startswith("`reward_policy.clip` limits the sum of rewards")
    assert checked(cites, metric).endswith("needs at least two rewards, but there is only one: cites")


def test_the_state_of_training_is_that_of_its_beginning_unless_it_is_given(sample) -> None:
    seen = []

    def looks(completions, trainer_state, **columns):
        seen.append((trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch))
        return [0.0] * len(completions)

    rewards = RewardSet([looks])
    rewards.score([sample()])
    rewards.score([sample()], step=6, max_steps=12, steps_per_epoch=4.0)
    assert seen == [(0, 0, 0.0), (6, 12, 1.5)]

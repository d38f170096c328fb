"""Environments with TRL's contract in rollouts: reset, methods as tools, rewards, ends, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.tool_rollouts import call, rollout
from rung.errors import ConfigError
from rung.tiny.tokenizers import byte


class Counter:
    """TRL's environment with a seed, an end, and a reward."""

    made = 0

    def __init__(self) -> None:
        Counter.made += 1

    def reset(self, start: int, seed: int = 0, **row: Any) -> str | None:
        self.value, self.seed, self.done, self.closed = start, seed, False, False
        return f" The counter is at {start}."

    def increment(self, step: int) -> int:
        """Adds to the counter.

        Args:
            step: what is added
        """
        self.value += step
        self.done = self.value >= 10
        return self.value

    def get_reward(self) -> float:
        return float(self.value)

    def close(self) -> None:
        self.closed = True


COUNT = [{"prompt": [{"role": "user", "content": "Count."}], "start": start} for start in (1, 4)]


def test_an_environment_of_trl_is_reset_called_and_rewards(tmp_path: Path) -> None:
    turns = {
        (0, 0): [call("increment", step=2), "three"],
        (0, 1): ["nothing"],
        (1, 0): [call("increment", step=2), call("increment", step=4), "never said"],
        (1, 1): [call("increment", step="two"), "a mistake"],
    }
    generated, _ = rollout(
        tmp_path, turns, rows=COUNT, samples=2, tools=(), environment=Counter, rewards=["environment_reward"]
    )
    assert generated.batch.rewards is not None
    assert generated.batch.rewards.tolist() == [3.0, 1.0, 10.0, 4.0]
    assert [row["finish_reason"] for row in generated.table] == ["eos", "eos", "done", "eos"]
    assert [row["prompt"] for row in generated.table[::2]] == [
        "Count. The counter is at 1.",
        "Count. The counter is at 4.",
    ]
    assert "reset" not in byte().decode(generated.batch.prompt_ids[0].tolist())


def test_rewards_of_turns_are_part_of_the_reward_and_lie_at_the_ends_of_turns(tmp_path: Path) -> None:
    class Paying(Counter):
        def reset(self, start: int, seed: int = 0, **row: Any) -> str | None:
            self.turn_rewards: list[float] = []
            return super().reset(start, seed, **row)

        def increment(self, step: int) -> int:
            """Adds.

            Args:
                step: what is added
            """
            self.turn_rewards.append(0.25)
            return super().increment(step)

    turns = [call("increment", step=2), call("increment", step=1), "four"]
    reward = {"name": "environment_reward", "weight": 2.0}
    generated, _ = rollout(tmp_path, turns, rows=COUNT[:1], tools=(), environment=Paying, rewards=[reward])
    assert generated.batch.rewards is not None
    assert generated.batch.rewards.tolist() == [2 * (4 + 0.5)]
    earned = generated.batch.extras["turn_rewards"][0]
    ends = [i for i, token in enumerate(generated.batch.completion_ids[0].tolist()) if token == byte().eos_token_id]
    assert earned.nonzero()[:, 0].tolist() == ends[:2]
    assert earned.sum() == 1.0


def test_samples_of_a_prompt_share_a_seed_and_instances_are_used_again(tmp_path: Path) -> None:
    seeds: list[tuple[int, int]] = []

    def seen(environment: Any) -> float:
        seeds.append((environment.seed, id(environment)))
        return 0.0

    before = Counter.made
    rollout(tmp_path, ["no"], rows=COUNT, samples=2, tools=(), environment=Counter, rewards=[seen])
    assert Counter.made - before == 4
    assert seeds[0][0] == seeds[1][0] != seeds[2][0] == seeds[3][0]
    assert len({one for _, one in seeds}) == 4


def test_the_column_environment_picks_one_of_several(tmp_path: Path) -> None:
    class Other(Counter):
        def shout(self) -> str:
            """Shouts."""
            return "hey"

    rows = [{**COUNT[0], "environment": "plain"}, {**COUNT[1], "environment": "other"}]
    turns = {(0, 0): [call("shout"), "a"], (1, 0): [call("shout"), "a"]}
    factories = {"plain": Counter, "other": Other}
    generated, _ = rollout(tmp_path, turns, rows=rows, tools=(), environment=factories, rewards=["environment_reward"])
    contents = [row["messages"][1]["content"] for row in generated.table]
    assert "not found" in contents[0]
    assert contents[1] == "hey"
    with pytest.raises(ConfigError, match="`environment` is 'othr'"):
        rollout(tmp_path, ["a"], rows=[{**COUNT[0], "environment": "othr"}], tools=(), environment=factories)


def test_an_environment_that_fails_to_reset_leaves_its_rows_unscored(tmp_path: Path) -> None:
    class Failing(Counter):
        def reset(self, start: int, seed: int = 0, **row: Any) -> str | None:
            if start == 4:
                raise RuntimeError("no disk")
            return super().reset(start, seed, **row)

    generated, _ = rollout(tmp_path, ["a"], rows=COUNT, tools=(), environment=Failing, rewards=["environment_reward"])
    assert generated.batch.rewards is not None
    assert generated.batch.rewards.isnan().tolist() == [False, True]
    assert "`reset` raised RuntimeError: no disk" in generated.unscored[0]


def test_different_observations_for_one_prompt_are_refused(tmp_path: Path) -> None:
    class Random(Counter):
        def reset(self, start: int, seed: int = 0, **row: Any) -> str | None:
            super().reset(start, seed, **row)
            return f" {id(self)}"

    with pytest.raises(ConfigError, match="told two samples of a prompt different things"):
        rollout(tmp_path, ["a"], rows=COUNT, samples=2, tools=(), environment=Random)


def no_reset() -> Callable[[], object]:
    class Still:
        def look(self) -> str:
            """Looks."""
            return ""

    return Still


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"environment": no_reset()}, "has no method `reset`"),
        ({"environment": lambda: 1 / 0}, "an environment cannot be made: ZeroDivisionError"),
        ({"environment": "./tools.py:nothing"}, "has no `nothing`"),
        ({"tools": ["./tools.py:add", "./tools.py:add"]}, "two tools are called `add`"),
    ],
    ids=["no reset", "cannot be made", "no factory", "two of one name"],
)
def test_what_cannot_work_is_refused_before_sampling(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        rollout(tmp_path, ["a"], rows=COUNT, **wrong)


def test_a_method_and_a_function_of_one_name_are_refused(tmp_path: Path) -> None:
    def increment(step: int) -> int:
        """Adds.

        Args:
            step: what is added
        """
        return step

    with pytest.raises(ConfigError, match="two tools are called `increment`"):
        rollout(tmp_path, ["a"], rows=COUNT, tools=[increment], environment=Counter)


def test_an_error_of_close_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stuck(Counter):
        def close(self) -> None:
            raise OSError("port in use")

    rollout(tmp_path, ["a"], rows=COUNT[:1], tools=(), environment=Stuck, rewards=["environment_reward"])
    printed = capsys.readouterr()
    assert "warning: `close` of Stuck raised OSError: port in use" in printed.out + printed.err

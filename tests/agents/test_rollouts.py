"""Rollouts with tools: masks, the fields that rewards read, outcomes, limits and metrics, with recorded turns."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.playback import Playback
from rung.agents.agent import Agent, make_toolbox
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.errors import ConfigError, DataError
from rung.metrics import values
from rung.reward import RewardSet
from rung.rollout.generate import Generated, Generator
from rung.rollout.philox import Key
from rung.sampling import Sampling
from rung.tiny.tokenizers import CHAT_TEMPLATE, byte

TOOLS = '''
import os, time

def strength(drug: str) -> str:
    """Looks up the strength of a drug.

    Args:
        drug: name of the drug
    """
    return {"abc": "5 mg", "xyz": "10 mg"}[drug]

def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: first number
        b: second number
    """
    return a + b

def dies() -> str:
    """Ends its process."""
    os._exit(3)
'''
ROW = {"prompt": [{"role": "user", "content": "strength of abc?"}], "answer": "5 mg"}


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def judge(completion: str, answer: str) -> float:
    return float(completion == answer)


def rollout(
    folder: Path,
    turns: Any,
    *,
    rewards: Sequence[Any] = (judge,),
    rows: Sequence[dict[str, Any]] = (ROW,),
    samples: int = 1,
    tools: Sequence[Any] = ("./tools.py:strength", "./tools.py:add", "./tools.py:dies"),
    environment: Any = None,
    iterations: int | None = None,
    result_tokens: int | None = None,
    limit: int = 600,
) -> tuple[Generated, Playback]:
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    tokenizer = byte()
    toolbox = make_toolbox(
        tools, environment, folder, max_tool_calling_iterations=iterations, max_tool_result_tokens=result_tokens
    )
    examples = [toolbox.offered(one) for one in load_examples(list(rows))[0]]
    encoded = encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    sampler = Playback(turns)
    agent = Agent(toolbox, tokenizer, ("<|eos|>",))
    generator = Generator(
        sampler=sampler,
        sampling=Sampling(max_completion_length=limit),
        key=Key(0, "s", "rollout"),
        samples=samples,
        rewards=RewardSet(rewards, trajectories=True),
        tokenizer=tokenizer,
        agent=agent,
    )
    try:
        return generator(encoded, list(range(len(encoded))), 0), sampler
    finally:
        agent.close()


def trained_text(generated: Generated, row: int = 0) -> list[str]:
    """The trained tokens of a row as text, one string for each run of them."""
    batch, tokenizer, runs = generated.batch, byte(), [[]]
    for token, trained in zip(batch.completion_ids[row].tolist(), batch.loss_mask[row].tolist(), strict=True):
        if trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [str(tokenizer.decode(run)) for run in runs if run]


def test_the_models_turns_are_trained_and_the_answer_is_attended_only(tmp_path: Path) -> None:
    generated, _ = rollout(tmp_path, [call("strength", drug="abc"), "5 mg"])
    batch = generated.batch
    assert trained_text(generated) == [call("strength", drug="abc") + "<|eos|>", "5 mg<|eos|>"]
    whole = byte().decode(batch.completion_ids[0][batch.completion_mask[0]].tolist())
    assert whole == call("strength", drug="abc") + "<|eos|><|tool|>5 mg<|assistant|>5 mg<|eos|>"
    assert batch.old_logps is not None
    assert batch.old_logps[0][batch.completion_mask[0] & ~batch.loss_mask[0]].eq(0).all()
    assert batch.rewards is not None
    assert batch.rewards.tolist() == [1.0]


def test_the_definitions_of_tools_are_in_the_prompt(tmp_path: Path) -> None:
    generated, _ = rollout(tmp_path, ["5 mg"])
    prompt = byte().decode(generated.batch.prompt_ids[0].tolist())
    assert '"name": "strength"' in prompt
    assert "Looks up the strength of a drug." in prompt


def test_rewards_read_messages_turns_and_calls(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def reader(completion: str, messages: Any, turns: int, tool_calls: Any, n_tokens: int) -> float:
        seen.update(completion=completion, messages=messages, turns=turns, calls=tool_calls, n_tokens=n_tokens)
        return 0.5

    first = call("strength", drug="abc") + call("add", a=2, b=3)
    rollout(tmp_path, [first, "5 mg"], rewards=[reader])
    assert [message["role"] for message in seen["messages"]] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [message["content"] for message in seen["messages"][2:]] == ["5 mg", "5", "5 mg"]
    assert [one["function"]["name"] for one in seen["messages"][1]["tool_calls"]] == ["strength", "add"]
    assert seen["completion"] == "5 mg"
    assert seen["turns"] == 2
    assert [(one["name"], one["arguments"], one["status"]) for one in seen["calls"]] == [
        ("strength", {"drug": "abc"}, "ok"),
        ("add", {"a": 2, "b": 3}, "ok"),
    ]
    assert seen["n_tokens"] == len(first) + 1 + len("5 mg") + 1


def test_trls_rewards_get_all_messages_of_a_completion(tmp_path: Path) -> None:
    seen = []

    def trl_reward(completions: Any, **columns: Any) -> list[float]:
        seen.append(completions)
        return [1.0] * len(completions)

    rollout(tmp_path, [call("strength", drug="abc"), "5 mg"], rewards=[trl_reward])
    assert [message["role"] for message in seen[0][0]] == ["assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (call("nothing"), "not found"),
        (call("strength", drug="none"), "none"),
        (call("strength", medicine="abc"), "`drug` is missing"),
        ('<tool_call>{"name": "strength", "arguments": {"drug": "ab', ""),
        ("<tool_call>strength of abc</tool_call>", ""),
    ],
    ids=["unknown", "raises", "wrong arguments", "cut off", "no JSON"],
)
def test_a_mistake_of_the_model_is_told_and_the_row_goes_on(tmp_path: Path, turn: str, told: str) -> None:
    generated, _ = rollout(tmp_path, [turn, call("strength", drug="abc"), "5 mg"])
    assert generated.batch.rewards is not None
    assert generated.batch.rewards.tolist() == [1.0]
    _, answer, *_ = generated.table[0]["messages"]
    assert answer["role"] == "tool"
    assert "error" in answer["content"]
    assert told in answer["content"]
    assert values(generated.metrics)["tools/failure_frequency"] == 0.5


def test_a_tool_that_fails_leaves_the_row_unscored(tmp_path: Path) -> None:
    turns = {(0, 0): [call("dies"), "5 mg"], (0, 1): ["5 mg"]}
    generated, _ = rollout(tmp_path, turns, samples=2)
    assert generated.batch.rewards is not None
    assert generated.batch.rewards.isnan().tolist() == [True, False]
    assert generated.table[0]["finish_reason"] == "tool_failed"
    assert "tool `dies` failed" in generated.unscored[0]
    assert values(generated.metrics)["tools/unscored_ratio"] == 0.5


def test_a_result_that_the_template_rejects_leaves_the_row_unscored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = "{% for m in messages if '10 mg' in m.content %}{{ raise_exception('no tens') }}{% endfor %}"
    monkeypatch.setattr("rung.tiny.tokenizers.CHAT_TEMPLATE", picky + CHAT_TEMPLATE)
    turns = {(0, 0): [call("strength", drug="xyz"), "10 mg"], (0, 1): [call("strength", drug="abc"), "5 mg"]}
    generated, _ = rollout(tmp_path, turns, samples=2)
    assert [row["finish_reason"] for row in generated.table] == ["tool_failed", "eos"]
    assert "cannot be written" in generated.unscored[0]
    assert "no tens" in generated.unscored[0]


def test_each_limit_has_a_reason_of_its_own(tmp_path: Path) -> None:
    asks = [call("strength", drug="abc")] * 9
    ends = {}
    ends["iterations"] = rollout(tmp_path, asks, iterations=2)[0]
    ends["room"] = rollout(tmp_path, asks, limit=len(asks[0]) + 5)[0]
    ends["length"] = rollout(tmp_path, ["x" * 50], limit=20)[0]
    reasons = {name: one.table[0]["finish_reason"] for name, one in ends.items()}
    assert reasons == {"iterations": "turns", "room": "answer_length", "length": "length"}
    truncated = {name: one.batch.truncated.tolist() for name, one in ends.items() if one.batch.truncated is not None}
    assert truncated == {"iterations": [False], "room": [True], "length": [True]}
    assert all(trained_text(one)[-1].startswith(("<tool_call>", "x")) for one in ends.values())
    assert ends["length"].table[0]["messages"] == [{"role": "assistant", "content": "x" * 20}]
    assert ends["iterations"].table[0]["messages"][-1]["role"] == "assistant"


def test_a_loop_is_counted(tmp_path: Path) -> None:
    asks = [call("strength", drug="abc"), call("strength", drug="abc"), call("strength", drug="xyz"), "5 mg"]
    generated, _ = rollout(tmp_path, asks)
    seen = values(generated.metrics)
    assert seen["tools/call_frequency"] == 3
    assert seen["tools/repeated_frequency"] == pytest.approx(1 / 3)
    assert seen["tools/strength/call_frequency"] == 3
    assert seen["turns/mean"] == 4
    tokens = len(generated.batch.completion_mask[0].nonzero())
    assert seen["tokens/world_ratio"] == pytest.approx(1 - int(generated.batch.loss_mask.sum()) / tokens)
    assert seen["completions/mean_length"] == int(generated.batch.loss_mask.sum())


def test_a_long_result_is_cut_and_says_so(tmp_path: Path) -> None:
    generated, _ = rollout(tmp_path, [call("strength", drug="xyz"), "5 mg"], result_tokens=2)
    assert generated.table[0]["messages"][1]["content"] == "10 ... (cut off)"


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


def test_rows_without_a_chat_or_with_other_tools_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the row is plain text"):
        rollout(tmp_path, ["a"], rows=[{"prompt": "strength of abc?", "answer": "5 mg"}])
    other = {"type": "function", "function": {"name": "other", "parameters": {}}}
    with pytest.raises(DataError, match="the row has a tool `other`"):
        rollout(tmp_path, ["a"], rows=[{**ROW, "tools": [other]}])

"""Rollouts with tools: masks, the fields that rewards read, outcomes, limits and metrics, with recorded turns."""

from pathlib import Path
from typing import Any

import pytest

from helpers.tool_rollouts import ROW, call, rollout, trained_text
from rung.errors import DataError
from rung.metrics import values
from rung.tiny.tokenizers import CHAT_TEMPLATE, byte


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


def test_a_reward_cannot_change_what_others_read(tmp_path: Path) -> None:
    seen: list[Any] = []

    def rude(tool_calls: Any, messages: Any) -> float:
        seen.append((tool_calls[0]["arguments"].pop("drug"), messages[1]["tool_calls"].pop()["function"]["name"]))
        return 0.0

    def other(tool_calls: Any, messages: Any) -> float:
        return rude(tool_calls, messages)

    rollout(tmp_path, [call("strength", drug="abc"), "5 mg"], rewards=[rude, other])
    assert seen == [("abc", "strength")] * 2


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


def test_rows_without_a_chat_or_with_other_tools_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the row is plain text"):
        rollout(tmp_path, ["a"], rows=[{"prompt": "strength of abc?", "answer": "5 mg"}])
    other = {"type": "function", "function": {"name": "other", "parameters": {}}}
    with pytest.raises(DataError, match="the row has a tool `other`"):
        rollout(tmp_path, ["a"], rows=[{**ROW, "tools": [other]}])

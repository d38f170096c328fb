"""Evaluations: scores with their intervals, shots before the question, and what was measured in a hash."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from rung.batch import Completion
from rung.data.records import Example, Message, Messages, make_example
from rung.errors import CheckpointError, DataError, RewardError
from rung.evaluation.evaluate import Evaluation, estimate, evaluate
from rung.evaluation.fewshot import with_shots
from rung.evaluation.statistics import wilson
from rung.reward import RewardSet, reward
from rung.rollout.philox import Key
from rung.sampling import Sampling
from rung.tiny.tokenizers import EOS_ID, byte

TOKENIZER = byte()
KEY = Key(0, "sft", "evaluate")
GREEDY = Sampling(max_completion_length=20, temperature=0.0)
CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima"}


@dataclass
class Parrot:
    """A sampler that answers from a list, and remembers what it was asked."""

    answers: Sequence[str]
    limit: int = 20
    asked: list[tuple[int, ...]] = field(default_factory=list)
    visits: list[int] = field(default_factory=list)

    def sample(
        self, prompts: Sequence[tuple[int, ...]], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        self.asked += prompts
        self.visits += visits
        return [[self._completion(answer)] * k for answer in self.answers]

    def load(self, weights: Mapping[str, object], version: int) -> None:
        raise NotImplementedError

    def exact(self, sampling: Sampling) -> bool:
        return True

    def _completion(self, answer: str) -> Completion:
        ids = (*TOKENIZER.encode(answer), EOS_ID)
        cut = len(ids) > self.limit
        ids = ids[: self.limit]
        return Completion(ids, (0.0,) * len(ids), "length" if cut else "eos")


def items() -> list[Example]:
    return [
        make_example("prompt", f"items.jsonl:{i}", {"answer": capital}, prompt=f"capital of {country}? ")
        for i, (country, capital) in enumerate(CAPITALS.items(), 1)
    ]


def shot(country: str, capital: str) -> Example:
    return make_example("prompt-completion", "shots.jsonl:1", {}, prompt=f"capital of {country}? ", completion=capital)


def evaluated(answers: Sequence[str], metrics: Sequence = ("exact_match",), **settings) -> Evaluation:
    given = {"sampling": GREEDY, "key": KEY, "examples": items()} | settings
    with RewardSet(metrics) as scorers:
        return evaluate(Parrot(answers), TOKENIZER, given.pop("examples"), scorers, **given)


def test_a_metric_is_the_mean_over_items_with_its_wilson_interval():
    found = evaluated(["Paris", "Milan", "Madrid", "Cuzco"])
    assert found.metrics["exact_match"].value == 0.5
    assert (found.metrics["exact_match"].low, found.metrics["exact_match"].high) == wilson(2, 4)
    assert [row.scores["exact_match"] for row in found.rows] == [1, 0, 1, 0]
    assert [row.completion for row in found.rows] == ["Paris", "Milan", "Madrid", "Cuzco"]


def test_output_tokens_and_truncation_are_always_reported():
    """Bytes and EOS: 6, 5, 2 and 20 tokens, the last one cut."""
    found = evaluated(["Paris", "Rome", "M", "Lima, if I am not mistaken"])
    lengths = found.output_tokens
    assert (lengths.mean, lengths.median, lengths.min, lengths.max) == (8.25, 5.5, 2, 20)
    assert lengths.sd == pytest.approx(8.0156, abs=1e-4)
    assert lengths.p95 == pytest.approx(17.9)
    assert found.metrics["output_tokens"].value == 8.25
    assert found.metrics["truncated"].value == 0.25
    assert [row.finish_reason for row in found.rows] == ["eos", "eos", "eos", "length"]


def test_an_item_without_a_score_is_lost_and_never_a_zero():
    @reward(range=(0, 1))
    def sure(completion: str) -> float | None:
        return None if completion == "?" else 1.0

    found = evaluated(["Paris", "?", "?", "Lima"], [sure])
    assert found.metrics["sure"].value == 1.0
    assert found.metrics["sure"].n == 2
    assert found.metrics["sure"].lost == 0.5
    assert found.rows[1].scores["sure"] is None


def test_why_a_metric_failed_is_kept():
    @reward(role="metric")
    def fragile(completion: str) -> float:
        return float(completion)

    found = evaluated(["1", "2", "x", "4"], [fragile])
    assert found.metrics["fragile"].n == 3
    assert "could not convert string to float: 'x'" in found.metrics["fragile"].failure


def test_items_of_one_group_widen_the_interval():
    scores = [1.0, 1.0, 0.0, 0.0] * 20
    alone = estimate(scores, [str(i) for i in range(80)])
    paired = estimate(scores, [str(i // 2) for i in range(80)])
    assert alone.low is not None
    assert paired.low is not None
    assert paired.low < alone.low


def test_string_shots_stand_before_the_question():
    parrot = Parrot(["Paris", "Rome", "Madrid", "Lima"])
    with RewardSet(["exact_match"]) as scorers:
        evaluate(parrot, TOKENIZER, items(), scorers, shots=[shot("Chad", "N'Djamena")], sampling=GREEDY, key=KEY)
    assert TOKENIZER.decode(list(parrot.asked[0])) == "capital of Chad? N'Djamena\n\ncapital of France? "
    assert parrot.visits == [0, 1, 2, 3]


def test_chat_shots_are_earlier_turns_behind_the_items_own_system_message():
    def turns(system: str, *texts: str) -> Messages:
        roles = ("user", "assistant") * len(texts)
        said = (Message(role=role, content=text) for role, text in zip(roles, texts, strict=False))
        return (Message(role="system", content=system), *said)

    item = make_example("prompt", "i:1", {}, prompt=turns("be brief", "2 + 2?"))
    reply = (Message(role="assistant", content="2"),)
    answered = make_example("prompt-completion", "s:1", {}, prompt=turns("shout", "1 + 1?"), completion=reply)
    talked = make_example("messages", "s:2", {}, messages=turns("shout", "3 + 3?", "6"))
    assert with_shots(item, [answered, talked]) == turns("be brief", "1 + 1?", "2", "3 + 3?", "6", "2 + 2?")


def test_metrics_see_the_question_without_its_shots():
    @reward(range=(0, 1))
    def bare(prompt: str, answer: str) -> float:
        return float(prompt in {f"capital of {country}? " for country in CAPITALS} and answer in CAPITALS.values())

    found = evaluated(["a", "b", "c", "d"], [bare], shots=[shot("Chad", "N'Djamena")])
    assert found.metrics["bare"].value == 1.0
    assert found.num_shots == 1


def test_a_conversation_is_asked_for_its_last_turn_with_that_turn_as_gold():
    @reward(range=(0, 1))
    def gold(messages: list, ground_truth: str) -> float:
        return float([message["content"] for message in messages] == ["2 + 2?", "four"] and ground_truth == "4")

    chat = (Message(role="user", content="2 + 2?"), Message(role="assistant", content="4"))
    found = evaluated(["four"], [gold], examples=[make_example("messages", "c:1", {}, messages=chat)])
    assert found.metrics["gold"].value == 1.0
    assert (found.rows[0].prompt, found.rows[0].expected, found.rows[0].completion) == ("2 + 2?", "4", "four")


def test_equal_runs_share_a_hash_and_each_change_of_the_measurement_names_itself():
    answers = ["Paris", "Rome", "Madrid", "Lima"]
    base = evaluated(answers)
    assert evaluated(["no"] * 4).hash == base.hash, "what the model says is not how it is measured"
    assert evaluated(answers, key=Key(0, "dapo", "evaluate")).hash == base.hash, "every stage is measured alike"
    other_truth = [make_example("prompt", "x:1", {"answer": "Nice"}, prompt="capital of France? "), *items()[1:]]
    changes = {
        "items": {"examples": other_truth},
        "prompts shots": {"shots": [shot("Chad", "N'Djamena")]},
        "decoding": {"sampling": Sampling(max_completion_length=20, temperature=1.0)},
        "scorers": {"metrics": ["normalized_match"]},
    }
    for names, change in changes.items():
        changed = evaluated(answers, **change)
        assert changed.hash != base.hash
        assert sorted(part for part in base.measured if base.measured[part] != changed.measured[part]) == names.split()


def test_an_evaluation_comes_back_as_it_was_written(tmp_path):
    found = evaluated(["Paris", "a\nb\u2028\x85", "", "Lima"], shots=[shot("Chad", "N'Djamena")])
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    assert summary["metrics"]["exact_match"]["value"] == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "evaluation.jsonl"]


def test_rows_of_another_evaluation_are_refused(tmp_path):
    evaluated(["Paris", "Rome", "Madrid", "Lima"]).save(tmp_path / "evaluation.json")
    evaluated(["a", "b", "c", "d"]).save(tmp_path / "other.json")
    (tmp_path / "other.jsonl").replace(tmp_path / "evaluation.jsonl")
    with pytest.raises(CheckpointError, match="rows belong to another"):
        Evaluation.load(tmp_path / "evaluation.json")
    with pytest.raises(CheckpointError, match=r"none\.json"):
        Evaluation.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"examples": []}, DataError, "no item"),
        ({"examples": [make_example("text", "raw.txt:3", {}, text="once")]}, DataError, "raw.txt, row 3: raw text"),
        (
            {"shots": [make_example("prompt", "p:1", {}, prompt="why? ")]},
            DataError,
            "p, row 1: this shot has no answer",
        ),
        ({"shots": [items()[2]]}, DataError, "items.jsonl, row 3: a shot is one of the items"),
        (
            {"metrics": ["token_f1"], "examples": [make_example("prompt", "p:1", {}, prompt="?")]},
            RewardError,
            "no column",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_known_before_anything_is_sampled(change, error, message):
    parrot = Parrot([])
    given = {"examples": items(), "metrics": ["exact_match"], "shots": []} | change
    with RewardSet(given["metrics"]) as scorers, pytest.raises(error, match=message):
        evaluate(parrot, TOKENIZER, given["examples"], scorers, shots=given["shots"], sampling=GREEDY, key=KEY)
    assert parrot.asked == []


def test_a_chat_shot_for_a_string_prompt_is_refused():
    chat = (Message(role="user", content="1 + 1?"), Message(role="assistant", content="2"))
    with pytest.raises(DataError, match="c, row 1: a chat example is used as a shot for a string prompt"):
        with_shots(items()[0], [make_example("messages", "c:1", {}, messages=chat)])
    asked = make_example("prompt", "c:2", {}, prompt=chat[:1])
    with pytest.raises(DataError, match=r"shots.jsonl, row 1: a string example is used as a shot for a chat prompt"):
        with_shots(asked, [shot("Chad", "N'Djamena")])

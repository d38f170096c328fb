"""An evaluation by hand: lengths of one and of several, what is lost, and what its hash is made of."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from rung.batch import Completion
from rung.data.records import Example, Message, make_example
from rung.errors import CheckpointError, DataError
from rung.evaluation.evaluate import Evaluation, estimate, evaluate
from rung.evaluation.fewshot import answer, encode_question, last_text, question, with_shots
from rung.reward import RewardSet
from rung.rollout.philox import Key
from rung.sampling import Sampling
from rung.tiny.tokenizers import EOS_ID, byte

TOKENIZER = byte()
USER, REPLY = Message(role="user", content="a"), Message(role="assistant", content="b")


class Saying:
    """A sampler that answers from a list."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def sample(
        self, prompts: Sequence[tuple[int, ...]], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        made = [(*TOKENIZER.encode(text), EOS_ID) for text in self.texts]
        return [[Completion(ids, (0.0,) * len(ids), "length" if len(ids) > 4 else "eos")] for ids in made]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """It has no weights."""

    def exact(self, sampling: Sampling) -> bool:
        return True


def item(i: int, answer: str = "b") -> Example:
    return make_example("prompt", f"items:{i}", {"answer": answer}, prompt=f"{i}?")


def measured(*texts: str, seed: int = 0, length: int = 9) -> Evaluation:
    with RewardSet(["exact_match"]) as metrics:
        return evaluate(
            Saying(texts),
            TOKENIZER,
            [item(i) for i in range(len(texts))],
            metrics,
            sampling=Sampling(max_completion_length=length, temperature=0.0),
            key=Key(seed, "x", "evaluate"),
        )


def test_lengths_of_one_answer_have_no_spread() -> None:
    found = measured("ab").output_tokens
    assert (found.mean, found.median, found.sd, found.p95, found.min, found.max) == (3, 3, 0, 3, 3, 3)


def test_lengths_of_several_answers() -> None:
    """2, 3, 4, 7 tokens: mean 4, median 3.5, squares 4 + 1 + 0 + 9 over 3; 95 % is place 2.85: 4 + .85 x 3."""
    found = measured("a", "ab", "abc", "abcdef")
    lengths = found.output_tokens
    assert (lengths.mean, lengths.median, lengths.min, lengths.max) == (4, 3.5, 2, 7)
    assert lengths.sd == pytest.approx((14 / 3) ** 0.5)
    assert lengths.p95 == pytest.approx(6.55)
    assert found.metrics["truncated"].value == 0.25
    assert found.metrics["output_tokens"].value == 4


def test_the_seed_and_the_decoding_are_part_of_the_measurement() -> None:
    base = measured("b")
    assert measured("c").hash == base.hash
    assert measured("b", seed=1).hash != base.hash
    assert measured("b", length=8).hash != base.hash
    assert len(base.hash) == 16
    assert set(base.measured) == {"items", "prompts", "shots", "decoding", "scorers"}


def test_an_estimate_is_of_what_was_scored_with_its_own_groups() -> None:
    """1 and 0 of groups b and c; the other half is lost."""
    found = estimate([None, 1.0, 0.0, None], ["a", "b", "c", "d"])
    assert (found.value, found.n, found.lost) == (0.5, 2, 0.5)
    assert (found.low, found.high) == (estimate([1.0, 0.0], ["b", "c"]).low, estimate([1.0, 0.0], ["b", "c"]).high)
    nothing = estimate([None, None], ["a", "b"], "why")
    assert (nothing.value, nothing.low, nothing.n, nothing.lost, nothing.failure) == (None, None, 0, 1.0, "why")
    alone = estimate([0.5, 0.25], ["a", "a"])
    assert (alone.value, alone.low, alone.high, alone.lost) == (0.375, None, None, 0.0)


def test_a_row_holds_what_was_asked_expected_and_said() -> None:
    (row,) = measured("b").rows
    assert (row.id, row.source, row.prompt, row.completion) == (item(0).id, "items:0", "0?", "b")
    assert (row.expected, row.finish_reason) == (None, "eos")
    assert row.scores == {"exact_match": 1.0, "output_tokens": 2.0, "truncated": 0.0}


def test_rows_lie_beside_the_summary_and_belong_to_it(tmp_path: Path) -> None:
    file = tmp_path / "a" / "e.json"
    found = measured("b", "c")
    found.save(file)
    summary = json.loads(file.read_text())
    assert summary["rows"]["file"] == "e.jsonl"
    assert len((tmp_path / "a" / "e.jsonl").read_text().splitlines()) == 2
    assert Evaluation.load(file) == found
    file.with_suffix(".jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"e.json is not an evaluation: its rows belong to another"):
        Evaluation.load(file)
    file.write_text("{}")
    with pytest.raises(CheckpointError, match=r"e.json is damaged, or was edited"):
        Evaluation.load(file)


def test_a_question_is_the_prompt_or_all_turns_but_the_last() -> None:
    talk = make_example("messages", "x:1", {}, messages=(USER, REPLY))
    told = make_example("prompt-completion", "x:2", {}, prompt="p", completion="c")
    pair = make_example("preference", "x:3", {}, prompt="p", chosen="c", rejected="r")
    assert (question(talk), answer(talk)) == ((USER,), (REPLY,))
    assert (question(told), answer(told)) == ("p", "c")
    assert (question(pair), question(item(1)), answer(item(1))) == ("p", "1?", None)
    assert last_text("x") == "x"
    assert last_text((USER, REPLY)) == "b"
    assert last_text(()) == ""


def test_shots_stand_before_the_question_in_their_order() -> None:
    shots = [make_example("prompt-completion", f"s:{i}", {}, prompt=f"{i}+", completion=f"{i}-") for i in range(2)]
    assert with_shots(item(5), shots) == "0+0-\n\n1+1-\n\n5?"
    assert with_shots(item(5), []) == "5?"
    assert encode_question(item(5), [], TOKENIZER) == tuple(TOKENIZER.encode("5?"))
    with pytest.raises(DataError, match="items, row 9: the prompt has no token"):
        encode_question(make_example("prompt", "items:9", {}, prompt=""), [], TOKENIZER)

"""What is made of sampled completions: which were cut off, and what of a row is logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from rung.batch import Completion
from rung.data.records import Encoded, make_example
from rung.reward import RewardSet
from rung.rollout.generate import Generator, logged_columns
from rung.rollout.philox import Key
from rung.sampling import Sampling
from rung.tiny.tokenizers import byte

TOKENIZER = byte()


class Ended:
    """A sampler whose completions ended in each of the three ways."""

    def sample(
        self, prompts: Sequence[tuple[int, ...]], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        return [
            [Completion((5,), (-1.0,), "eos"), Completion((6,), (-1.0,), "stop"), Completion((7,), (-1.0,), "length")]
            for _ in prompts
        ]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """It has no weights."""

    def exact(self, sampling: Sampling) -> bool:
        return True


def test_only_what_met_the_limit_of_length_is_truncated() -> None:
    generator = Generator(
        sampler=Ended(),
        sampling=Sampling(max_completion_length=1),
        key=Key(0, "s", "rollout"),
        samples=3,
        rewards=RewardSet([lambda completions, **_: [1.0] * len(completions)]),
        tokenizer=TOKENIZER,
    )
    prompt = Encoded("0", "x:0", (5,), (), make_example("prompt", "x:0", {}, prompt="a"))
    generated = generator([prompt], [0], 0)
    assert generated.batch.truncated is not None
    assert generated.batch.truncated.tolist() == [False, False, True]
    assert [row["finish_reason"] for row in generated.table] == ["eos", "stop", "length"]


def test_a_column_of_more_than_2000_characters_of_json_is_logged_as_text_that_is_cut_off() -> None:
    """A list of 999 digits is 999 x 3 - 2 + 2 characters; two quotes stand about a text."""
    whole = {"answer": [1, {"a": None}], "solution": "b" * 1998}
    assert logged_columns(whole, []) == whole
    assert logged_columns({"answer": "b" * 1999, "long": [1] * 999}, ["long"]) == {
        "long": "[" + "1, " * 666 + "1...",
        "answer": '"' + "b" * 1999 + "...",
    }

"""The decode loop on logits that never change: which uniform draws which token, and who is told what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from rung.batch import Completion
from rung.errors import NonFiniteError
from rung.rollout.decode import DecodeBatch, Prefill, Rows, StopCriteria
from rung.rollout.philox import Key, uniforms
from rung.sampling import Sampling
from rung.tiny.tokenizers import byte

KEY = Key(7, "dapo", "rollout")
VOCABULARY = 1000
TOKENIZER = byte()


class Flat:
    """Every token is as likely as any other, so that a uniform u draws token floor(1000 u)."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.places: list[list[int]] = []

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        self.widths.append(mask.shape[1])
        self.places.append(positions[:, 0].tolist())
        return torch.zeros(len(ids), VOCABULARY)


def drawn(
    limit: int,
    *,
    visits: list[int],
    samples: list[int],
    eos: tuple[int, ...] = (),
    stop: tuple[str, ...] = (),
    step: Flat | None = None,
    logits: Tensor | None = None,
    lengths: tuple[int, ...] = (3,),
) -> list[Completion]:
    width = max(lengths)
    held = torch.tensor(lengths)
    prefill = Prefill(
        Cache([]),
        torch.zeros(len(lengths), VOCABULARY) if logits is None else logits,
        torch.arange(width) >= width - held[:, None],
        held,
    )
    rows = Rows(torch.arange(len(visits)) % len(lengths), torch.tensor(visits), torch.tensor(samples))
    sampling = Sampling(max_completion_length=limit)
    return DecodeBatch(
        step or Flat(), StopCriteria(TOKENIZER, eos, stop), prefill, rows, key=KEY, sampling=sampling
    ).run()


def picked(limit: int, visits: list[int], samples: list[int]) -> list[list[int]]:
    draws = uniforms(KEY, torch.tensor(visits), torch.tensor(samples), 0, limit)
    return (draws * VOCABULARY).floor().long().tolist()


@pytest.mark.parametrize("limit", [1, 127, 128, 129, 300])
def test_every_token_has_a_uniform_of_its_own(limit: int) -> None:
    found = [list(row.ids) for row in drawn(limit, visits=[5, 9], samples=[0, 3])]
    assert found == picked(limit, [5, 9], [0, 3])


def test_rows_that_stay_keep_their_uniforms_where_others_leave() -> None:
    """Row 1 ends with its second token; the others go on, before and behind token 128."""
    visits, samples = [5, 9, 11], [0, 1, 2]
    whole = picked(140, visits, samples)
    end = whole[1][1]
    assert all(end not in row for row in (whole[0], whole[2], whole[1][:1]))
    found = drawn(140, visits=visits, samples=samples, eos=(end,))
    assert [list(row.ids) for row in found] == [whole[0], whole[1][:2], whole[2]]
    assert [row.finish_reason for row in found] == ["length", "eos", "length"]


def test_an_end_at_the_limit_is_an_end() -> None:
    whole = picked(4, [5], [0])[0]
    (row,) = drawn(4, visits=[5], samples=[0], eos=(whole[3],))
    assert (list(row.ids), row.finish_reason) == (whole, "eos")


def test_log_probs_are_those_of_the_draws_and_as_many() -> None:
    whole = picked(3, [5], [0])[0]
    (row,) = drawn(5, visits=[5], samples=[0], eos=(whole[2],))
    assert row.logps == pytest.approx([-6.907755] * 3)  # ln 1/1000


def test_a_position_counts_its_rows_own_prompt_and_the_mask_the_widest() -> None:
    """Prompts of 3 and 1: tokens 0 to 2 stand at 3, 4, 5 and 1, 2, 3; the last one of 4 is never computed."""
    step = Flat()
    drawn(4, visits=[5, 9], samples=[0, 0], step=step, lengths=(3, 1))
    assert step.places == [[3, 1], [4, 2], [5, 3]]
    assert step.widths == [4, 5, 6]


def test_nothing_is_computed_once_all_have_ended() -> None:
    whole = picked(9, [5], [0])[0]
    step = Flat()
    drawn(9, visits=[5], samples=[0], eos=(whole[1],), step=step)
    assert len(step.widths) == 1


def test_a_stop_text_ends_a_row_and_stays_in_it() -> None:
    """Nearly sure of the letters n, then o, and so on: logits of 100 for the token of n at first, then all alike."""
    letter = TOKENIZER.encode("n")[0]
    logits = torch.zeros(1, VOCABULARY)
    logits[0, letter] = 1e4
    (row,) = drawn(6, visits=[5], samples=[0], stop=("n",), logits=logits)
    assert (row.ids, row.finish_reason) == ((letter,), "stop")


def test_a_stop_text_is_seen_over_as_many_tokens_as_it_has_bytes() -> None:
    ending = StopCriteria(TOKENIZER, (), ("abcdefgh",))
    ids = torch.tensor(TOKENIZER.encode("xyabcdefgh"))
    assert ending.stopped(torch.stack([ids, ids])).tolist() == [True, True]
    assert ending.stopped(ids[None, :-1]).tolist() == [False]
    assert StopCriteria(TOKENIZER, (), ()).stopped(ids[None]).tolist() == [False]


def test_a_stop_text_further_back_is_no_end() -> None:
    """It is looked for in the last 1 + 4 tokens: what a row ended with, and no more."""
    ending = StopCriteria(TOKENIZER, (), ("q",))
    assert ending.stopped(torch.tensor([TOKENIZER.encode("q1234")])).tolist() == [True]
    assert ending.stopped(torch.tensor([TOKENIZER.encode("q12345")])).tolist() == [False]


def test_any_of_several_ends_is_one() -> None:
    ending = StopCriteria(TOKENIZER, (3, 8), ())
    assert ending.eos(torch.tensor([1, 3, 8, 9])).tolist() == [False, True, True, False]


def test_a_policy_without_numbers_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="non-finite"):
        drawn(2, visits=[5], samples=[0], logits=torch.full((1, VOCABULARY), float("nan")))

"""Batches keep the contract of the records, and their order is a function of seed and epoch."""

from dataclasses import dataclass
from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.batches import Dataset, order
from rung.data.collate import collate
from rung.data.records import Answer, Encoded, make_example
from rung.errors import ConfigError

PAD = 0


@dataclass(frozen=True)
class Place:
    rank: int = 0
    world: int = 1


def encoded(source, prompt, *answers):
    """Tokens that are negative are attended and not trained."""
    made = tuple(Answer(tuple(map(abs, ids)), tuple(i > 0 for i in ids)) for ids in answers)
    return Encoded(source, source, tuple(prompt), made, make_example("prompt", source, {}, prompt="p"))


def rows(n, length=2):
    return [encoded(f"x:{i}", [5, 10 + i], [7] * length) for i in range(n)]


def sources(dataset, num_batches):
    return [sorted(batch.row_ids) for batch in islice(dataset, num_batches)]


def source(items, batch_size, *, place=None, seed=0):
    return Dataset(items, batch_size=batch_size, seed=seed, pad_id=PAD, ranks=place or Place())


def test_equal_prompts_are_kept_once_and_their_groups_made_adjacent():
    """Prompts A, B, A with a pair, a row and a pair: rows in order A A A A B, prompts in order A B."""
    batch = collate(
        [
            encoded("a1", [5, 6], [7, 8], [9]),
            encoded("b", [4], [3, -2, 3]),
            encoded("a2", [5, 6], [8], [7]),
        ],
        pad_id=PAD,
    )
    assert batch.prompt_ids.tolist() == [[5, 6], [0, 4]]
    assert batch.prompt_mask.tolist() == [[True, True], [False, True]]
    assert batch.prompt_of.tolist() == [0, 0, 0, 0, 1]
    assert batch.group_of.tolist() == [0, 0, 1, 1, 2]
    assert batch.row_ids == ("a1", "a1", "a2", "a2", "b")
    assert batch.completion_ids.tolist() == [[7, 8, 0], [9, 0, 0], [8, 0, 0], [7, 0, 0], [3, 2, 3]]
    assert batch.completion_mask.sum(1).tolist() == [2, 1, 1, 1, 3]
    assert batch.loss_mask.tolist()[-1] == [True, False, True]
    assert (batch.num_rows, batch.num_prompts, batch.num_groups) == (5, 2, 3)
    assert batch.completion_ids.dtype == batch.prompt_of.dtype == torch.int64


def test_a_pad_id_that_is_also_a_token_does_not_touch_the_masks():
    batch = collate([encoded("a", [1, 5], [7, 1]), encoded("b", [5], [1])], pad_id=1)
    assert batch.prompt_mask.tolist() == [[True, True], [False, True]]
    assert batch.completion_mask.tolist() == [[True, True], [True, False]]


@settings(max_examples=40)
@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 40))
def test_an_order_is_a_permutation_and_repeats(seed, epoch, n):
    assert sorted(order(seed, epoch, n)) == list(range(n))
    assert order(seed, epoch, n) == order(seed, epoch, n)


def test_epochs_and_seeds_have_orders_of_their_own():
    assert len({tuple(order(seed, epoch, 20)) for seed in range(3) for epoch in range(3)}) == 9


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2))
def test_an_epoch_has_every_example_once_and_keeps_its_short_batch(n, size, seed):
    dataset = source(rows(n), size, seed=seed)
    assert dataset.steps_per_epoch == -(-n // size)
    for _ in range(2):
        given_ = sources(dataset, dataset.steps_per_epoch)
        assert sorted(chain.from_iterable(given_)) == sorted(f"x:{i}" for i in range(n))
        assert [len(batch) for batch in given_[:-1]] == [size] * (len(given_) - 1)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(2, 8), st.integers(2, 4))
def test_ranks_share_the_batches_of_one_rank(n, size, world):
    if size < world or n < world or 0 < n % size < world:
        with pytest.raises(ConfigError, match="rank"):
            source(rows(n), size, place=Place(1, world))
        return
    whole = sources(source(rows(n), size), 7)
    parts = [sources(source(rows(n), size, place=Place(rank, world)), 7) for rank in range(world)]
    assert all(part for shares in parts for part in shares)
    assert [sorted(chain.from_iterable(shares)) for shares in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("size", [3, {"tokens": 12}])
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 11])
def test_a_loaded_state_goes_on_where_it_was_taken(size, taken):
    dataset = source(rows(13), size)
    list(islice(dataset, taken))
    resumed = source(rows(13), size)
    resumed.load_state_dict(dataset.state_dict())
    assert sources(resumed, 12) == sources(dataset, 12)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 30))
def test_batches_of_tokens_are_filled_and_lose_nothing(lengths, tokens):
    items = [encoded(f"x:{i}", [5], [7] * length) for i, length in enumerate(lengths)]
    dataset = source(items, {"tokens": tokens})
    batches = list(islice(dataset, dataset.steps_per_epoch))
    assert sorted(s for batch in batches for s in batch.row_ids) == sorted(f"x:{i}" for i in range(len(lengths)))
    sizes = [int(batch.lengths.sum()) + batch.num_rows for batch in batches]
    assert all(size >= tokens for size in sizes) or len(sizes) == 1
    assert max(sizes) <= 2 * tokens + max(lengths) + 1


def test_two_ranks_share_batches_of_tokens():
    items = [encoded(f"x:{i}", [5], [7] * (1 + i % 4)) for i in range(23)]
    whole = sources(source(items, {"tokens": 12}), 9)
    parts = [sources(source(items, {"tokens": 12}, place=Place(rank, 2)), 9) for rank in range(2)]
    assert all(part for shares in parts for part in shares)
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == whole
    with pytest.raises(ConfigError, match=r"8 tokens are too few for 2 ranks \(the longest example"):
        source(items, {"tokens": 8}, place=Place(0, 2))


@pytest.mark.parametrize("size", [0, -1, {"tokens": 0}, {"rows": 3}])
def test_a_batch_size_that_cannot_work_is_an_error(size):
    with pytest.raises(ConfigError, match="batch_size"):
        source(rows(3), size)

"""Batches: another order each epoch, exactly full, and who gets which example."""

from dataclasses import dataclass
from itertools import islice

import pytest

from helpers.edges import encoded
from rung.data.batches import Dataset, order
from rung.errors import ConfigError


@dataclass(frozen=True)
class Place:
    rank: int = 0
    world: int = 1


def dataset(lengths, batch_size, *, seed=0, place=None) -> Dataset:
    """Examples x:0, x:1, ... of so many tokens in all, two of them the prompt."""
    rows = [encoded(f"x:{i}", [5, 100 + i], [7] * (length - 2)) for i, length in enumerate(lengths)]
    return Dataset(rows, batch_size=batch_size, seed=seed, pad_id=0, ranks=place or Place())


def seen(source: Dataset, count: int) -> list[list[int]]:
    return [[int(row.removeprefix("x:")) for row in batch.row_ids] for batch in islice(source, count)]


def test_each_epoch_has_the_order_of_its_number_and_the_seed() -> None:
    told = seen(dataset([3] * 8, 8, seed=5), 3)
    assert told == [order(5, 0, 8), order(5, 1, 8), order(5, 2, 8)]
    assert told[0] != told[1]


def test_an_epoch_begins_where_the_one_before_it_has_ended() -> None:
    first, second = order(0, 0, 5), order(0, 1, 5)
    assert seen(dataset([3] * 5, 2), 5) == [first[:2], first[2:4], first[4:], second[:2], second[2:4]]


def test_a_batch_that_is_filled_exactly_takes_no_more() -> None:
    """Six examples of 3 tokens into batches of 6 tokens: three of two."""
    source = dataset([3] * 6, {"tokens": 6})
    assert source.steps_per_epoch == 3
    assert [len(batch) for batch in seen(source, 3)] == [2, 2, 2]


def test_a_batch_one_token_short_takes_one_more_and_the_rest_joins_the_last() -> None:
    """Into 7 tokens: 3 + 3 + 3, then 3 + 3 and nothing more, which joins it."""
    assert [len(batch) for batch in seen(dataset([3] * 5, {"tokens": 7}), 1)] == [5]
    assert [len(batch) for batch in seen(dataset([3] * 6, {"tokens": 7}), 2)] == [3, 3]


def test_too_few_tokens_for_one_batch_are_one_batch() -> None:
    source = dataset([3], {"tokens": 100})
    assert source.steps_per_epoch == 1
    assert seen(source, 2) == [[0], [0]]


def test_a_rank_takes_every_second_example_from_its_number_on() -> None:
    whole = order(0, 0, 6)
    assert seen(dataset([3] * 6, 6, place=Place(0, 2)), 1) == [whole[0::2]]
    assert seen(dataset([3] * 6, 6, place=Place(1, 2)), 1) == [whole[1::2]]


def test_a_state_is_the_epoch_and_the_batches_given() -> None:
    source = dataset([3] * 4, 2)
    assert source.state_dict() == {"epoch": 0, "index": 0}
    seen(source, 3)
    assert source.state_dict() == {"epoch": 1, "index": 1}
    again = dataset([3] * 4, 2)
    again.load_state_dict({"epoch": 1, "index": 1})
    assert seen(again, 1) == [order(0, 1, 4)[2:]]


@pytest.mark.parametrize(
    ("lengths", "size", "world", "message"),
    [
        ([3] * 2, 1, 2, "batch_size: 1 examples are too few for 2 ranks"),
        ([3] * 5, 2, 2, "the last batch of an epoch has 1 of 5 examples, too few for 2 ranks"),
        ([3] * 2, 3, 3, "batch_size: the last batch of an epoch has 2 of 2 examples, too few for 3 ranks"),
        ([3, 4], {"tokens": 7}, 2, r"7 tokens are too few for 2 ranks \(the longest example has 4\)"),
        ([3], {"tokens": 8}, 2, "data: 1 examples are too few for 2 ranks"),
        ([3], 0, 1, "batch_size: 0 examples are too few for 1 ranks"),
    ],
)
def test_a_rank_without_an_example_is_refused(lengths, size, world, message) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset(lengths, size, place=Place(0, world))


def test_the_least_that_would_do_is_told() -> None:
    with pytest.raises(ConfigError) as tokens:
        dataset([3, 4], {"tokens": 7}, place=Place(0, 3))
    assert tokens.value.remedy == "give at least 12 tokens, so that each of 3 ranks gets an example"
    with pytest.raises(ConfigError) as examples:
        dataset([3] * 4, 1, place=Place(0, 3))
    assert examples.value.remedy == "give at least 3"


def test_the_least_that_serves_every_rank_is_allowed() -> None:
    assert seen(dataset([3] * 4, 2, place=Place(1, 2)), 1) == [order(0, 0, 4)[1:2]]
    assert [len(batch) for batch in seen(dataset([4] * 2, {"tokens": 8}, place=Place(1, 2)), 1)] == [1]
    assert seen(dataset([3], 1), 1) == [[0]]
    assert seen(dataset([3], {"tokens": 1}), 1) == [[0]]

"""Metrics by hand: what is counted, what is None, and that a merge reads both sides."""

import pytest
import torch

from rung.metrics import Max, Mean, Min, Quantile, Std, Sum, decode, encode, mean_of, merge, std_of, values


def test_a_quantile_counts_from_the_smallest() -> None:
    """Of 5 values the half is the third, of 11 nine tenths are the tenth; 1 is the largest, 0 the smallest."""
    assert Quantile((5.0, 1.0, 4.0, 2.0, 3.0), 0.5).value() == 3.0
    assert Quantile(tuple(float(i) for i in range(11)), 0.9).value() == 9.0
    assert Quantile((3.0, 1.0, 2.0), 1.0).value() == 3.0
    assert Quantile((3.0, 1.0, 2.0), 0.0).value() == 1.0
    assert Quantile((), 0.5).value() is None


def test_a_quantile_of_two_parts_is_that_of_all_their_values() -> None:
    merged = merge([{"q": Quantile((1.0, 9.0), 0.5)}, {"q": Quantile((5.0,), 0.5)}])
    assert values(merged) == {"q": 5.0}
    assert decode(encode(merged)) == merged
    with pytest.raises(AssertionError, match="share q"):
        Quantile((1.0,), 0.5).merge(Quantile((1.0,), 0.9))


def test_a_merge_reads_both_sides() -> None:
    one = {"mean": Mean(3, 2), "std": Std(3, 5, 2), "sum": Sum(4), "max": Max(2), "min": Min(2)}
    other = {"mean": Mean(9, 1), "std": Std(6, 36, 1), "sum": Sum(5), "max": Max(7), "min": Min(1)}
    # std of 1, 2 and 6: mean 3, squares 4 + 1 + 9 = 14 over 2
    expected = {"mean": 4.0, "std": 7**0.5, "sum": 9, "max": 7, "min": 1}
    assert values(merge([one, other])) == pytest.approx(expected)
    assert values(merge([other, one])) == pytest.approx(expected)


def test_nothing_counted_is_left_out_and_not_0() -> None:
    empty = {"mean": Mean(0, 0), "std": Std(2, 4, 1), "max": Max(None), "min": Min(None), "sum": Sum(0)}
    assert values(empty) == {"sum": 0}
    filled = {"max": Max(-1), "min": Min(-1)}
    assert values(merge([empty, filled])) == {"sum": 0, "max": -1, "min": -1}
    assert values(merge([filled, {"max": Max(None), "min": Min(None)}])) == {"max": -1, "min": -1}


def test_a_spread_is_of_two_things_or_more_and_never_below_0() -> None:
    assert Std(2, 4, 1).value() is None
    assert Std(4, 10, 2).value() == pytest.approx(2**0.5)  # of 1 and 3
    assert Std(3 * 0.1, 3 * 0.01 - 1e-12, 3).value() == 0.0


def test_a_mean_under_a_mask_counts_what_is_in_it() -> None:
    numbers = torch.tensor([[1.0, float("nan")], [5.0, 7.0]])
    assert mean_of(numbers, torch.tensor([[True, False], [True, False]])) == Mean(6.0, 2.0)
    assert mean_of(torch.tensor([1.0, 2.0])) == Mean(3.0, 2.0)
    assert std_of(torch.tensor([1.0, 3.0])) == Std(4.0, 10.0, 2.0)


def test_a_name_that_one_part_has_keeps_its_value() -> None:
    assert values(merge([{"a": Sum(1)}, {"b": Sum(2)}, {"a": Sum(3)}])) == {"a": 4, "b": 2}
    with pytest.raises(AssertionError, match="metric a changes its type"):
        merge([{"a": Sum(1)}, {"a": Mean(1, 1)}])

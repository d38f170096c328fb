"""Splits are functions of the content."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.records import make_example
from rung.data.splits import position, split
from rung.errors import ConfigError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def examples(numbers):
    return [make_example("prompt", f"x:{i}", {"row": i}, prompt=f"prompt {number}") for i, number in enumerate(numbers)]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50)), st.text(max_size=3))
def test_new_rows_never_move_old_ones_and_no_group_is_cut(old, new, salt):
    sides = {}
    for numbers in (old, old + new):
        for side, part in split(examples(numbers), SHARES, salt).items():
            for example in part:
                assert sides.setdefault(example.group, side) == side


def test_every_example_is_on_one_side_and_the_shares_are_met():
    given_ = examples(range(5000))
    parts = split(given_, SHARES)
    assert sorted(e.id for part in parts.values() for e in part) == sorted(e.id for e in given_)
    assert [round(len(part) / 5000, 1) for part in parts.values()] == [0.8, 0.1, 0.1]


def test_the_position_is_the_hash_of_salt_and_group():
    """The first 53 bits of sha256("saltgroup") over 2**53."""
    bits = bin(int(hashlib.sha256(b"saltgroup").hexdigest(), 16))[2:].zfill(256)[:53]
    assert position("group", "salt") == int(bits, 2) / 2**53


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}])
def test_shares_sum_to_one(shares):
    with pytest.raises(ConfigError, match="sum to 1"):
        split(examples([1]), shares)


def test_what_rounded_shares_leave_over_goes_to_the_last_part():
    """The hash of 181091571 begins with 30 ones."""
    (example,) = examples([1])
    topmost = replace(example, group="181091571")
    assert position("181091571", "") > 0.9999999991
    assert split([topmost], {"train": 0.5, "test": 0.4999999991}) == {"train": [], "test": [topmost]}

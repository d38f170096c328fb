"""Keyed uniforms: the published words, and draws that depend on a row's name alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from rung.rollout.philox import Key, philox4x32, uniforms

KEY = Key(seed=3, stage="dapo", purpose="rollout")


@pytest.mark.maths
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter: str, key: str, words: str):
    """The known-answer vectors of the Random123 library: zeros, ones, and the digits of pi."""
    counters = np.array([int(word, 16) for word in counter.split()], np.uint64)
    first, second = (int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in philox4x32(counters, (first, second))] == words.split()


@pytest.mark.maths
def test_a_uniform_is_built_from_the_first_53_bits_of_its_counter():
    """Word 0 gives the upper 27 bits, word 1 the lower 26; visit 2**32 + 7 is counter words (7, 1)."""
    words = philox4x32(np.array([7, 1, 4, 9], np.uint64), KEY.words())
    expected = ((int(words[0]) >> 5) * 2**26 + (int(words[1]) >> 6)) / 2**53
    assert uniforms(KEY, torch.tensor([2**32 + 7]), torch.tensor([4]), 9, 1).item() == expected


@given(st.data())
def test_order_and_chunks_change_no_uniform(data: st.DataObject):
    n = data.draw(st.integers(1, 8))
    visits = torch.tensor(data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=n, max_size=n)))
    samples = torch.tensor(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n)))
    rows = torch.tensor(data.draw(st.permutations(range(n))))[: data.draw(st.integers(1, n))]
    start, count = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 20))
    whole = uniforms(KEY, visits, samples, 0, 60)
    assert torch.equal(uniforms(KEY, visits[rows], samples[rows], start, count), whole[rows, start : start + count])


def test_every_part_of_a_name_gives_other_draws():
    def first(key: Key = KEY, visit: int = 0, sample: int = 0, token: int = 0) -> float:
        return uniforms(key, torch.tensor([visit]), torch.tensor([sample]), token, 1).item()

    others = [Key(4, "dapo", "rollout"), Key(3, "grpo", "rollout"), Key(3, "dapo", "evaluate")]
    draws = [first(), *map(first, others), first(visit=1), first(visit=2**32), first(sample=1), first(token=1)]
    assert len(set(draws)) == len(draws)


def test_uniforms_are_uniform():
    drawn = uniforms(KEY, torch.arange(100), torch.arange(100) % 8, 0, 200)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:, :-1].flatten(), drawn[:, 1:].flatten())[0, 1]) < 0.02

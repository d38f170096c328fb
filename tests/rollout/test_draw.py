"""Draws: which tokens are kept, which token a uniform picks, and that frequencies follow the distribution."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rung.errors import ConfigError
from rung.rollout.draw import draw, inverse_cdf, keep_min_p, keep_top_k, keep_top_p, truncate
from rung.rollout.philox import Key, uniforms
from rung.sampling import Sampling


def sampling(**changes) -> Sampling:
    return Sampling(max_completion_length=1, **changes)


def transformers_probabilities(logits: torch.Tensor, spec: Sampling) -> torch.Tensor:
    """The distribution that `generate` would draw from."""
    warpers: list[Any] = [TemperatureLogitsWarper(spec.temperature)]
    warpers += [TopKLogitsWarper(spec.top_k)] if spec.top_k else []
    warpers += [TopPLogitsWarper(spec.top_p)] if spec.top_p < 1 else []
    warpers += [MinPLogitsWarper(spec.min_p)] if spec.min_p else []
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    for warp in warpers:
        logits = warp(ids, logits)
    return logits.softmax(-1)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "spec",
    [
        sampling(),
        sampling(temperature=0.5),
        sampling(temperature=2.0),
        sampling(top_p=0.8),
        sampling(top_k=5),
        sampling(min_p=0.1),
        sampling(temperature=1.3, top_k=20, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers(spec: Sampling):
    """Chi-square of 40,000 keyed draws; tokens that truncation drops never appear."""
    logits = 2 * torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    n = 40_000
    keyed = uniforms(Key(1, "test", str(spec)), torch.arange(n), torch.zeros(n, dtype=torch.long), 0, 1)[:, 0]
    tokens, _ = draw(logits.expand(n, -1), keyed, spec)
    expected = transformers_probabilities(logits, spec)[0].double()
    counts = tokens.bincount(minlength=30)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    shares = expected[kept] / expected[kept].sum()
    assert chisquare(counts[kept].numpy(), (shares * n).numpy()).pvalue > 1e-3


@pytest.mark.oracle
@given(
    st.integers(0, 1000), st.sampled_from([3, 700, 1500]), st.floats(0.3, 3.0), st.integers(0, 9), st.floats(0.05, 1.0)
)
@settings(max_examples=60, deadline=None)
def test_truncation_keeps_what_transformers_keeps(
    seed: int, vocabulary: int, temperature: float, top_k: int, top_p: float
):
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed))
    spec = sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    kept = truncate((logits / temperature).log_softmax(-1), top_k=top_k, top_p=top_p, min_p=0.0).softmax(-1)
    # One float32 sum apart, a token whose share ends at the threshold may fall on either side of it.
    assert ((kept > 0) != (transformers_probabilities(logits, spec) > 0)).sum() <= 1


def test_the_likeliest_token_always_stays():
    logps = torch.tensor([[0.9, 0.06, 0.04], [1 / 3, 1 / 3, 1 / 3]]).log()
    for keep in (keep_top_k(logps, 1), keep_top_p(logps, 1e-9), keep_min_p(logps, 1.0)):
        assert keep[0].tolist() == [True, False, False]
        assert keep[1].any()


def test_log_probs_are_those_of_the_untruncated_distribution():
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    tokens, logps = draw(logits, torch.full((6,), 0.3).double(), sampling(temperature=0.7, top_k=3, top_p=0.5))
    assert torch.equal(logps, (logits / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    tokens, logps = draw(logits, torch.full((6,), 0.3).double(), sampling(temperature=0))
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(logps, logits.log_softmax(-1).amax(-1))


@given(st.integers(0, 1000), st.sampled_from([1, 7, 511, 512, 513, 2000]))
@settings(max_examples=60, deadline=None)
def test_blocks_draw_what_a_flat_cdf_draws(seed: int, vocabulary: int):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(16, vocabulary, generator=generator).exp()
    weights[:, 1::3] = 0
    u = torch.rand(16, generator=generator, dtype=torch.float64)
    cdf = weights.double().cumsum(-1)
    expected = torch.searchsorted(cdf, u[:, None] * cdf[:, -1:], right=True)[:, 0]
    assert torch.equal(inverse_cdf(weights, u), expected)


@given(st.integers(0, 1000), st.sampled_from([2, 600, 3000]))
@settings(max_examples=60, deadline=None)
def test_no_uniform_draws_a_token_of_probability_zero(seed: int, vocabulary: int):
    """0 and the largest number below 1 included, with one positive token anywhere."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(3, vocabulary)
    places = torch.randint(vocabulary, (3, 1), generator=generator)
    weights.scatter_(1, places, torch.tensor([[1e-30], [0.1], [3.0]]))
    u = torch.tensor([0.0, 1 - 2.0**-53, torch.rand((), generator=generator).item()], dtype=torch.float64)
    for uniform in u:
        assert torch.equal(inverse_cdf(weights, uniform.expand(3)), places[:, 0])


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"min_p": 2.0}, {"stop": ("",)}],
    ids=str,
)
def test_a_value_out_of_range_is_named(wrong: dict):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        sampling(**wrong)

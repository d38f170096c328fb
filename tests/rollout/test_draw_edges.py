"""Draws exactly on their thresholds, and what a sampler computes for its prompts."""

import pytest
import torch
from torch import Tensor

from rung.errors import ConfigError
from rung.models.stops import stop_ids
from rung.rollout.cache import branch, new_cache
from rung.rollout.draw import draw, inverse_cdf, keep_min_p, keep_top_k, keep_top_p, truncate
from rung.rollout.philox import Key, philox4x32, uniforms
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling
from rung.tiny.models import build


def logps(*shares: float) -> Tensor:
    return torch.tensor([shares], dtype=torch.float64).log()


def kept(mask: Tensor) -> list[int]:
    return mask[0].nonzero()[:, 0].tolist()


def test_ties_with_the_last_of_the_likeliest_stay() -> None:
    assert kept(keep_top_k(logps(0.25, 0.25, 0.25, 0.25), 1)) == [0, 1, 2, 3]
    assert kept(keep_top_k(logps(0.5, 0.25, 0.25), 2)) == [0, 1, 2]
    assert kept(keep_top_k(logps(0.5, 0.25, 0.25), 1)) == [0]
    assert kept(keep_top_k(logps(0.5, 0.5), 9)) == [0, 1]


def test_the_token_that_reaches_the_mass_is_the_last() -> None:
    """.5 + .25 reach .75, and .76 needs one more; of what is left after other cuts the shares are taken anew."""
    assert kept(keep_top_p(logps(0.25, 0.5, 0.125, 0.125), 0.75)) == [0, 1]
    assert kept(keep_top_p(logps(0.25, 0.5, 0.15, 0.1), 0.76)) == [0, 1, 2]
    assert kept(keep_top_p(logps(0.25, 0.5, 0.15, 0.1), 0.5)) == [1]
    assert kept(keep_top_p(logps(0.25, 0.5, 0.15, 0.1), 1.0)) == [0, 1, 2, 3]
    assert kept(keep_top_p(logps(0.125, 0.25, 0.0), 0.6)) == [1]
    assert kept(keep_top_p(logps(0.125, 0.25, 0.0), 0.7)) == [0, 1]


def test_a_flat_distribution_wider_than_a_block_is_sorted_whole() -> None:
    """600 tokens, of which the first 512 hold 85 %; 90 % need 540, and ties keep all of them."""
    shares = torch.arange(600, 0, -1, dtype=torch.float64)
    shares = shares / shares.sum()
    found = keep_top_p(shares.log()[None], 0.9999)
    held = shares.cumsum(0)
    assert int(found.sum()) == int((held < 0.9999).sum()) + 1 > 512
    assert kept(keep_top_p(torch.zeros(1, 600), 0.1)) == list(range(600))


def test_a_token_exactly_at_its_share_of_the_likeliest_stays() -> None:
    assert kept(keep_min_p(logps(0.5, 0.25, 0.25), 0.5)) == [0, 1, 2]
    assert kept(keep_min_p(logps(0.5, 0.26, 0.24), 0.5)) == [0, 1]
    assert kept(keep_min_p(logps(0.5, 0.25, 0.25), 1.0)) == [0]
    assert kept(keep_min_p(logps(0.5, 0.5), 0.0)) == [0, 1]


def test_cuts_are_made_in_their_order() -> None:
    """Top 2 leave .4 and .3: .4 is .57 of them, so that .6 needs both; of all five .4 and .3 hold .7."""
    found = truncate(logps(0.4, 0.3, 0.15, 0.1, 0.05), top_k=2, top_p=0.6, min_p=0.8)
    assert found.exp()[0].tolist() == pytest.approx([0.4, 0, 0, 0, 0])
    found = truncate(logps(0.4, 0.3, 0.15, 0.1, 0.05), top_k=2, top_p=0.6, min_p=0.7)
    assert found.exp()[0].tolist() == pytest.approx([0.4, 0.3, 0, 0, 0])
    same = logps(0.4, 0.6)
    assert truncate(same, top_k=0, top_p=1.0, min_p=0.0) is same


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.249, 1), (0.25, 3), (0.499, 3), (0.5, 4), (0.999999, 4)])
def test_a_uniform_on_an_edge_belongs_to_the_next_token(uniform: float, token: int) -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 1.0, 2.0, 0.0]])
    assert inverse_cdf(weights, torch.tensor([uniform], dtype=torch.float64)).item() == token


@pytest.mark.parametrize(("vocabulary", "token"), [(512, 511), (513, 512), (1024, 600), (1025, 1024), (1500, 1100)])
def test_a_token_is_found_in_any_block(vocabulary: int, token: int) -> None:
    weights = torch.zeros(2, vocabulary)
    weights[0, token] = 3.0
    weights[1, [0, token]] = torch.tensor([1.0, 3.0])
    found = inverse_cdf(weights, torch.tensor([0.7, 0.25], dtype=torch.float64))
    assert found.tolist() == [token, token]
    assert inverse_cdf(weights, torch.tensor([0.0, 0.2], dtype=torch.float64)).tolist() == [token, 0]


def test_log_probs_are_at_the_temperature_and_at_1_where_greedy() -> None:
    """Shares 2 : 1 at temperature .5 are 4 : 1."""
    half = torch.tensor([0.5], dtype=torch.float64)
    logits = logps(2 / 3, 1 / 3).float()
    token, logp = draw(logits, half, Sampling(max_completion_length=1, temperature=0.5))
    assert (token.item(), logp.exp().item()) == (0, pytest.approx(0.8))
    token, logp = draw(logits, half * 1.9, Sampling(max_completion_length=1, temperature=0.0))
    assert (token.item(), logp.exp().item()) == (0, pytest.approx(2 / 3))
    token, logp = draw(logits, half * 1.9, Sampling(max_completion_length=1, top_k=1))
    assert (token.item(), logp.exp().item()) == (0, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}],
)
def test_only_the_whole_distribution_is_untruncated(settings: dict) -> None:
    assert not Sampling(max_completion_length=1, **settings).untruncated
    assert Sampling(max_completion_length=1, temperature=0.3).untruncated


@pytest.mark.parametrize(
    "settings",
    [
        {"max_completion_length": 0},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"stop": ("a", "")},
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"`{name}`"):
        Sampling(**{"max_completion_length": 1, **settings})
    Sampling(max_completion_length=1, temperature=0.0, top_p=1.0, top_k=0, min_p=1.0)


def test_a_uniform_is_made_of_its_counter_and_key() -> None:
    import numpy as np

    key = Key(3, "s", "rollout")
    visit = 2**33 + 5
    found = uniforms(key, torch.tensor([visit]), torch.tensor([7]), 9, 2)
    for i in range(2):
        a, b, *_ = philox4x32(np.array([visit & 0xFFFFFFFF, visit >> 32, 7, 9 + i], np.uint64), key.words())
        assert found[0, i].item() == ((int(a) >> 5) * 2**26 + (int(b) >> 6)) / 2**53
    assert len({Key(*name).words() for name in ((0, "a", "b"), (1, "a", "b"), (0, "b", "b"), (0, "a", "c"))}) == 4
    with pytest.raises(AssertionError, match="visits must not be negative"):
        uniforms(key, torch.tensor([-1]), torch.tensor([0]), 0, 1)
    with pytest.raises(AssertionError, match="samples must not be negative"):
        uniforms(key, torch.tensor([0]), torch.tensor([-1]), 0, 1)


def test_a_cache_doubles_where_it_is_full_and_keeps_what_it_held() -> None:
    model = build("llama")[0]
    cache, seen, buffers = new_cache(model.config), [], set()
    for step in range(9):
        keys = torch.full((1, 2, 1, 8), float(step))
        held, values = cache.update(keys, -keys, 0)
        seen.append(held[0, 0, :, 0].tolist())
        assert torch.equal(values, -held)
        buffers.add(held.untyped_storage().data_ptr())
    assert seen == [[float(i) for i in range(n + 1)] for n in range(9)]
    assert len(buffers) == 3  # 2 places, then 6, then 14
    assert cache.get_seq_length() == 9


def test_a_branch_has_the_rows_asked_for_and_the_origin_its_own() -> None:
    model = build("llama")[0]
    cache = new_cache(model.config)
    rows = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 2, 1, 8).contiguous()
    for layer in range(2):
        cache.update(rows, rows, layer)
    part = branch(cache, torch.tensor([1, 0, 1]))
    held, _ = part.update(torch.full((3, 2, 1, 8), 9.0), torch.full((3, 2, 1, 8), 9.0), 0)
    assert held[:, 0, :, 0].tolist() == [[1, 9], [0, 9], [1, 9]]
    assert (cache.get_seq_length(), part.get_seq_length()) == (1, 2)


def counters(prompts: list[tuple[int, ...]], k: int, limit: int, **settings: int) -> tuple[int, int, int]:
    """Prompts computed, positions and decode calls of greedy completions that no token ends."""
    model, tokenizer = build("llama")
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    sampler = LocalSampler(model, tokenizer, **settings)  # type: ignore[arg-type]
    greedy = Sampling(max_completion_length=limit, temperature=0.0)
    sampler.sample(prompts, k, visits=range(len(prompts)), key=Key(0, "s", "p"), sampling=greedy)
    return sampler.prefills, sampler.positions, sampler.decode_calls


THREE = [(7, 8, 9), (7, 8, 10), (7, 8, 11)]


@pytest.mark.parametrize(
    ("k", "limit", "settings", "expected"),
    [
        (1, 1, {}, (3, 9, 0)),
        (2, 3, {}, (3, 9 + 6 * 2, 2)),
        (1, 2, {"prefill_tokens": 6}, (3, 9 + 3, 2)),  # blocks of two prompts and of one
        (1, 2, {"prefill_tokens": 5}, (3, 9 + 3, 3)),
        (1, 2, {"prefill_tokens": 9}, (3, 9 + 3, 1)),
        (2, 2, {"max_rows": 6}, (3, 9 + 6, 1)),
        (2, 2, {"max_rows": 5}, (3, 9 + 6, 2)),  # blocks of two prompts, four rows, and of one
        (2, 2, {"max_rows": 3}, (3, 9 + 6, 3)),
        (5, 2, {"max_rows": 2}, (3, 9 + 15, 9)),  # a prompt has three waves
    ],
)
def test_prompts_are_computed_in_blocks_and_rows_in_waves(
    k: int, limit: int, settings: dict[str, int], expected: tuple[int, int, int]
) -> None:
    assert counters(THREE, k, limit, **settings) == expected


def test_equal_prompts_are_computed_once_and_count_their_rows() -> None:
    assert counters([(7, 8)] * 3, 1, 2) == (1, 2 + 3, 1)
    assert counters([(7, 8)] * 3 + [(7, 9)], 1, 2, max_rows=3) == (2, 4 + 4, 2)
    assert counters([(7,), (7, 8, 9)], 1, 1) == (2, 6, 0)


@pytest.mark.parametrize(("length", "limit", "fits"), [(500, 12, True), (501, 12, False), (500, 13, False)])
def test_a_prompt_and_its_answer_may_fill_the_positions(length: int, limit: int, fits: bool) -> None:
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    settings = Sampling(max_completion_length=limit, temperature=0.0)
    prompts = [(7,), (8,) * length]

    def sample() -> int:
        return len(sampler.sample(prompts, 1, visits=[0, 1], key=Key(0, "s", "p"), sampling=settings))

    if fits:
        assert sample() == 2
    else:
        with pytest.raises(ConfigError, match=f"prompt 1: {length} tokens and `max_completion_length` {limit}"):
            sample()
    with pytest.raises(ConfigError, match="prompt 0 has no token"):
        sampler.sample([()], 1, visits=[0], key=Key(0, "s", "p"), sampling=settings)


def test_a_completion_ends_with_the_tokenizers_or_the_models_ends() -> None:
    model, tokenizer = build("llama")
    for configured, ends in ((None, (1,)), (5, (1, 5)), ([5, 1, 3], (1, 3, 5))):
        model.generation_config.eos_token_id = configured  # type: ignore[union-attr]
        assert stop_ids(model, tokenizer) == ends


def test_log_probs_serve_in_training_where_the_dtype_is_its_own() -> None:
    model, tokenizer = build("llama")
    whole = Sampling(max_completion_length=1)
    assert LocalSampler(model, tokenizer).exact(whole)
    assert not LocalSampler(model, tokenizer).exact(Sampling(max_completion_length=1, top_k=2))
    mixed = LocalSampler(model, tokenizer, training_dtype=torch.bfloat16)
    assert not mixed.exact(whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert mixed.exact(whole)

"""Advantages by token: the shipped example, and that every loss of the family takes what `credit` made of a rollout."""

import importlib.util
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.batches import random_batch
from helpers.group_relative import FAMILY
from helpers.losses import batch_and_logps, ours
from helpers.repository import ROOT
from rung.algorithms.gspo import GSPOToken
from rung.batch import Batch
from rung.config.algorithms import make_algorithm

EXAMPLE = ROOT / "examples" / "tokens.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_tokens", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def advantages(algorithm: GSPOToken, batch: Batch) -> torch.Tensor:
    found = algorithm.credit(batch, {})[0].advantages
    assert found is not None
    return found


@pytest.mark.maths
def test_the_example_fades_from_the_end_over_trained_tokens(example: ModuleType) -> None:
    """R = [1, 0]: A = +-.5 / (.707107 + 1e-4) = +-.707007. Discount .5: a quarter, a half, all of it.

    A tool's token in between gets nothing and is not counted.
    """
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(2, 2), length=(4, 4))
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    batch = replace(batch, loss_mask=mask, rewards=torch.tensor([1.0, 0.0]))
    expected = 0.707007 * torch.tensor([[0.25, 0.5, 0, 1], [-1, 0, 0, 0]])
    torch.testing.assert_close(advantages(example.Discounted(discount=0.5), batch), expected, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_without_a_discount_the_example_is_gspo_token(example: ModuleType, seed: int) -> None:
    batch, _ = batch_and_logps(seed, None, torch.float64)
    torch.testing.assert_close(advantages(example.Discounted(discount=1), batch), advantages(GSPOToken(), batch))


def test_the_example_is_named_by_its_path_and_its_settings_are_checked() -> None:
    made = make_algorithm({"name": f"{EXAMPLE}:Discounted", "discount": 0.8})
    assert made.model_dump()["discount"] == 0.8
    assert type(made).name == "discounted"


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in ("gspo", "luspo", "rloo", "gmpo")])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_each_token_is_moved_by_its_own_advantage(name: str, seed: int) -> None:
    """On the weights that sampled, the gradient of a token is - its own advantage over what its row's share is."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = batch_and_logps(seed, None, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    mine = torch.randn(logps.shape, generator=generator, dtype=torch.float64) * batch.loss_mask
    batch = replace(batch, old_logps=logps)
    _, gradient = ours(algorithm, replace(batch, advantages=mine), logps)
    _, unit = ours(algorithm, replace(batch, advantages=torch.ones_like(mine) * batch.loss_mask), logps)
    torch.testing.assert_close(gradient, mine * unit)


@pytest.mark.parametrize("name", ["gspo", "rloo"])
def test_one_ratio_of_a_row_shares_the_mean_of_its_advantages(name: str) -> None:
    """What `gspo_token` is for: with a single ratio, the tokens of a row cannot be moved apart."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = batch_and_logps(3, None, torch.float64)
    mine = torch.randn(logps.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mine = mine * batch.loss_mask
    _, gradient = ours(algorithm, replace(batch, old_logps=logps, advantages=mine), logps)
    for row in range(batch.num_rows):
        assert gradient[row][batch.loss_mask[row]].unique().numel() == 1

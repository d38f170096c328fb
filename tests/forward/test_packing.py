"""Several prompts in one row: each document as if alone, whatever lies beside it, and only where that costs less."""

from dataclasses import replace

import pytest
import torch

import rung
from helpers.batches import random_batch, with_random_weights
from helpers.policies import WeightedSum, gradient, relative_error, tiny_policy
from rung.batch import Batch, concat
from rung.forward.planner import Block, Cost, Layout, Part, plan
from rung.forward.policy import Policy

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3")
SHAPES_EACH = 12
LAYOUTS: tuple[Layout, ...] = ("plain", "shared", "masked")
TOY = Cost.of(2_800_000, 256, 4)


def in_packs(policy: Policy, packs: torch.Tensor) -> Policy:
    """The policy, made to put row i into packed row `packs[i]`, all in one call."""
    part = Part(tuple(range(len(packs))), tuple(packs.tolist()))
    policy.plan = lambda batch, unit: (Block("masked", (part,)),)  # type: ignore[method-assign]
    return policy


def unpacked(policy: Policy) -> Policy:
    """The policy with a row for each completion: the oracle."""
    policy.layouts = lambda: ("plain",)  # type: ignore[method-assign]
    return policy


def outputs(policy: Policy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (N, T), and the gradient of a loss that touches log-probs, entropies, values and verdicts."""
    algorithm, one = WeightedSum(), torch.tensor(1.0, dtype=torch.float64)
    for part, seen in policy.parts(batch, algorithm):
        algorithm.loss(part, seen).over({"all": one}).backward()
    return policy.logps(batch), gradient(policy)


def packed(blocks: tuple[Block, ...]) -> bool:
    """Whether a packed row of the plan holds several rows."""
    return any(len(set(part.packs)) < len(part.packs) for block in blocks for part in block.parts)


def documents(generator: torch.Generator, lengths: list[int]) -> Batch:
    """Raw text: a prompt of one token each, the rest of it as the completion, all trained."""
    pieces = [
        random_batch(generator, prompts=1, rows=(1, 1), prompt_length=(1, 1), length=(length - 1, length - 1))
        for length in lengths
    ]
    batch = concat(pieces)
    return with_random_weights(replace(batch, loss_mask=batch.completion_mask), generator)


def uneven(generator: torch.Generator, count: int = 48) -> list[int]:
    """Lengths like those of short documents: log-normal around 40 tokens, from 4 to 256."""
    drawn = torch.exp(3.7 + 0.9 * torch.randn(count, generator=generator))
    return drawn.clamp(4, 256).int().tolist()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_packed_at_random_are_as_if_alone(family: str, lora: bool) -> None:
    """Whatever shares a row: several prompts, a prompt twice, rows without a token, longer than the sliding window."""
    generator = torch.Generator().manual_seed(sum(map(ord, family)) + lora)
    alone, joined = (tiny_policy(family, lora=lora, heads=True) for _ in range(2))
    unpacked(alone)
    for number in range(SHAPES_EACH):
        shape = {"prompts": 2 + number % 5, "rows": (1, 4), "prompt_length": (1, 20), "length": (0, 20)}
        batch = with_random_weights(random_batch(generator, **shape), generator)  # type: ignore[arg-type]
        packs = torch.randint(0, 1 + number % 4, (batch.num_rows,), generator=generator).unique(return_inverse=True)[1]
        found = []
        for policy in (alone, in_packs(joined, packs)):
            for parameter in policy.parameters:
                parameter.grad = None
            found.append(outputs(policy, batch))
        (expected, wanted), (logps, grads) = found
        assert (logps - expected).abs().max() < 1e-5, number
        assert relative_error(grads, wanted) < 1e-5, number


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_does_not_see_what_lies_beside_it(family: str) -> None:
    """Other tokens in one document leave the log-probs and the gradients of all others as they were, to the bit."""
    generator = torch.Generator().manual_seed(3)
    batch = with_random_weights(
        random_batch(generator, prompts=5, rows=(1, 3), prompt_length=(1, 12), length=(1, 20)), generator
    )
    packs = torch.zeros(batch.num_rows, dtype=torch.long)
    for prompt in range(batch.num_prompts):
        own = batch.prompt_of == prompt
        weights = batch.loss_mask & ~own[:, None]
        before = replace(batch, loss_mask=weights)
        after = replace(
            before,
            prompt_ids=torch.where(torch.arange(batch.num_prompts)[:, None] == prompt, 7, batch.prompt_ids),
            completion_ids=torch.where(own[:, None] & batch.completion_mask, 8, batch.completion_ids),
        )
        (logps, grads), (others, found) = (
            outputs(in_packs(tiny_policy(family), packs), each) for each in (before, after)
        )
        assert torch.equal(others, logps)
        assert torch.equal(found, grads)


def test_positions_that_restart_do_not_stand_in_for_the_mask() -> None:
    """Without a mask transformers parts documents where positions restart, and a second answer loses its prompt."""
    policy = tiny_policy("llama")
    batch = random_batch(torch.Generator().manual_seed(5), prompts=1, rows=(2, 2), prompt_length=(6, 6), length=(6, 6))
    batch = replace(batch, loss_mask=batch.completion_mask)
    ids = torch.cat([batch.prompt_ids.flatten(), batch.completion_ids.flatten()])
    positions = torch.cat([torch.arange(12), torch.arange(6, 12)])
    with torch.no_grad():
        logits = policy.model(input_ids=ids[None], position_ids=positions[None]).logits[0, 12:17]
    guessed = logits.log_softmax(-1).gather(1, ids[13:, None])[:, 0]
    expected = unpacked(tiny_policy("llama")).logps(batch)
    assert (guessed - expected[1, 1:]).abs().max() > 1e-3
    found = in_packs(tiny_policy("llama"), torch.tensor([0, 0])).logps(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_short_documents_of_uneven_lengths_are_packed_and_padding_is_gone() -> None:
    """Positions within 5 % of the tokens there are, in fewer calls than documents sorted by length take."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        lengths = uneven(generator)
        batch = documents(generator, lengths)
        counted = []
        for layouts in (("plain",), LAYOUTS):
            policy = tiny_policy("qwen3")
            policy.layouts = lambda layouts=layouts: layouts  # type: ignore[method-assign]
            for _ in policy.parts(batch, WeightedSum()):
                pass
            counted.append(policy.work)
        alone, joined = counted
        assert joined.positions <= 1.05 * sum(lengths) < alone.positions
        assert joined.calls < alone.calls
        assert joined.head_rows == alone.head_rows == sum(lengths) - len(lengths)


@pytest.mark.parametrize("lengths", [[96] * 24, [700, 800, 900, 1000], [512]], ids=["equal", "long", "one"])
def test_documents_that_packing_does_not_help_stay_plain(lengths: list[int]) -> None:
    batch = documents(torch.Generator().manual_seed(1), lengths)
    blocks = plan(batch, unit="row", layouts=LAYOUTS, cost=TOY, token_budget=8192)
    assert {block.layout for block in blocks} == {"plain"}


def test_long_documents_beside_short_ones_go_plainly() -> None:
    """The square of a long row is not paid for the sake of short ones."""
    lengths = [1500, *uneven(torch.Generator().manual_seed(2), 24)]
    batch = documents(torch.Generator().manual_seed(2), lengths)
    blocks = plan(batch, unit="row", layouts=LAYOUTS, cost=TOY, token_budget=8192)
    where = {row: block.layout for block in blocks for part in block.parts for row in part.rows}
    assert where[0] == "plain"
    assert list(where.values()).count("masked") > 20


def test_budget_and_order_change_nothing_of_packed_text() -> None:
    generator = torch.Generator().manual_seed(4)
    batch = documents(generator, uneven(generator, 24))
    turned = concat([batch.select(batch.prompt_of == prompt) for prompt in reversed(range(batch.num_prompts))])
    wanted = outputs(unpacked(tiny_policy("gpt2")), batch)[1]
    for each in (batch, turned):
        for budget in (64, 300, 10_000):
            policy = tiny_policy("gpt2")
            policy.token_budget = budget
            assert packed(policy.plan(each, "row"))
            assert relative_error(outputs(policy, each)[1], wanted) < 1e-6


@pytest.mark.parametrize("model", ["tiny:qwen3", "tiny:base"])
def test_a_stage_on_raw_text_packs_it(model: str) -> None:
    """From rows of `text` and a batch size in tokens to packed rows."""
    rows = [{"text": f"{7**i} is seven to the power of {i}. " * (1 + i % 5)} for i in range(24)]
    stage = rung.train("sft", model=model, data=rows, batch_size={"tokens": 1500}, max_steps=1)
    batch = next(iter(stage.source))
    assert packed(stage.policy.plan(batch, "row"))
    for _ in stage.policy.parts(batch, stage.algorithm):
        pass
    tokens = int(batch.lengths.sum()) + batch.num_rows
    assert tokens >= 1500
    assert stage.policy.work.positions <= 1.1 * tokens

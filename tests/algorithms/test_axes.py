"""What the group-relative family leaves out, pays for and adds up: by hand, as properties and with a model."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.group_relative import by_logp_and_entropy
from helpers.losses import batch_and_logps
from helpers.policies import tiny_policy
from rung.algorithms.dapo import DAPO
from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.group_relative import high_entropy
from rung.batch import Batch, Outputs, count_denominators
from rung.config.algorithms import algorithm_classes
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.maths.advantages import scale_over_batch, standardised_sum
from rung.maths.policy_losses import off_policy_mask, top_share_mask
from rung.maths.tensors import entropy_detached
from rung.metrics import values
from rung.models.load import load_model
from rung.reward import RewardSet
from rung.reward.outcome import Outcome
from rung.reward.scores import Scores
from rung.rollout.generate import Generator, separate_rewards
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler
from rung.rollout.source import RolloutSource
from rung.sampling import Sampling

NAN = float("nan")
FEW = settings(max_examples=30, deadline=None)


def tokens(old: list[list[float]], advantages: list[float], **extras: torch.Tensor) -> Batch:
    """Rows of three trained tokens of one prompt."""
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(len(old), len(old)), length=(3, 3))
    told = torch.tensor(old, dtype=torch.float64)
    spread = torch.tensor(advantages, dtype=torch.float64)[:, None].expand_as(told)
    batch = replace(batch, loss_mask=batch.completion_mask, old_logps=told, advantages=spread)
    return batch.replace_extras(**extras)


@pytest.mark.maths
def test_a_bonus_and_the_tokens_of_highest_entropy_by_hand(certify: Certify) -> None:
    """At ratio 1, A = 2 and -1, six tokens; the highest entropies are 3 of row 0 and 2, 1.5 of row 1: .4 x 5 + 1 = 3.

    Objective: (-2 / 3 + 2 x 1 / 3) / 2 = 0. Bonus: .5 x (3 + 2 + 1.5) / 3. Slopes: by log-prob - A / (2 x 3) where a
    token counts, by entropy - .5 / 3.
    """
    entropies = torch.tensor([[3.0, 1.0, 0.5], [2.0, 0.1, 1.5]], dtype=torch.float64)
    algorithm = GRPO(beta=0, top_entropy_quantile=0.4, entropy_coef=0.5)
    batch = tokens([[-1.0] * 3] * 2, [2.0, -1.0])
    counted = top_share_mask(entropies, batch.loss_mask, 0.4)
    assert counted.tolist() == [[True, False, False], [True, False, True]]
    batch = batch.replace_extras(high_entropy=counted)
    assert batch.old_logps is not None
    loss, slopes = by_logp_and_entropy(algorithm, batch, torch.stack([batch.old_logps, entropies]))
    assert float(loss) == pytest.approx(-0.5 * 6.5 / 3)
    wanted = torch.tensor(
        [[[-1 / 3, 0, 0], [1 / 6, 0, 1 / 6]], [[-1 / 6, 0, 0], [-1 / 6, 0, -1 / 6]]], dtype=torch.float64
    )
    torch.testing.assert_close(slopes, wanted)
    certify("grpo", "golden", [loss, slopes], [-0.5 * 6.5 / 3, wanted])


@pytest.mark.maths
def test_a_step_without_a_token_of_high_entropy_has_no_bonus_and_is_no_error() -> None:
    algorithm = GRPO(beta=0, top_entropy_quantile=0.4, entropy_coef=0.5)
    batch = tokens([[-1.0] * 3], [2.0], high_entropy=torch.zeros(1, 3).bool())
    assert batch.old_logps is not None
    loss, slopes = by_logp_and_entropy(algorithm, batch, torch.stack([batch.old_logps, batch.old_logps]).float())
    assert float(loss) == 0
    assert not slopes.any()
    assert float(count_denominators(algorithm.terms(), batch)["entropy"]) > 0
    whole = batch.replace_extras(high_entropy=batch.loss_mask)
    assert float(count_denominators(algorithm.terms(), whole)["entropy"]) == 3


@pytest.mark.maths
def test_a_completion_that_has_drifted_is_left_out_where_it_was_bad(certify: Certify) -> None:
    """Sampled - now, a token: .6, 0, 0 (mean .2); -.6, 0, 0; .6, NaN, 0 (mean .2, NaN is 0). Threshold .2, then .19.

    A < 0 and a mean above the threshold are left out; at the threshold, unlikelier tokens or A >= 0 are not.
    """
    old = torch.zeros(4, 3, dtype=torch.float64)
    logps = old.clone()
    logps[:, 0] = torch.tensor([-0.6, 0.6, -0.6, -0.6], dtype=torch.float64)
    sampled = old.clone()
    sampled[2, 1] = NAN
    advantages = torch.tensor([-1.0, -1.0, -1.0, 0.0], dtype=torch.float64)[:, None].expand_as(old)
    mask = torch.ones(4, 3).bool()
    assert off_policy_mask(logps, sampled, advantages, mask, 0.2).all()
    assert off_policy_mask(logps, sampled, advantages, mask, 0.19)[:, 0].tolist() == [False, True, False, True]

    algorithm = GRPO(beta=0, off_policy_mask_threshold=0.19)
    batch = tokens(old.tolist(), [-1.0, -1.0, -1.0, 0.0], sampled_logps=sampled)
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(old)})
    loss = algorithm.loss(batch, outputs)
    ratio = 2.718281828459045**0.6
    wanted = (ratio + 2) / 3  # of the second row alone; all four are in the denominator
    assert float(loss.terms["policy"]) == pytest.approx(wanted)
    assert float(loss.over(count_denominators(algorithm.terms(), batch))) == pytest.approx(wanted / 4)
    assert values(loss.metrics)["off_policy_mask/dropped_mean"] == pytest.approx(0.5)
    certify("grpo", "golden", loss.terms["policy"], wanted)


@pytest.mark.maths
def test_drift_is_measured_from_the_sampler_where_it_is_another_and_else_from_the_old_policy() -> None:
    algorithm = GRPO(beta=0, off_policy_mask_threshold=0.1)
    batch = tokens([[0.0] * 3], [-1.0])
    assert batch.old_logps is not None
    both = torch.stack([batch.old_logps, batch.old_logps])
    assert by_logp_and_entropy(algorithm, batch, both)[1].any()
    other = batch.replace_extras(sampled_logps=batch.old_logps + 0.2)
    assert not by_logp_and_entropy(algorithm, other, both)[1].any()


@pytest.mark.maths
def test_rewards_by_themselves_by_hand(certify: Certify) -> None:
    """a = [1, 0, 0, 1] is +-.865875, b = [.2, .4, .6, .8] is +-1.161443, +-.387148; a + b / 2 over its std.

    .285154, -1.059449, -.672301, 1.446596 over 1.117895: the order of a alone would call the second and third alike.
    """
    columns = torch.tensor([[1, 0.2], [0, 0.4], [0, 0.6], [1, 0.8]], dtype=torch.float64)
    group, weights = torch.zeros(4, dtype=torch.long), torch.tensor([1, 0.5], dtype=torch.float64)
    wanted = torch.tensor([0.255081, -0.947720, -0.601401, 1.294040], dtype=torch.float64)
    found = scale_over_batch(standardised_sum(columns, weights, group))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    certify("grpo", "golden", found, wanted)


@pytest.mark.maths
def test_a_reward_that_abstains_adds_nothing_and_a_row_without_any_is_unscored() -> None:
    """Groups of two: [(NaN, 1), (1, 1)] agree in all that is known and give 0; a row of NaN leaves its group."""
    columns = torch.tensor([[NAN, 1.0], [1.0, 1.0], [NAN, NAN], [0.0, 2.0], [1.0, 2.0]])
    found = standardised_sum(columns, torch.ones(2), torch.tensor([0, 0, 1, 1, 1]))
    assert found[:2].tolist() == [0, 0]
    assert found[2].isnan()
    assert found[3:].tolist() == [pytest.approx(-0.707007), pytest.approx(0.707007)]
    assert scale_over_batch(found)[:3].tolist() == [0, 0, 0]


@FEW
@given(seed=st.integers(0, 2**31), share=st.floats(0.01, 1), digits=st.integers(0, 3))
def test_the_highest_share_is_what_torch_takes_for_the_quantile(seed: int, share: float, digits: int) -> None:
    """Where the quantile falls between two values, or on one; equal values go together."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(5, 7, generator=generator) < 0.7
    mask[0, 0] = True
    found = (3 * torch.rand(5, 7, generator=generator, dtype=torch.float64)).round(decimals=digits)
    threshold = found[mask].quantile(1 - share)
    place = share * (int(mask.sum()) - 1)
    if abs(place - round(place)) < 1e-5:
        threshold = threshold - 1e-9  # there torch interpolates by a rounding error
    assert torch.equal(top_share_mask(found, mask, share), mask & (found >= threshold))
    assert not top_share_mask(found, torch.zeros_like(mask), share).any()


@pytest.mark.parametrize("share", [0.29, 0.7, 0.1])
def test_a_share_of_whole_tokens_is_not_lost_to_rounding(share: float) -> None:
    """Of 101 different values 1 + 100 x share."""
    found = torch.arange(101.0)[None]
    assert int(top_share_mask(found, torch.ones_like(found).bool(), share).sum()) == 1 + round(100 * share)


def test_the_share_is_of_scored_rows_that_are_trained() -> None:
    """Tokens of an unscored row and of one that was cut off take no place among the highest."""
    batch, _ = batch_and_logps(0, None, torch.float64)
    assert batch.rewards is not None
    rewards = batch.rewards.index_fill(0, torch.tensor([0]), NAN)
    cut = torch.arange(batch.num_rows) == 1
    entropies = torch.rand(batch.loss_mask.shape, dtype=torch.float64)
    entropies[:2] = 9
    batch = replace(batch, rewards=rewards, truncated=cut).replace_extras(entropies=entropies)
    algorithm = GRPO(beta=0, top_entropy_quantile=0.5, mask_truncated_completions=True)
    counted = high_entropy(algorithm.credit(batch, {})[0])
    assert not counted[:2].any()
    assert int(counted.sum()) == 1 + (int(batch.loss_mask[2:].sum()) - 1) // 2


def test_rows_without_an_advantage_are_computed_where_their_entropy_is_paid_for() -> None:
    batch, _ = batch_and_logps(0, None, torch.float64)
    batch = replace(batch, rewards=torch.ones(batch.num_rows, dtype=torch.float64))
    for algorithm, computed in ((GRPO(beta=0), False), (GRPO(beta=0, entropy_coef=0.1), True)):
        assert algorithm.active_rows(algorithm.credit(batch, {})[0]).any() == computed


def test_entropies_are_those_of_the_policy_that_sampled_and_are_made_once() -> None:
    policy = tiny_policy("llama")
    batch = random_batch(torch.Generator().manual_seed(0))
    batch = replace(batch, old_logps=policy.logps(batch))
    assert "entropies" not in GRPO(beta=0).prepare(batch, policy).extras
    algorithm = GRPO(beta=0, top_entropy_quantile=0.2)
    prepared = algorithm.prepare(batch, policy)
    found = prepared.extras["entropies"]
    assert not found[~batch.loss_mask].any()
    for row in range(batch.num_rows):
        part = batch.select(torch.tensor([row]))
        exact = policy.readout(part, entropy_detached)
        torch.testing.assert_close(found[row, : exact.shape[1]], exact[0], atol=1e-5, rtol=0)
    calls = policy.work.calls
    algorithm.prepare(prepared, policy)
    assert policy.work.calls == calls


def digits(completions: list[str], **_: Any) -> list[float]:
    """The share of digits."""
    return [sum(letter.isdigit() for letter in text) / max(len(text), 1) for text in completions]


def short(completions: list[str], **_: Any) -> list[float | None]:
    """Few letters; nothing is said of an empty text."""
    return [1 / len(text) if text else None for text in completions]


def test_each_credited_reward_of_a_rollout_is_held_against_its_group() -> None:
    """A reward, a shaping one and one that abstains, by their weights; a metric is none of them."""
    model, tokenizer = load_model("tiny:llama")
    examples, report = load_examples([{"prompt": f"number {i}"} for i in range(3)])
    shaping = {"name": "length", "weight": -0.5, "args": {"max_length": 9}}
    judges = [digits, short, shaping, {"name": "output_tokens"}]
    generator = Generator(
        sampler=LocalSampler(model, tokenizer),
        sampling=Sampling(max_completion_length=5),
        key=Key(seed=0, stage="apart", purpose="rollout"),
        samples=4,
        rewards=RewardSet(judges),
        tokenizer=tokenizer,
        keeps_separate_rewards=True,
    )
    prompts = encode(examples, tokenizer, max_prompt_length=64, max_length=None, report=report)
    made = generator(prompts, [0, 1, 2], 0)
    told = [[row["rewards"][label] for label in ("digits", "short", "length")] for row in made.table]
    columns = torch.tensor([[NAN if value is None else value for value in row] for row in told])
    assert made.batch.reward_weights == {"digits": 1.0, "short": 1.0, "length": -0.5}
    for label, column in zip(("digits", "short", "length"), columns.unbind(1), strict=True):
        torch.testing.assert_close(made.batch.separate_rewards[label], column, equal_nan=True)
    wanted = scale_over_batch(standardised_sum(columns, torch.tensor([1.0, 1.0, -0.5]), made.batch.group_of))
    credited, _ = GRPO(num_generations=4, multi_objective_aggregation="normalize_then_sum").credit(made.batch, {})
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages[:, 0], wanted * made.batch.loss_mask[:, 0])
    assert wanted.any()
    assert not replace(generator, keeps_separate_rewards=False)(prompts, [0, 1, 2], 0).batch.separate_rewards


def test_an_unscored_row_has_no_place_among_rewards_by_themselves() -> None:
    """Of its group of three the third has no total, since another reward failed: the others are -1 and 1 over .7071."""
    outcomes = [Outcome("scored", value) for value in (0.0, 1.0, 9.0)]
    scores = Scores(totals=[0.0, 1.0, None], task_totals=[], by_reward={"a": outcomes}, groups=[0, 0, 0])
    column = separate_rewards(scores, ["a"])["a"]
    found = standardised_sum(column[:, None], torch.ones(1), torch.zeros(3, dtype=torch.long))
    assert found[:2].tolist() == [pytest.approx(-0.707007), pytest.approx(0.707007)]
    assert found[2].isnan()


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_on_policy_nothing_drifts_and_the_user_is_told(name: str) -> None:
    kind = algorithm_classes()[name]
    for threshold, notes in ((None, [0, 0]), (0.1, [1, 0])):
        algorithm = kind.model_validate({"off_policy_mask_threshold": threshold})
        found = [sum("excludes nothing" in note for note in algorithm.notes(updates)) for updates in (1, 4)]
        assert found == notes


def test_a_model_is_trained_with_all_of_them() -> None:
    """Off-policy, by two rewards of other sizes: every term is told, and the mask has its share of the rollout."""
    stage = rung.train(
        DAPO(
            num_generations=4,
            max_num_gen_batches=0,
            overlong_buffer=0,
            multi_objective_aggregation="normalize_then_sum",
            off_policy_mask_threshold=1e-4,
            top_entropy_quantile=0.5,
            entropy_coef=0.01,
        ),
        model="tiny:llama",
        data=[{"prompt": f"number {i}"} for i in range(4)],
        rewards=[digits, short],
        rollout={"batch_size": 4, "max_completion_length": 6},
        updates={"minibatches": 2},
        learning_rate=1e-2,
        max_steps=4,
    )
    told = []
    for step in stage:
        assert step.terms.keys() == {"policy", "entropy"}
        assert step.terms["entropy"] < 0
        told.append(values(step.metrics)["off_policy_mask/dropped_mean"])
    assert told[0] == 0
    assert told[1] is not None
    assert told[1] > 0
    assert isinstance(stage.source, RolloutSource)
    assert stage.source.rollout is not None
    batch = stage.source.rollout
    assert int(high_entropy(batch).sum()) == 1 + (int(batch.loss_mask.sum()) - 1) // 2
    assert batch.separate_rewards.keys() == {"digits", "short"}

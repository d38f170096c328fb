"""What the family leaves out, pays for and adds up: drifted rows, tokens of low entropy, a bonus, rewards apart.

Loss and gradient, by log-prob and by entropy, equal those of TRL 1.16's own code on the same tokens.
"""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from certificate import Certify
from hypothesis import given, settings
from hypothesis import strategies as st
from support import random_batch, tiny_policy
from test_grpo_family import BETA, EPSILON, EPSILON_HIGH, LIMIT, LOSS_TYPES, made, rollout, trl_trainer
from test_oracle import Result, drawn, equal, trl_stub

import rung
from rung.advantages import scale_over_batch, standardised_sum
from rung.algorithms.axes import Level
from rung.algorithms.dapo import DAPO
from rung.algorithms.group import GroupRelative, high_entropy
from rung.algorithms.grpo import GRPO
from rung.batch import Batch, Outputs, count
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.maths import entropy_detached
from rung.metrics import values
from rung.models import load_model
from rung.objectives import highest, not_drifted
from rung.registry import algorithm_classes
from rung.reward import Rewards
from rung.reward.outcome import Outcome
from rung.reward.scores import Scores
from rung.rollout.draw import Sampling
from rung.rollout.generate import Generator, standardised
from rung.rollout.philox import Key
from rung.rollout.rollouts import Rollouts
from rung.rollout.sampler import LocalSampler

NAN = float("nan")
FEW = settings(max_examples=30, deadline=None)
BONUS = {"entropy_coef": 0.2}
HIGH = {"top_entropy_quantile": 0.3}
DRIFT = {"off_policy_mask_threshold": 0.05}
WEIGHED = {"importance_sampling_correction": "token_truncate", "importance_sampling_clip_max": 1.2}
KL = {"beta": BETA, "kl_estimator": "k3"}
AXES: dict[str, dict[str, Any]] = {
    "bonus": BONUS,
    "high entropy": HIGH,
    "drift": DRIFT,
    "all": BONUS | HIGH | DRIFT | WEIGHED | KL,
}


def given_entropies(batch: Batch, seed: int, dtype: torch.dtype) -> Batch:
    """Entropies that float32 holds, in which TRL finds its quantile, and log-probs of a sampler of its own."""
    generator = torch.Generator().manual_seed(seed)
    assert batch.old_logps is not None
    noise = torch.randn(batch.old_logps.shape, generator=generator, dtype=torch.float64)
    sampled = (batch.old_logps + 0.3 * noise).masked_fill(noise > 2, NAN)
    entropies = 3 * torch.rand(noise.shape, generator=generator)
    return batch.replace_extras(entropies=entropies.to(dtype), sampled_logps=sampled.to(dtype))


def ours(algorithm: GroupRelative, batch: Batch, both: torch.Tensor) -> Result:
    """The loss and its gradient (2, N, T) by log-probs and entropies."""
    leaf = both.clone().requires_grad_()
    outputs = Outputs(logps=leaf[0], readouts={"entropy": leaf[1]})
    loss = algorithm.loss(batch, outputs).over(count(algorithm.units(), batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask


def theirs(algorithm: GroupRelative, loss_type: str, level: str, batch: Batch, both: torch.Tensor) -> Result:
    """The same by TRL's own code."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    assert batch.advantages is not None
    leaf = both.clone().requires_grad_()
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    temperatures = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    bump = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    options = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1}
    me = trl_stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf[0], leaf[1], None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=EPSILON,
        epsilon_high=1.2 if loss_type == "cispo" else EPSILON_HIGH,
        beta=algorithm.beta,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=algorithm.top_entropy_quantile,
        off_policy_mask_threshold=algorithm.off_policy_mask_threshold,
        use_vllm=algorithm.importance_sampling_correction is not None,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=algorithm.entropy_coef > 0,
        entropy_coef=algorithm.entropy_coef,
        use_adaptive_entropy=False,
        args=SimpleNamespace(**options, **temperatures, **bump),
    )
    me.accelerator.pad_across_processes = lambda tensor, **_: tensor
    me.accelerator.sync_gradients = False
    me.get_high_entropy_mask = partial(GRPOTrainer.get_high_entropy_mask, me)
    inputs = {
        "prompt_ids": rows,
        "prompt_mask": rows,
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.loss_mask.long(),
        "advantages": batch.advantages[:, 0],
        "num_items_in_batch": batch.loss_mask.sum(),
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
        "sampling_per_token_logps": batch.extras["sampled_logps"],
    }
    if "sampler_weights" in batch.extras:
        inputs["importance_sampling_ratio"] = batch.extras["sampler_weights"]
    loss = GRPOTrainer._compute_loss(me, None, inputs)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask


@pytest.mark.oracle
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    ("loss_type", "level"),
    [*((kind, "token") for kind in LOSS_TYPES), *((kind, "sequence") for kind in ("grpo", "luspo", "cispo", "sapo"))],
)
def test_loss_and_gradient_equal_trl(loss_type: str, level: Level, axes: str, certify: Certify) -> None:
    """Each axis alone and all at once, with a sampler's weights and a KL: so the order of operations is TRL's.

    Objective x drift x entropy x weight, + beta KL, reduced, - bonus. What is left out keeps its KL and its place in
    the denominator; but a bonus is a mean over the tokens that it is paid for.
    """
    more = dict(AXES[axes])
    if loss_type == "vespo":
        more = {name: value for name, value in more.items() if name not in WEIGHED}
    if level == "sequence" and loss_type != "cispo":
        more.pop("top_entropy_quantile", None)
    algorithm = made(loss_type, level, **{"beta": 0.0, **more})
    moved = rows = 0
    for seed, dtype in itertools.product(range(3), (torch.float32, torch.float64)):
        batch, logps = drawn(seed, None, dtype)
        trained = random_batch(torch.Generator().manual_seed(seed), prompts=3, rows=(2, 4), length=(1, 9)).loss_mask
        batch = given_entropies(replace(batch, loss_mask=trained), seed, dtype)
        batch = algorithm.credit(batch, {})[0]
        both = torch.stack([logps, batch.extras["entropies"]])
        mine = ours(algorithm, batch, both)
        wanted = theirs(algorithm, loss_type, level, batch, both)
        certify(algorithm.name, "oracle", *equal(mine, wanted, dtype))
        moved += int(mine[1].any(-1).any(0).sum())
        rows += batch.num_rows
    assert 0 < moved < rows or axes != "drift", "some rows have drifted, and not all"


@pytest.mark.oracle
def test_an_entropy_bonus_is_a_mean_over_the_step_where_trl_takes_one_of_each_micro_batch() -> None:
    """TRL's number depends on how the step is cut; ours is TRL's of the uncut step."""
    algorithm = GRPO(beta=0, entropy_coef=1.0)
    batch, logps = drawn(0, None, torch.float64)
    batch = algorithm.credit(given_entropies(batch, 0, torch.float64), {})[0]
    both = torch.stack([logps, batch.extras["entropies"]])
    alone = GRPO(beta=0)
    cuts = (torch.arange(0, 3), torch.arange(3, batch.num_rows))
    width = [batch.select(rows).completion_ids.shape[1] for rows in cuts]

    def bonus(rows: torch.Tensor, width: int) -> float:
        part, values = batch.select(rows), both[:, rows, :width]
        paid, free = (theirs(each, "grpo", "token", part, values)[0] for each in (algorithm, alone))
        return float(paid - free)

    mine = float(ours(algorithm, batch, both)[0] - ours(alone, batch, both)[0])
    assert mine == pytest.approx(bonus(torch.arange(batch.num_rows), both.shape[2]))
    each = [bonus(rows, wide) for rows, wide in zip(cuts, width, strict=True)]
    assert mine != pytest.approx(sum(each) / 2, rel=1e-3)


# derived by hand


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
    counted = highest(entropies, batch.loss_mask, 0.4)
    assert counted.tolist() == [[True, False, False], [True, False, True]]
    batch = batch.replace_extras(high_entropy=counted)
    assert batch.old_logps is not None
    loss, slopes = ours(algorithm, batch, torch.stack([batch.old_logps, entropies]))
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
    loss, slopes = ours(algorithm, batch, torch.stack([batch.old_logps, batch.old_logps]).float())
    assert float(loss) == 0
    assert not slopes.any()
    assert float(count(algorithm.units(), batch)["entropy"]) > 0
    whole = batch.replace_extras(high_entropy=batch.loss_mask)
    assert float(count(algorithm.units(), whole)["entropy"]) == 3


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
    assert not_drifted(logps, sampled, advantages, mask, 0.2).all()
    assert not_drifted(logps, sampled, advantages, mask, 0.19)[:, 0].tolist() == [False, True, False, True]

    algorithm = GRPO(beta=0, off_policy_mask_threshold=0.19)
    batch = tokens(old.tolist(), [-1.0, -1.0, -1.0, 0.0], sampled_logps=sampled)
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(old)})
    loss = algorithm.loss(batch, outputs)
    ratio = 2.718281828459045**0.6
    wanted = (ratio + 2) / 3  # of the second row alone; all four are in the denominator
    assert float(loss.terms["policy"]) == pytest.approx(wanted)
    assert float(loss.over(count(algorithm.units(), batch))) == pytest.approx(wanted / 4)
    assert values(loss.metrics)["off_policy_mask/dropped_mean"] == pytest.approx(0.5)
    certify("grpo", "golden", loss.terms["policy"], wanted)


@pytest.mark.maths
def test_drift_is_measured_from_the_sampler_where_it_is_another_and_else_from_the_old_policy() -> None:
    algorithm = GRPO(beta=0, off_policy_mask_threshold=0.1)
    batch = tokens([[0.0] * 3], [-1.0])
    assert batch.old_logps is not None
    both = torch.stack([batch.old_logps, batch.old_logps])
    assert ours(algorithm, batch, both)[1].any()
    other = batch.replace_extras(sampled_logps=batch.old_logps + 0.2)
    assert not ours(algorithm, other, both)[1].any()


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


# rewards by themselves, as TRL


@pytest.mark.oracle
@pytest.mark.parametrize("abstaining", [False, True])
def test_advantages_of_rewards_by_themselves_equal_trl(abstaining: bool, tmp_path: Path, certify: Certify) -> None:
    batch = rollout(unscored=False)
    generator = torch.Generator().manual_seed(3)
    columns = torch.rand(batch.num_rows, 3, generator=generator)
    if abstaining:
        columns[[0, 5], 1] = NAN
        columns[7] = NAN
    weights = torch.tensor([1.0, 0.5, -2.0])
    trainer = trl_trainer(str(tmp_path))
    trainer.multi_objective_aggregation, trainer.reward_weights = "normalize_then_sum", weights
    trainer.reward_funcs, trainer.reward_func_names = [len] * 3, ["a", "b", "c"]
    rows = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    sampled = {"prompt_ids": [[7]] * len(rows), "completion_ids": rows, "logprobs": [[0.0] * len(row) for row in rows]}
    trainer.rollout_func = lambda prompts, trainer: sampled
    trainer._calculate_rewards = lambda *_: columns
    wanted = trainer._generate_and_score_completions([{"prompt": "a"}] * len(rows))["advantages"]

    algorithm = GRPO(multi_objective_aggregation="normalize_then_sum")
    batch = replace(batch, rewards=columns.nansum(1).masked_fill(columns.isnan().all(1), NAN))
    batch = batch.replace_extras(standardised_rewards=standardised_sum(columns, weights, batch.group_of))
    found = algorithm.credit(batch, {})[0].advantages
    assert found is not None
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-6, rtol=0)
    certify("grpo", "oracle", found[:, 0], wanted)


# properties


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
    assert torch.equal(highest(found, mask, share), mask & (found >= threshold))
    assert not highest(found, torch.zeros_like(mask), share).any()


@pytest.mark.parametrize("share", [0.29, 0.7, 0.1])
def test_a_share_of_whole_tokens_is_not_lost_to_rounding(share: float) -> None:
    """Of 101 different values 1 + 100 x share."""
    found = torch.arange(101.0)[None]
    assert int(highest(found, torch.ones_like(found).bool(), share).sum()) == 1 + round(100 * share)


def test_the_share_is_of_scored_rows_that_are_trained() -> None:
    """Tokens of an unscored row and of one that was cut off take no place among the highest."""
    batch, _ = drawn(0, None, torch.float64)
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
    batch, _ = drawn(0, None, torch.float64)
    batch = replace(batch, rewards=torch.ones(batch.num_rows, dtype=torch.float64))
    for algorithm, computed in ((GRPO(beta=0), False), (GRPO(beta=0, entropy_coef=0.1), True)):
        assert algorithm.active(algorithm.credit(batch, {})[0]).any() == computed


# with a model


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
    calls = policy.counted.calls
    algorithm.prepare(prepared, policy)
    assert policy.counted.calls == calls


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
        rewards=Rewards(judges),
        tokenizer=tokenizer,
    )
    prompts = encode(examples, tokenizer, max_prompt_length=64, max_length=None, report=report)
    made = generator(prompts, [0, 1, 2], 0)
    told = [[row["rewards"][label] for label in ("digits", "short", "length")] for row in made.table]
    columns = torch.tensor([[NAN if value is None else value for value in row] for row in told])
    wanted = standardised_sum(columns, torch.tensor([1.0, 1.0, -0.5]), made.batch.group_of)
    torch.testing.assert_close(made.batch.extras["standardised_rewards"], wanted)
    assert wanted.any()
    assert "standardised_rewards" not in replace(generator, rewards=Rewards([]))(prompts, [0, 1, 2], 0).batch.extras


def test_an_unscored_row_has_no_place_among_rewards_by_themselves() -> None:
    """Of its group of three the third has no total, since another reward failed: the others are -1 and 1 over .7071."""
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(3, 3))
    batch = replace(batch, rewards=torch.tensor([0.0, 1.0, NAN]))
    outcomes = [Outcome("scored", value) for value in (0.0, 1.0, 9.0)]
    scores = Scores(totals=[0.0, 1.0, None], task_totals=[], by_reward={"a": outcomes}, groups=[0, 0, 0])
    found = standardised(scores, {"a": 1.0}, batch)
    assert found[:2].tolist() == [pytest.approx(-0.707007), pytest.approx(0.707007)]
    assert found[2].isnan()


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_on_policy_nothing_drifts_and_the_user_is_told(name: str) -> None:
    kind = algorithm_classes()[name]
    for threshold, notes in ((None, [0, 0]), (0.1, [1, 0])):
        algorithm = kind.model_validate({"off_policy_mask_threshold": threshold})
        found = [sum("has not drifted" in note for note in algorithm.notes(updates)) for updates in (1, 4)]
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
    assert isinstance(stage.source, Rollouts)
    assert stage.source.rollout is not None
    batch = stage.source.rollout
    assert int(high_entropy(batch).sum()) == 1 + (int(batch.loss_mask.sum()) - 1) // 2
    assert batch.extras["standardised_rewards"].any()

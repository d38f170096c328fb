"""PPO: the recursion against its definition, what enters a rollout's credit, and first updates of a real policy.

Its numbers derived by hand stand in `test_golden.py`.
"""

from dataclasses import replace
from math import fsum

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.policies import tiny_policy
from rung.algorithms.ppo import PPO
from rung.batch import Batch, Loss, Outputs, concat, count_denominators
from rung.config import load_config, resolve
from rung.maths import advantages
from rung.maths import tensors as maths
from rung.metrics import values

NAN = float("nan")
Rows = list[list[float]]


def rollout(
    *,
    kl: Rows,
    values: Rows,
    scores: list[float],
    truncated: list[bool] | None = None,
) -> Batch:
    """Rows of one width: k1 of each token against the reference, the value before it, and a score a row."""
    size, width = len(kl), len(kl[0])
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, prompts=size, rows=(1, 1), length=(width, width))
    old = torch.full((size, width), -2.0, dtype=torch.float64)
    return replace(
        batch,
        loss_mask=batch.completion_mask,
        old_logps=old,
        ref_logps=old - torch.tensor(kl, dtype=torch.float64),
        values=torch.tensor(values, dtype=torch.float64),
        rewards=torch.tensor(scores, dtype=torch.float64),
        truncated=torch.tensor(truncated or [False] * size),
    )


def drawn(seed: int, *, unscored: bool = False) -> Batch:
    """A ragged rollout with observation tokens, as `prepare` would leave it."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=4, rows=(1, 4), length=(1, 9))

    def noise() -> torch.Tensor:
        return torch.randn(batch.completion_ids.shape, generator=generator, dtype=torch.float64)

    rewards = torch.randn(batch.num_rows, generator=generator, dtype=torch.float64)
    if unscored:
        rewards[torch.randint(batch.num_rows, (), generator=generator)] = NAN
    return replace(
        batch,
        old_logps=noise() * batch.loss_mask,
        ref_logps=noise() * batch.loss_mask,
        values=noise() * batch.loss_mask,
        end_values=torch.randn(batch.num_rows, generator=generator, dtype=torch.float64),
        rewards=rewards,
        truncated=torch.rand(batch.num_rows, generator=generator) < 0.3,
    )


def credited(algorithm: PPO, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _ = algorithm.credit(batch, algorithm.initial_state())
    assert batch.advantages is not None
    assert batch.returns is not None
    return batch.advantages, batch.returns


def close(
    actual: torch.Tensor, expected: list[float] | Rows, atol: float = 1e-5
) -> tuple[torch.Tensor, list[float] | Rows]:
    """Both of them, which agree."""
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)
    return actual, expected


def lost(algorithm: PPO, batch: Batch, logps: torch.Tensor, predicted: torch.Tensor) -> Loss:
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)}, values=predicted)
    return algorithm.loss(batch, outputs)


# by hand


GOLDEN = {"kl": [[0.2, 0.4, 0.2]], "values": [[0.5, 0.4, 0.3]], "scores": [1.0]}


@pytest.mark.maths
def test_a_fixed_coefficient_keeps_no_state() -> None:
    batch = rollout(**GOLDEN)
    assert PPO().credit(batch, PPO().initial_state())[1] == {}


@pytest.mark.maths
def test_a_completion_without_an_end_pays(certify: Certify) -> None:
    """gamma 1, lam 1, V 0: the return of each token is the score, less the penalty of the row that was cut off."""
    batch = rollout(kl=[[0.0] * 3] * 2, values=[[0.0] * 3] * 2, scores=[1.0, 1.0], truncated=[False, True])
    _, returns = credited(PPO(beta=0, lam=1, missing_eos_penalty=0.75), batch)
    certify("ppo", "golden", *close(returns, [[1, 1, 1], [0.25, 0.25, 0.25]]))


@pytest.mark.maths
def test_explained_variance_of_a_perfect_and_of_an_ignorant_critic() -> None:
    for predicted, explained in (([[3.0], [5.0]], 1.0), ([[4.0], [4.0]], 0.0)):
        batch, _ = PPO(beta=0).credit(rollout(kl=[[0.0]] * 2, values=predicted, scores=[3.0, 5.0]), {})
        assert values(PPO(beta=0).rollout_metrics(batch, {})) == {"explained_variance": explained}


@pytest.mark.maths
def test_values_that_moved_beyond_their_range_are_counted() -> None:
    """Of .3, .1 and -.5 two lie beyond .2."""
    batch, _ = PPO().credit(rollout(**GOLDEN), {})
    assert batch.old_logps is not None
    assert batch.values is not None
    moved = lost(PPO(), batch, batch.old_logps, batch.values + torch.tensor([[0.3, 0.1, -0.5]]))
    assert values(moved.metrics)["clip_ratio/value_mean"] == pytest.approx(2 / 3)


# properties


@given(seed=st.integers(0, 2**31))
def test_the_score_and_the_kl_of_every_trained_token_arrive(seed: int) -> None:
    """gamma 1, lam 1, V 0: the return of the first token is the score - beta sum k1, wherever the row ends."""
    batch = drawn(seed)
    assert batch.values is not None
    assert batch.old_logps is not None
    assert batch.ref_logps is not None
    assert batch.rewards is not None
    _, returns = credited(PPO(beta=0.3, lam=1), replace(batch, values=torch.zeros_like(batch.values)))
    kl = maths.masked_sum(batch.old_logps - batch.ref_logps, batch.loss_mask)
    torch.testing.assert_close(returns[:, 0], batch.rewards - 0.3 * kl)


@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_its_definition_on_the_row_without_its_observations(seed: int, gamma: float, lam: float) -> None:
    """A_t = sum over l of (gamma lam)^l delta_(t+l), summed out term by term."""
    batch = drawn(seed)
    rewards, predicted, mask = batch.old_logps, batch.values, batch.loss_mask
    assert rewards is not None
    assert predicted is not None
    rubbish = torch.where(mask, 0.0, NAN)
    assert batch.end_values is not None
    found = advantages.gae(rewards + rubbish, predicted + rubbish, batch.end_values, mask, gamma, lam)
    assert not found[~mask].any()
    for row in range(batch.num_rows):
        r, v = rewards[row][mask[row]].tolist(), [*predicted[row][mask[row]].tolist(), float(batch.end_values[row])]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected = [fsum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, len(r))) for t in range(len(r))]
        close(found[row][mask[row]], expected, 1e-9)


@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_the_value_after_the_end_is_one_more_token_that_earned_its_value(seed: int, gamma: float, lam: float) -> None:
    """Such a token has the advantage 0 and the value of the bootstrap; only rows that were cut off have it."""
    batch = drawn(seed)
    assert batch.truncated is not None
    assert batch.end_values is not None
    assert batch.values is not None
    algorithm = PPO(beta=0, gamma=gamma, lam=lam, bootstrap_truncated=True)
    _, found = credited(algorithm, batch)
    assert batch.rewards is not None
    rewards = advantages.at_last_token(batch.rewards, batch.loss_mask)
    more = torch.where(batch.truncated, batch.end_values, 0)[:, None]
    wanted = advantages.gae(
        torch.cat([rewards, more], 1),
        torch.cat([batch.values, more], 1),
        torch.zeros(batch.num_rows, dtype=torch.float64),
        torch.cat([batch.loss_mask, torch.ones_like(batch.truncated)[:, None]], 1),
        gamma,
        lam,
    )[:, :-1]
    torch.testing.assert_close(found, wanted + batch.values)


@given(seed=st.integers(0, 2**31), whitened=st.booleans(), bootstrap=st.booleans())
def test_order_and_padding_of_rows_change_no_credit(seed: int, whitened: bool, bootstrap: bool) -> None:
    algorithm = PPO(
        whiten_rewards=whitened, bootstrap_truncated=bootstrap, missing_eos_penalty=0.0 if bootstrap else 0.5
    )
    batch = drawn(seed)
    wanted = credited(algorithm, batch)
    pieces = [batch.select(batch.prompt_of == prompt) for prompt in range(batch.num_prompts)]
    back = torch.cat([torch.arange(batch.num_rows)[batch.prompt_of == p] for p in reversed(range(batch.num_prompts))])
    for found, expected in zip(credited(algorithm, concat(pieces[::-1])), wanted, strict=True):
        torch.testing.assert_close(found, expected[back])


@given(seed=st.integers(0, 2**31))
def test_an_unscored_row_changes_no_other_row(seed: int) -> None:
    """It enters neither whitening nor the adaptive coefficient, and teaches nothing itself."""
    algorithm = PPO(whiten_rewards=True, kl_target=1, kl_unit="sequence_sum")
    batch = drawn(seed, unscored=True)
    assert batch.rewards is not None
    scored = ~batch.rewards.isnan()
    if not scored.any():
        return
    whole, state = algorithm.credit(batch, algorithm.initial_state())
    alone, other = algorithm.credit(batch.select(scored), algorithm.initial_state())
    assert state == pytest.approx(other)
    kept = whole.select(scored)
    for name in ("advantages", "returns"):
        torch.testing.assert_close(getattr(kept, name), getattr(alone, name))
        assert not getattr(whole, name)[~scored].any()
    seen, expected = (values(algorithm.rollout_metrics(each, algorithm.initial_state())) for each in (whole, alone))
    assert seen == pytest.approx(expected)


@given(seed=st.integers(0, 2**31))
def test_columns_that_are_not_trained_may_hold_anything(seed: int) -> None:
    algorithm = PPO(whiten_rewards=True)
    batch = drawn(seed)
    rubbish = torch.where(batch.loss_mask, 0.0, NAN)
    names = ("old_logps", "ref_logps", "values")
    spoilt = replace(batch, **{name: getattr(batch, name) + rubbish for name in names})
    for found, expected in zip(credited(algorithm, spoilt), credited(algorithm, batch), strict=True):
        torch.testing.assert_close(found, expected)
    batch, _ = algorithm.credit(batch, {})
    spoilt, _ = algorithm.credit(spoilt, {})
    assert batch.old_logps is not None
    assert batch.values is not None
    logps, predicted = batch.old_logps + 0.1, batch.values + 0.1
    wanted, found = (lost(algorithm, each, logps, predicted) for each in (batch, spoilt))
    torch.testing.assert_close(found.terms, wanted.terms)
    assert values(found.metrics) == pytest.approx(values(wanted.metrics))


@given(seed=st.integers(0, 2**31))
def test_the_first_update_is_reinforce_and_clips_nothing(seed: int) -> None:
    """d loss / d log pi_t = - A_t / tokens; d loss / d V_t = vf_coef (V_t - return_t) / tokens."""
    algorithm = PPO()
    batch, _ = algorithm.credit(drawn(seed), {})
    assert batch.old_logps is not None
    assert batch.values is not None
    assert batch.advantages is not None
    assert batch.returns is not None
    logps, predicted = batch.old_logps.clone().requires_grad_(), batch.values.clone().requires_grad_()
    loss = lost(algorithm, batch, logps, predicted)
    loss.over(count_denominators(algorithm.terms(), batch)).backward()
    tokens = batch.loss_mask.sum()
    assert logps.grad is not None
    assert predicted.grad is not None
    torch.testing.assert_close(logps.grad, -batch.advantages / tokens)
    torch.testing.assert_close(predicted.grad, 0.1 * (batch.values - batch.returns) * batch.loss_mask / tokens)
    metrics = values(loss.metrics)
    assert metrics["clip_ratio/region_mean"] == metrics["clip_ratio/value_mean"] == 0


def test_the_first_update_of_a_real_policy_has_ratio_1_and_the_values_of_its_rollout() -> None:
    """`prepare` and the pass that trains agree on log-probs and values to rounding, however parts are cut."""
    algorithm = PPO()
    policy = tiny_policy("llama", heads=True)
    policy.reference = policy.snapshot()
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, prompts=3)
    batch = replace(batch, rewards=torch.randn(batch.num_rows, generator=generator))
    batch = algorithm.prepare(batch, policy)
    batch, _ = algorithm.credit(batch, algorithm.initial_state())
    assert batch.values is not None
    assert (batch.values[batch.loss_mask] != 0).all()
    policy.token_budget = 60
    for part, outputs in policy.parts(batch, algorithm):
        assert part.old_logps is not None
        assert part.values is not None
        assert outputs.values is not None
        torch.testing.assert_close(outputs.logps, part.old_logps, atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs.values, part.values, atol=1e-5, rtol=0)
        metrics = values(algorithm.loss(part, outputs).metrics)
        assert metrics["clip_ratio/region_mean"] == metrics["clip_ratio/value_mean"] == 0
        assert abs(metrics["kl"]) < 1e-6


# settings


def test_a_reference_is_kept_only_where_the_kl_counts() -> None:
    assert "reference" in PPO().needs()
    assert "reference" not in PPO(beta=0).needs()
    batch = replace(rollout(**GOLDEN), ref_logps=None)
    advantages, returns = credited(PPO(beta=0, lam=1), batch)
    close(returns, [[1, 1, 1]])
    batch, _ = PPO(beta=0).credit(batch, {})
    assert batch.old_logps is not None
    told = {*lost(PPO(beta=0), batch, batch.old_logps, advantages).metrics, *PPO(beta=0).rollout_metrics(batch, {})}
    assert not {"kl", "kl/sequence_sum", "beta"} & told


def test_a_rollout_is_trained_on_four_times() -> None:
    for size in ("tiny", "small", "large"):
        updates = resolve(load_config("ppo"), size).stages[0].updates
        assert (updates.epochs, updates.minibatches) == (4, 1)


def letters(completion: str) -> float:
    """A reward that differs from answer to answer."""
    return sum(letter.isalpha() for letter in completion) / 8


def test_what_a_rollout_shows_is_told_with_its_first_update() -> None:
    """Two epochs of two minibatches: the critic and the coefficient are seen in steps 1 and 5, the KL in all."""
    stage = rung.train(
        PPO(kl_target=1, kl_unit="sequence_sum", bootstrap_truncated=True),
        model="tiny:llama",
        data=[{"prompt": f"number {i}"} for i in range(8)],
        rewards=letters,
        rollout={"batch_size": 4, "max_completion_length": 6},
        updates={"epochs": 2, "minibatches": 2},
        max_steps=6,
    )
    told = [{**values(step.metrics), **values(stage.source.pop_report()[0])} for step in stage]
    of_rollouts = {"explained_variance", "kl/sequence_sum", "beta", "completions/mean_length"}
    assert [of_rollouts <= step.keys() for step in told] == [True, False, False, False, True, False]
    assert not any(of_rollouts & step.keys() for step in told[1:4])
    assert all({"kl", "entropy", "clip_ratio/value_mean"} <= step.keys() for step in told)
    assert told[0]["beta"] == 0.05
    assert told[4]["beta"] == pytest.approx(0.05 * (1 - 0.2 * 4 / 10_000)), "no KL yet: lowered by a fifth at most"
    assert abs(told[0]["kl/sequence_sum"]) < 1e-4

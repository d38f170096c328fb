"""PPO: numbers derived by hand through `credit` and `loss`, the recursion against its definition, and first updates."""

import json
from dataclasses import replace
from math import fsum

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import random_batch, tiny_policy

from rung import advantages, maths
from rung.algorithms.ppo import PPO
from rung.batch import Batch, Loss, Outputs, concat, count
from rung.config import load_config, resolve
from rung.metrics import values

NAN = float("nan")
Rows = list[list[float]]


def rollout(
    *,
    kl: Rows,
    values: Rows,
    scores: list[float],
    trained: list[list[int]] | None = None,
    truncated: list[bool] | None = None,
) -> Batch:
    """Rows of one width: k1 of each token against the reference, the value before it, and a score a row."""
    size, width = len(kl), len(kl[0])
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, prompts=size, rows=(1, 1), length=(width, width))
    mask = torch.tensor(trained, dtype=torch.bool) if trained else batch.completion_mask
    old = torch.full((size, width), -2.0, dtype=torch.float64)
    return replace(
        batch,
        loss_mask=mask,
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
        rewards=rewards,
        truncated=torch.rand(batch.num_rows, generator=generator) < 0.3,
    )


def credited(algorithm: PPO, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _ = algorithm.credit(batch, algorithm.initial_state())
    assert batch.advantages is not None
    assert batch.returns is not None
    return batch.advantages, batch.returns


def close(actual: torch.Tensor, expected: list[float] | Rows, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def lost(algorithm: PPO, batch: Batch, logps: torch.Tensor, predicted: torch.Tensor) -> Loss:
    outputs = Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)}, values=predicted)
    return algorithm.loss(batch, outputs)


# by hand


GOLDEN = {"kl": [[0.2, 0.4, 0.2]], "values": [[0.5, 0.4, 0.3]], "scores": [1.0]}


@pytest.mark.maths
def test_advantages_and_returns() -> None:
    """beta .5 makes r = [-.1, -.2, 1 - .1]; A_2 = .9 - .3 = .6, A_1 = -.2 + .3 - .4 + .95 x .6 = .27, A_0 = .0565.

    Returns are A + V before A is whitened by its biased variance.
    """
    advantages, returns = credited(PPO(beta=0.5), rollout(**GOLDEN))
    close(returns, [[0.5565, 0.67, 0.9]])
    close(advantages, [[-1.128626, -0.173692, 1.302318]])


@pytest.mark.maths
def test_discounted_returns() -> None:
    """gamma .9, lam .8: A = [-.16656, .102, .6]."""
    _, returns = credited(PPO(beta=0.5, gamma=0.9, lam=0.8), rollout(**GOLDEN))
    close(returns, [[0.33344, 0.502, 0.9]])


@pytest.mark.maths
def test_observation_tokens_are_skipped() -> None:
    """Two columns of an environment between tokens 0 and 1, with a value and a KL of their own that nobody reads."""
    batch = rollout(kl=[[0.2, 7, 7, 0.4, 0.2]], values=[[0.5, 9, 9, 0.4, 0.3]], scores=[1.0], trained=[[1, 0, 0, 1, 1]])
    advantages, returns = credited(PPO(beta=0.5), batch)
    close(returns, [[0.5565, 0.0, 0.0, 0.67, 0.9]])
    close(advantages, [[-1.128626, 0, 0, -0.173692, 1.302318]])


@pytest.mark.maths
def test_whitened_rewards_keep_their_mean() -> None:
    """r = 1.2, 1.3 .. 2.0: mean 1.6, biased variance .066667; with gamma 0 and V 0 the returns are the rewards."""
    batch = rollout(kl=[[-1.2 - 0.1 * t for t in range(9)]], values=[[0.0] * 9], scores=[0.0])
    _, returns = credited(PPO(beta=1, gamma=0, whiten_rewards=True), batch)
    expected = [0.050807, 0.438105, 0.825403, 1.212702, 1.6, 1.987298, 2.374597, 2.761895, 3.149193]
    close(returns, [expected])


@pytest.mark.maths
@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "loss"),
    [
        (1.25, 1, None, -1.2),
        (0.7, 1, None, -0.7),
        (0.7, -1, None, 0.8),
        (1.5, -1, None, 1.5),
        (20, -1, None, 20),
        (20, -1, 10, 10),
        (20, -1, 3, 3),
        (1.5, 1, 3, -1.2),
    ],
)
def test_clip_and_dual_clip(ratio: float, advantage: float, delta: float | None, loss: float) -> None:
    """Bounds .8 and 1.2: a gain stops counting at the bound, a loss is cut by delta alone."""
    batch, _ = PPO().credit(rollout(kl=[[0.0]], values=[[0.0]], scores=[1.0]), {})
    assert batch.old_logps is not None
    logps = batch.old_logps + torch.tensor(ratio, dtype=torch.float64).log()
    batch = replace(batch, advantages=torch.full_like(logps, float(advantage)))
    found = lost(PPO(delta=delta), batch, logps, torch.zeros_like(logps))
    assert float(found.terms["policy"]) == pytest.approx(loss, abs=1e-5)


@pytest.mark.maths
@pytest.mark.parametrize(("value", "target", "loss"), [(1.0, 0.0, 0.5), (0.9, 1.0, 0.045)])
def test_value_loss_is_the_larger_of_plain_and_clipped(value: float, target: float, loss: float) -> None:
    """V_old .5, range .2: V = 1 against 0 costs 1/2 x 1; V = .9 against 1 counts as .7 and costs 1/2 x .09."""
    batch, _ = PPO().credit(rollout(kl=[[0.0]], values=[[0.5]], scores=[target]), {})
    assert batch.old_logps is not None
    found = lost(PPO(), batch, batch.old_logps, torch.full((1, 1), value, dtype=torch.float64))
    assert float(found.terms["value"]) == pytest.approx(0.1 * loss, abs=1e-6)
    assert values(found.metrics)["clip_ratio/value_mean"] == 1


@pytest.mark.maths
@pytest.mark.parametrize(("kl", "beta"), [(3, 0.149808), (6, 0.15), (6.6, 0.150096), (9, 0.150192)])
@pytest.mark.parametrize("unit", ["sequence_sum", "token_mean"])
def test_adaptive_coefficient(kl: float, beta: float, unit: str) -> None:
    """64 rows of 4 tokens, target 6, horizon 10000: (KL/6 - 1) clipped to .2; a mean over tokens is 4 times less."""
    algorithm = PPO.model_validate({"beta": 0.15, "kl_target": 6, "kl_unit": unit})
    token = kl / 4 if unit == "sequence_sum" else kl
    batch = rollout(kl=[[token] * 4] * 64, values=[[0.0] * 4] * 64, scores=[0.0] * 64)
    first, state = algorithm.credit(batch, algorithm.initial_state())
    assert state["beta"] == pytest.approx(beta, abs=1e-6)
    assert first.extras["beta"].tolist() == pytest.approx([0.15] * 64), "a rollout is credited with the old coefficient"
    second, _ = algorithm.credit(batch, json.loads(json.dumps(dict(state))))
    assert second.extras["beta"][0] == pytest.approx(beta, abs=1e-6)


def test_a_fixed_coefficient_keeps_no_state() -> None:
    batch = rollout(**GOLDEN)
    assert PPO().credit(batch, PPO().initial_state())[1] == {}


def test_a_completion_without_an_end_pays() -> None:
    """gamma 1, lam 1, V 0: the return of each token is the score, less the penalty of the row that was cut off."""
    batch = rollout(kl=[[0.0] * 3] * 2, values=[[0.0] * 3] * 2, scores=[1.0, 1.0], truncated=[False, True])
    _, returns = credited(PPO(beta=0, lam=1, missing_eos_penalty=0.75), batch)
    close(returns, [[1, 1, 1], [0.25, 0.25, 0.25]])


def test_explained_variance_of_a_perfect_and_of_an_ignorant_critic() -> None:
    for predicted, explained in (([[3.0], [5.0]], 1.0), ([[4.0], [4.0]], 0.0)):
        batch, _ = PPO(beta=0).credit(rollout(kl=[[0.0]] * 2, values=predicted, scores=[3.0, 5.0]), {})
        assert batch.extras["explained_variance"].tolist() == [explained] * 2


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
    found = advantages.gae(rewards + rubbish, predicted + rubbish, mask, gamma, lam)
    assert not found[~mask].any()
    for row in range(batch.num_rows):
        r, v = rewards[row][mask[row]].tolist(), [*predicted[row][mask[row]].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected = [fsum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, len(r))) for t in range(len(r))]
        close(found[row][mask[row]], expected, 1e-9)


@given(seed=st.integers(0, 2**31), whitened=st.booleans())
def test_order_and_padding_of_rows_change_no_credit(seed: int, whitened: bool) -> None:
    algorithm = PPO(whiten_rewards=whitened, missing_eos_penalty=0.5)
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
    torch.testing.assert_close(kept.extras, alone.extras)


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
    loss.over(count(algorithm.units(), batch)).backward()
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
        assert abs(metrics["kl/sequence_sum"]) < 1e-5


# settings


def test_a_reference_is_kept_only_where_the_kl_counts() -> None:
    assert "reference" in PPO().requires()
    assert "reference" not in PPO(beta=0).requires()
    batch = replace(rollout(**GOLDEN), ref_logps=None)
    advantages, returns = credited(PPO(beta=0, lam=1), batch)
    close(returns, [[1, 1, 1]])
    batch, _ = PPO(beta=0).credit(batch, {})
    assert batch.old_logps is not None
    assert not {"kl", "beta"} & lost(PPO(beta=0), batch, batch.old_logps, advantages).metrics.keys()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kl_target": 6}, "no unit"),
        ({"kl_unit": "token_mean"}, "nothing without"),
        ({"kl_target": 6, "kl_unit": "token_mean", "beta": 0}, "0 stays 0"),
        ({"delta": 1.1}, "must exceed"),
        ({"cliprange_value": 0}, "greater than 0"),
        ({"lam": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        PPO.model_validate(settings)


def test_a_rollout_is_trained_on_four_times() -> None:
    for size in ("tiny", "small", "large"):
        updates = resolve(load_config("ppo"), size).stages[0].updates
        assert (updates.epochs, updates.minibatches) == (4, 1)

"""Numbers derived by hand through the code that trains: `prepare`, `credit`, `parts` and `loss` of a real model."""

import json
from math import exp

import pytest
import torch

from helpers.certificate import Certify
from helpers.table_model import (
    LAYOUTS,
    Table,
    assert_close,
    batch_of_answers,
    credited,
    head_of,
    policy_with_values,
    set_probabilities,
    summed_losses,
    table_model,
    with_layout,
)
from rung.algorithm import Algorithm
from rung.algorithms.dapo import DAPO
from rung.algorithms.gspo import GSPO, GSPOToken
from rung.algorithms.ppo import PPO
from rung.algorithms.reward_model import RewardModel
from rung.batch import count_denominators
from rung.forward.planner import Layout
from rung.forward.policy import Policy

pytestmark = pytest.mark.maths

# What each token of `abc` behind `p` was worth, and of `d01ef`, which has two tokens of an environment inside.
POLICY: Table = dict.fromkeys(("pa", "ab", "bc", "pd", "1e", "ef"), 0.2)
KL = {"pa": 0.2, "ab": 0.4, "bc": 0.2, "pd": 0.2, "1e": 0.4, "ef": 0.2, "d0": 7.0, "01": 7.0}
REFERENCE = {pair: 0.2 * exp(-kl) for pair, kl in KL.items()}
VALUES = {"p": 0.5, "a": 0.4, "b": 0.3, "d": 9.0, "0": 9.0, "1": 0.4, "e": 0.3}


@LAYOUTS
@pytest.mark.parametrize("critic", [False, True], ids=["head", "critic"])
def test_advantages_of_values_placed_in_hidden_states(layout: Layout, critic: bool, certify: Certify) -> None:
    """Golden 1 and 3. beta .5 x k1 (.2, .4, .2) and a score of 1 make r = [-.1, -.2, .9]; V = [.5, .4, .3].

    A_2 = .9 - .3 = .6, A_1 = -.2 + .3 - .4 + .95 x .6 = .27, A_0 = -.1 + .4 - .5 + .95 x .27 = .0565; returns = A + V.
    Each row has these three, so whitening by the biased variance of all is that of one: mean .308833, variance
    .049977. An environment's tokens, values of 9 and KL of 7 among them, are skipped.
    """
    policy = policy_with_values(layout, POLICY, REFERENCE, VALUES, critic=critic)
    batch = batch_of_answers(("p", "abc"), ("p", "d01ef"), ("qqp", "abc"), rewards=[1.0, 1.0, 1.0])
    batch = credited(PPO(beta=0.5), policy, batch)
    returns = [[0.5565, 0.67, 0.9, 0, 0], [0.5565, 0, 0, 0.67, 0.9], [0.5565, 0.67, 0.9, 0, 0]]
    certify("ppo", "golden", *assert_close(batch.returns, returns))
    white = [-1.128626, -0.173692, 1.302318]
    certify(
        "ppo", "golden", *assert_close(batch.advantages, [[*white, 0, 0], [white[0], 0, 0, *white[1:]], [*white, 0, 0]])
    )
    terms = summed_losses(PPO(beta=0.5), policy, batch)
    value = 0.1 * 3 / 2 * (0.0565**2 + 0.27**2 + 0.6**2)
    assert terms["policy"] == pytest.approx(0, abs=1e-5), "the ratio is 1, and whitened advantages sum to 0"
    assert terms["value"] == pytest.approx(value, abs=1e-5)
    certify("ppo", "golden", terms, {"policy": 0.0, "value": value})


@LAYOUTS
def test_discounted_advantages(layout: Layout, certify: Certify) -> None:
    """Golden 2. gamma .9, lam .8: A_2 = .6, A_1 = -.2 + .27 - .4 + .72 x .6 = .102, A_0 = -.24 + .72 x .102."""
    batch = batch_of_answers(("qp", "abc"), ("p", "abc"), rewards=[1.0, 1.0])
    batch = credited(PPO(beta=0.5, gamma=0.9, lam=0.8), policy_with_values(layout, POLICY, REFERENCE, VALUES), batch)
    certify("ppo", "golden", *assert_close(batch.returns, [[0.5 - 0.16656, 0.4 + 0.102, 0.3 + 0.6]] * 2))


@LAYOUTS
@pytest.mark.parametrize("critic", [False, True], ids=["head", "critic"])
def test_a_row_that_was_cut_off_goes_on_with_the_value_after_its_last_token(
    layout: Layout, critic: bool, certify: Certify
) -> None:
    """Golden 2. V = .25 after c: A_2 = .9 + .25 - .3 = .85, A_1 = -.3 + .95 x .85, A_0 = -.2 + .95 x .5075 = .282125.

    Rows: cut off after c; ended; cut off after a token of an environment, 2, which has the value .25 too; cut off
    under padding. Without `bootstrap_truncated` all of them end.
    """
    policy = policy_with_values(layout, POLICY, REFERENCE, {**VALUES, "c": 0.25, "2": 0.25, "f": 0.25}, critic=critic)
    rows = (("p", "abc"), ("p", "abc"), ("p", "abc2"), ("qp", "d01ef"))
    batch = batch_of_answers(*rows, rewards=[1.0] * 4, truncated="x xx")
    ended, cut = [0.5565, 0.67, 0.9], [0.5 + 0.282125, 0.4 + 0.5075, 0.3 + 0.85]
    found = credited(PPO(beta=0.5, bootstrap_truncated=True), policy, batch)
    returns = [[*cut, 0, 0], [*ended, 0, 0], [*cut, 0, 0], [cut[0], 0, 0, *cut[1:]]]
    certify("ppo", "golden", *assert_close(found.returns, returns))
    found = credited(PPO(beta=0.5), policy, batch)
    assert_close(found.returns, [[*ended, 0, 0]] * 3 + [[ended[0], 0, 0, *ended[1:]]])


def test_whitened_rewards_keep_their_mean(certify: Certify) -> None:
    """Golden 4. beta 1 and k1 = -1.2, -1.3 .. -2.0 make r = 1.2, 1.3 .. 2.0: mean 1.6, biased variance .066667.

    With gamma 0 and V 0 the returns are the rewards: 1.6 + (r - 1.6) / .258199.
    """
    pairs = ["pa", "ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"]
    reference = {pair: 0.01 * exp(1.2 + 0.1 * t) for t, pair in enumerate(pairs)}
    policy = policy_with_values("shared", dict.fromkeys(pairs, 0.01), reference, dict.fromkeys("pabcdefgh", 0.0))
    batch = credited(
        PPO(beta=1, gamma=0, whiten_rewards=True), policy, batch_of_answers(("p", "abcdefghi"), rewards=[0.0])
    )
    returns = [[0.050807, 0.438105, 0.825403, 1.212702, 1.6, 1.987298, 2.374597, 2.761895, 3.149193]]
    certify("ppo", "golden", *assert_close(batch.returns, returns))


def test_without_a_critic_the_return_is_the_reward_to_go(certify: Certify) -> None:
    """Golden 5. beta .1, k1 = [.1, .2, -.1], R = 1, V 0, gamma and lam 1: 1.01, then - .02, then - .01."""
    kl = {"pa": 0.1, "ab": 0.2, "bc": -0.1}
    reference = {pair: 0.2 * exp(-each) for pair, each in kl.items()}
    policy = policy_with_values("masked", dict.fromkeys(kl, 0.2), reference, dict.fromkeys("pab", 0.0))
    batch = credited(PPO(beta=0.1, lam=1), policy, batch_of_answers(("p", "abc"), rewards=[1.0]))
    certify("ppo", "golden", *assert_close(batch.returns, [[0.98, 0.99, 1.01]]))


def clipped(algorithm: Algorithm, ratio: float, advantage: float, rows: tuple[tuple[str, str], ...]) -> float:
    """The policy loss of the first row after its token got the ratio; the second one keeps 1, has - A and costs A."""
    policy = policy_with_values("plain", {"pa": 0.04, "pb": 0.04, "qb": 0.04}, {}, dict.fromkeys("pq", 0.0))
    batch = credited(algorithm, policy, batch_of_answers(*rows, rewards=[advantage, -advantage]))
    assert_close(batch.advantages, [[advantage], [-advantage]])
    set_probabilities(policy.causal_lm, {"pa": 0.04 * ratio, "pb": 0.04, "qb": 0.04})  # type: ignore[arg-type]
    return summed_losses(algorithm, policy, batch)["policy"] - advantage


CASES = [(1.25, 1.0, -1.25), (1.5, 1.0, -1.28), (0.7, 1.0, -0.7), (0.7, -1.0, 0.8), (1.5, -1.0, 1.5), (20, -1.0, 20)]


@pytest.mark.parametrize(("ratio", "advantage", "loss"), CASES)
def test_clip_higher(ratio: float, advantage: float, loss: float, certify: Certify) -> None:
    """Golden 12. Bounds .8 and 1.28; a group of two rewards A and - A, centred, is its own advantage."""
    algorithm = DAPO(scale_rewards="none", overlong_buffer=0)
    found = clipped(algorithm, ratio, advantage, (("p", "a"), ("p", "b")))
    assert found == pytest.approx(loss, abs=1e-5)
    certify("dapo", "golden", found, loss)


@pytest.mark.parametrize("delta", [3.0, 10.0])
def test_dual_clip(delta: float, certify: Certify) -> None:
    """Golden 12. A ratio of 20 under A = -1 costs delta and not 20."""
    for algorithm, rows in (
        (DAPO(scale_rewards="none", overlong_buffer=0, delta=delta), (("p", "a"), ("p", "b"))),
        (PPO(beta=0, delta=delta), (("p", "a"), ("q", "b"))),
    ):
        found = clipped(algorithm, 20, -1.0, rows)
        assert found == pytest.approx(delta, abs=1e-5)
        certify(algorithm.name, "golden", found, delta)


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [(1.25, 1.0, -1.2), *CASES[2:]])
def test_symmetric_clip(ratio: float, advantage: float, loss: float, certify: Certify) -> None:
    """Golden 12. Bounds .8 and 1.2; advantages A and - A have mean 0 and variance 1: whitening leaves them."""
    found = clipped(PPO(beta=0), ratio, advantage, (("p", "a"), ("q", "b")))
    assert found == pytest.approx(loss, abs=1e-5)
    certify("ppo", "golden", found, loss)


@LAYOUTS
@pytest.mark.parametrize(
    "algorithm", [GSPO(scale_rewards="none"), GSPOToken(scale_rewards="none")], ids=["gspo", "token"]
)
@pytest.mark.parametrize(("advantage", "loss"), [(1.0, -1.0004), (-1.0, 1.005013)])
def test_a_completion_has_one_ratio(
    layout: Layout, algorithm: GSPO, advantage: float, loss: float, certify: Certify
) -> None:
    """Golden 13. Delta = [.02, -.01, .005]: s = exp(.005) = 1.005013, above 1.0004: a gain is cut, a loss is not.

    The other row of the group has s = 1 and - A, so it costs A.
    """
    moved = {"pa": 0.02, "ab": -0.01, "bc": 0.005}
    before = {**dict.fromkeys(moved, 0.2), "pd": 0.2, "1e": 0.2}
    policy = policy_with_values(layout, before, {}, {})
    batch = batch_of_answers(("p", "abc"), ("p", "d01e"), rewards=[advantage, -advantage])
    batch = credited(algorithm, policy, batch)
    after = {pair: 0.2 * exp(step) for pair, step in moved.items()}
    set_probabilities(policy.causal_lm, {**before, **after})  # type: ignore[arg-type]
    found = summed_losses(algorithm, policy, batch)["policy"]
    assert found == pytest.approx(loss + advantage, abs=1e-5)
    certify(algorithm.name, "golden", found, loss + advantage)


@pytest.mark.parametrize("unit", ["sequence_sum", "token_mean"])
@pytest.mark.parametrize(("kl", "beta"), [(3, 0.149808), (6, 0.15), (6.6, 0.150096), (9, 0.150192)])
def test_adaptive_coefficient(kl: float, beta: float, unit: str, certify: Certify) -> None:
    """Golden 17. 64 rows of 4 tokens, target 6, horizon 10000: beta x (1 + clip(KL/6 - 1, +-.2) x 64 / 10000).

    A rollout is credited with the coefficient of before, the next one with what it was steered to; the state is JSON.
    """
    algorithm = PPO.model_validate({"beta": 0.15, "kl_target": 6, "kl_unit": unit})
    token = kl / 4 if unit == "sequence_sum" else kl
    pairs: list[str] = ["pa", "ab", "bc", "cd"]
    reference = dict.fromkeys(pairs, 0.2 * exp(-token))
    policy = policy_with_values("shared", dict.fromkeys(pairs, 0.2), reference, dict.fromkeys("pabc", 0.0))
    batch = algorithm.prepare(batch_of_answers(*[("p", "abcd")] * 64, rewards=[0.0] * 64), policy)
    before = algorithm.initial_state()
    first, state = algorithm.credit(batch, before)
    assert state["beta"] == pytest.approx(beta, abs=1e-6)
    certify("ppo", "golden", state["beta"], beta)
    seen = algorithm.rollout_metrics(first, before)
    assert seen["beta"].value() == 0.15
    assert seen["kl/sequence_sum"].value() == pytest.approx(4 * token, abs=1e-4)
    assert first.returns is not None
    assert first.returns[0, -1].item() == pytest.approx(-0.15 * token, abs=1e-5)
    state = json.loads(json.dumps(dict(state)))
    second, _ = algorithm.credit(batch, state)
    assert algorithm.rollout_metrics(second, state)["beta"].value() == pytest.approx(beta, abs=1e-6)
    assert second.returns is not None
    assert second.returns[0, -1].item() == pytest.approx(-beta * token, abs=1e-5)


@LAYOUTS
@pytest.mark.parametrize(("value", "target", "loss"), [(1.0, 0.0, 0.5), (0.9, 1.0, 0.045)])
def test_value_loss_is_the_larger_of_plain_and_clipped(
    layout: Layout, value: float, target: float, loss: float, certify: Certify
) -> None:
    """Golden 19. V_old .5, range .2: V = 1 against 0 costs 1/2 x 1; V = .9 against 1 counts as .7 and costs 1/2 x .09.

    The return of an answer of one token is its score. `vf_coef` is .1.
    """
    policy = policy_with_values(layout, {"pa": 0.2}, {}, {"p": 0.5})
    batch = credited(PPO(beta=0), policy, batch_of_answers(("p", "a"), rewards=[target]))
    policy.value_head = head_of({"p": value})
    found = summed_losses(PPO(beta=0), policy, batch)["value"]
    assert found == pytest.approx(0.1 * loss, abs=1e-6)
    certify("ppo", "golden", found, 0.1 * loss)


@LAYOUTS
@pytest.mark.parametrize(
    ("settings", "margin", "loss"),
    [({}, 0.0, 0.313262), ({}, 0.5, 0.474077), ({"center_rewards_coefficient": 0.01}, 0.0, 0.353262)],
    ids=["plain", "margin", "centering"],
)
def test_a_verdict_is_read_at_the_last_attended_token(
    layout: Layout, settings: dict[str, float], margin: float, loss: float, certify: Certify
) -> None:
    """Golden 23. s = (1.5, .5): -log sigma(1); with margin .5: -log sigma(.5); with c = .01: + .01 x 2^2.

    Two pairs. b and 0 hold 1.5, e holds .5; the second chosen row ends in a token that is attended and not trained.
    """
    algorithm = RewardModel.model_validate(settings)
    policy = with_layout(Policy(table_model({}), score_head=head_of({"b": 1.5, "0": 1.5, "e": 0.5})), layout)
    batch = batch_of_answers(("p", "ab"), ("p", "cde"), ("qqp", "a0"), ("qqp", "e"))
    batch = batch.replace_extras(margin=torch.full((4,), margin))
    mean = summed_losses(algorithm, policy, batch)["pairs"] / float(
        count_denominators(algorithm.terms(), batch)["pairs"]
    )
    assert mean == pytest.approx(loss, abs=1e-5)
    certify("reward_model", "golden", mean, loss)

"""Numbers derived by hand through the code that trains: `prepare`, `credit`, `parts` and `loss` of a real model.

The model is a Llama whose layers add nothing to its one-hot embeddings, so the hidden state of a position is 4 times
the one-hot vector of its token. Its LM head is then a table of next-token probabilities, and a head on hidden states a
table of numbers by token. Every token that nothing should be read from, padding included, holds 100.
"""

import json
from collections.abc import Mapping
from math import exp

import pytest
import torch
from certificate import Certify
from transformers import LlamaConfig, LlamaForCausalLM

from rung.algorithm import Algorithm
from rung.algorithms.dapo import DAPO
from rung.algorithms.gspo import GSPO, GSPOToken
from rung.algorithms.ppo import PPO
from rung.algorithms.reward_model import RewardModel
from rung.batch import Batch, count
from rung.planner import Layout
from rung.policy import Policy

pytestmark = pytest.mark.maths

LAYOUTS = pytest.mark.parametrize("layout", ["plain", "shared", "masked"])
TOKENS = "_abcdefghijpq012"  # `_` pads; a digit inside a completion is attended and not trained
UNREAD = 100.0
Table = Mapping[str, float]  # probabilities by two letters, a token and the next; or numbers by token


def table_model(probabilities: Table) -> LlamaForCausalLM:
    size = len(TOKENS)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
    place(model, probabilities)
    return model


@torch.no_grad()
def place(model: LlamaForCausalLM, probabilities: Table) -> None:
    """Gives the LM head these probabilities; what they leave of 1 is shared by the other tokens."""
    for i, token in enumerate(TOKENS):
        given = {TOKENS.index(pair[1]): p for pair, p in probabilities.items() if pair[0] == token}
        rest = (1 - sum(given.values())) / (len(TOKENS) - len(given))
        table = torch.full((len(TOKENS),), rest, dtype=torch.float64)
        table[list(given)] = torch.tensor(list(given.values()), dtype=torch.float64)
        model.lm_head.weight[:, i] = (table.log() / 4).float()


def head(numbers: Table) -> torch.nn.Linear:
    made = torch.nn.Linear(len(TOKENS), 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[numbers.get(token, UNREAD) / 4 for token in TOKENS]]))
    return made


def laid_out(policy: Policy, layout: Layout) -> Policy:
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign]
    return policy


def valued(layout: Layout, policy: Table, reference: Table, values: Table, *, critic: bool = False) -> Policy:
    """A policy with a reference, and the values of its own hidden states or of a critic's."""
    apart = table_model({}) if critic else None
    made = Policy(table_model(policy), value_head=head(values), critic=apart, reference=table_model(reference))
    return laid_out(made, layout)


def answers(*rows: tuple[str, str], rewards: list[float] | None = None, truncated: str = "") -> Batch:
    """A prompt and a completion a row, rows of a prompt adjacent and one group; `truncated` has an x for a cut row."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
    prompt_of = torch.tensor([prompts.index(prompt) for prompt, _ in rows])
    completions = [completion for _, completion in rows]
    width, prompt_width = max(map(len, completions)), max(map(len, prompts))

    def ids(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[TOKENS.index(letter) for letter in text] for text in texts])

    completion_ids = ids([text.ljust(width, "_") for text in completions])
    prompt_ids = ids([text.rjust(prompt_width, "_") for text in prompts])
    return Batch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_ids != 0,
        prompt_of=prompt_of,
        group_of=prompt_of,
        completion_ids=completion_ids,
        completion_mask=completion_ids != 0,
        loss_mask=(completion_ids != 0) & (completion_ids < TOKENS.index("0")),
        row_ids=tuple(completions),
        truncated=torch.tensor([mark == "x" for mark in truncated.ljust(len(rows))]),
        rewards=torch.tensor(rewards) if rewards else None,
    )


def credited(algorithm: Algorithm, policy: Policy, batch: Batch) -> Batch:
    return algorithm.credit(algorithm.prepare(batch, policy), algorithm.initial_state())[0]


def lost(algorithm: Algorithm, policy: Policy, batch: Batch) -> dict[str, float]:
    """The sums that a step would divide by its denominators."""
    losses = [algorithm.loss(part, outputs).terms for part, outputs in policy.parts(batch, algorithm)]
    return {name: sum(float(loss[name].detach()) for loss in losses) for name in algorithm.units()}


def close(actual: torch.Tensor | None, expected: list[list[float]]) -> tuple[torch.Tensor | None, list[list[float]]]:
    """Both of them, which agree."""
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0)
    return actual, expected


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
    policy = valued(layout, POLICY, REFERENCE, VALUES, critic=critic)
    batch = answers(("p", "abc"), ("p", "d01ef"), ("qqp", "abc"), rewards=[1.0, 1.0, 1.0])
    batch = credited(PPO(beta=0.5), policy, batch)
    returns = [[0.5565, 0.67, 0.9, 0, 0], [0.5565, 0, 0, 0.67, 0.9], [0.5565, 0.67, 0.9, 0, 0]]
    certify("ppo", "golden", *close(batch.returns, returns))
    white = [-1.128626, -0.173692, 1.302318]
    certify("ppo", "golden", *close(batch.advantages, [[*white, 0, 0], [white[0], 0, 0, *white[1:]], [*white, 0, 0]]))
    terms = lost(PPO(beta=0.5), policy, batch)
    value = 0.1 * 3 / 2 * (0.0565**2 + 0.27**2 + 0.6**2)
    assert terms["policy"] == pytest.approx(0, abs=1e-5), "the ratio is 1, and whitened advantages sum to 0"
    assert terms["value"] == pytest.approx(value, abs=1e-5)
    certify("ppo", "golden", terms, {"policy": 0.0, "value": value})


@LAYOUTS
def test_discounted_advantages(layout: Layout, certify: Certify) -> None:
    """Golden 2. gamma .9, lam .8: A_2 = .6, A_1 = -.2 + .27 - .4 + .72 x .6 = .102, A_0 = -.24 + .72 x .102."""
    batch = answers(("qp", "abc"), ("p", "abc"), rewards=[1.0, 1.0])
    batch = credited(PPO(beta=0.5, gamma=0.9, lam=0.8), valued(layout, POLICY, REFERENCE, VALUES), batch)
    certify("ppo", "golden", *close(batch.returns, [[0.5 - 0.16656, 0.4 + 0.102, 0.3 + 0.6]] * 2))


@LAYOUTS
@pytest.mark.parametrize("critic", [False, True], ids=["head", "critic"])
def test_a_row_that_was_cut_off_goes_on_with_the_value_after_its_last_token(
    layout: Layout, critic: bool, certify: Certify
) -> None:
    """Golden 2. V = .25 after c: A_2 = .9 + .25 - .3 = .85, A_1 = -.3 + .95 x .85, A_0 = -.2 + .95 x .5075 = .282125.

    Rows: cut off after c; ended; cut off after a token of an environment, 2, which has the value .25 too; cut off
    under padding. Without `bootstrap_truncated` all of them end.
    """
    policy = valued(layout, POLICY, REFERENCE, {**VALUES, "c": 0.25, "2": 0.25, "f": 0.25}, critic=critic)
    rows = (("p", "abc"), ("p", "abc"), ("p", "abc2"), ("qp", "d01ef"))
    batch = answers(*rows, rewards=[1.0] * 4, truncated="x xx")
    ended, cut = [0.5565, 0.67, 0.9], [0.5 + 0.282125, 0.4 + 0.5075, 0.3 + 0.85]
    found = credited(PPO(beta=0.5, bootstrap_truncated=True), policy, batch)
    returns = [[*cut, 0, 0], [*ended, 0, 0], [*cut, 0, 0], [cut[0], 0, 0, *cut[1:]]]
    certify("ppo", "golden", *close(found.returns, returns))
    found = credited(PPO(beta=0.5), policy, batch)
    close(found.returns, [[*ended, 0, 0]] * 3 + [[ended[0], 0, 0, *ended[1:]]])


def test_whitened_rewards_keep_their_mean(certify: Certify) -> None:
    """Golden 4. beta 1 and k1 = -1.2, -1.3 .. -2.0 make r = 1.2, 1.3 .. 2.0: mean 1.6, biased variance .066667.

    With gamma 0 and V 0 the returns are the rewards: 1.6 + (r - 1.6) / .258199.
    """
    pairs = ["pa", "ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"]
    reference = {pair: 0.01 * exp(1.2 + 0.1 * t) for t, pair in enumerate(pairs)}
    policy = valued("shared", dict.fromkeys(pairs, 0.01), reference, dict.fromkeys("pabcdefgh", 0.0))
    batch = credited(PPO(beta=1, gamma=0, whiten_rewards=True), policy, answers(("p", "abcdefghi"), rewards=[0.0]))
    returns = [[0.050807, 0.438105, 0.825403, 1.212702, 1.6, 1.987298, 2.374597, 2.761895, 3.149193]]
    certify("ppo", "golden", *close(batch.returns, returns))


def test_without_a_critic_the_return_is_the_reward_to_go(certify: Certify) -> None:
    """Golden 5. beta .1, k1 = [.1, .2, -.1], R = 1, V 0, gamma and lam 1: 1.01, then - .02, then - .01."""
    kl = {"pa": 0.1, "ab": 0.2, "bc": -0.1}
    reference = {pair: 0.2 * exp(-each) for pair, each in kl.items()}
    policy = valued("masked", dict.fromkeys(kl, 0.2), reference, dict.fromkeys("pab", 0.0))
    batch = credited(PPO(beta=0.1, lam=1), policy, answers(("p", "abc"), rewards=[1.0]))
    certify("ppo", "golden", *close(batch.returns, [[0.98, 0.99, 1.01]]))


def clipped(algorithm: Algorithm, ratio: float, advantage: float, rows: tuple[tuple[str, str], ...]) -> float:
    """The policy loss of the first row after its token got the ratio; the second one keeps 1, has - A and costs A."""
    policy = valued("plain", {"pa": 0.04, "pb": 0.04, "qb": 0.04}, {}, dict.fromkeys("pq", 0.0))
    batch = credited(algorithm, policy, answers(*rows, rewards=[advantage, -advantage]))
    close(batch.advantages, [[advantage], [-advantage]])
    place(policy.causal_lm, {"pa": 0.04 * ratio, "pb": 0.04, "qb": 0.04})  # type: ignore[arg-type]
    return lost(algorithm, policy, batch)["policy"] - advantage


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
    policy = valued(layout, before, {}, {})
    batch = answers(("p", "abc"), ("p", "d01e"), rewards=[advantage, -advantage])
    batch = credited(algorithm, policy, batch)
    after = {pair: 0.2 * exp(step) for pair, step in moved.items()}
    place(policy.causal_lm, {**before, **after})  # type: ignore[arg-type]
    found = lost(algorithm, policy, batch)["policy"]
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
    policy = valued("shared", dict.fromkeys(pairs, 0.2), reference, dict.fromkeys("pabc", 0.0))
    batch = algorithm.prepare(answers(*[("p", "abcd")] * 64, rewards=[0.0] * 64), policy)
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
    policy = valued(layout, {"pa": 0.2}, {}, {"p": 0.5})
    batch = credited(PPO(beta=0), policy, answers(("p", "a"), rewards=[target]))
    policy.value_head = head({"p": value})
    found = lost(PPO(beta=0), policy, batch)["value"]
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
    policy = laid_out(Policy(table_model({}), final_head=head({"b": 1.5, "0": 1.5, "e": 0.5})), layout)
    batch = answers(("p", "ab"), ("p", "cde"), ("qqp", "a0"), ("qqp", "e"))
    batch = batch.replace_extras(margin=torch.full((4,), margin))
    mean = lost(algorithm, policy, batch)["pairs"] / float(count(algorithm.units(), batch)["pairs"])
    assert mean == pytest.approx(loss, abs=1e-5)
    certify("reward_model", "golden", mean, loss)

"""Distillation: by hand, against TRL, the teacher in each layout, and students that learn from one."""

from collections.abc import Callable
from math import log
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.losses import DTYPES, Result, assert_same
from helpers.policies import gradient, relative_error, tiny_policy
from helpers.table_model import LAYOUTS, batch_of_answers, summed_losses, table_model, with_layout
from rung.algorithms.distill import Distill
from rung.batch import Batch, Outputs, count_denominators
from rung.forward.planner import Layout
from rung.forward.policy import Policy, scatter_to_mask
from rung.maths.tensors import forward_kl, jensen_shannon, reverse_kl
from rung.sampling import Sampling
from rung.tiny.models import build

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)

# Golden 24: p_s = (.7, .2, .1), p_t = (.5, .3, .2).
STUDENT, TEACHER = (0.7, 0.2, 0.1), (0.5, 0.3, 0.2)
DIVERGENCES = {0.0: 0.092033, 1.0: 0.085123, 0.5: 0.021901, 0.1: 0.008185, 0.9: 0.007695}
GOLDEN = pytest.mark.parametrize(("beta", "divergence"), list(DIVERGENCES.items()))
PROMPTS = [{"prompt": f"number {i}"} for i in range(32)]
TOLD = [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in range(32)]
SHORT: dict[str, Any] = {"rollout": {"batch_size": 8, "max_completion_length": 8}}


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def divergence_of(beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    return Distill(beta=beta).teacher_readouts()["divergence"]


@pytest.mark.maths
@LAYOUTS
@GOLDEN
def test_divergences_of_three_tokens(layout: Layout, beta: float, divergence: float, certify: Certify) -> None:
    """Golden 24, at both tokens of `ab` and at the first of `c`, whose second is an environment's: three times.

    KL(p_t || p_s) = .5 ln(5/7) + .3 ln 1.5 + .2 ln 2 = .092033, KL(p_s || p_t) = .7 ln 1.4 + .2 ln(2/3) + .1 ln .5 =
    .085123. At beta .5, m = (.6, .25, .15): the mean of both KLs to it is .021901.
    """
    ps, pt = (
        {f"{at}{to}": p - 1e-8 for at in "pa" for to, p in zip("abc", ps, strict=True)} for ps in (STUDENT, TEACHER)
    )
    policy = with_layout(Policy(table_model(ps), teacher=table_model(pt)), layout)
    found = summed_losses(Distill(beta=beta), policy, batch_of_answers(("p", "ab"), ("p", "c0")))
    assert found == {"divergence": pytest.approx(3 * divergence, abs=1e-5)}
    certify("distill", "golden", found["divergence"], 3 * divergence)


@pytest.mark.maths
def test_the_temperature_softens_both_distributions() -> None:
    """At 2 a probability p counts as its square root over their sum."""
    soft = [[p**0.5 / sum(q**0.5 for q in ps) for p in ps] for ps in (STUDENT, TEACHER)]
    expected = sum(own * log(own / other) for own, other in zip(*soft, strict=True))
    found = reverse_kl(logits_of(*STUDENT) / 2, logits_of(*TEACHER) / 2)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.maths
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 9))
def test_gradients_of_both_kls(seed: int, size: int) -> None:
    """By z_j: the forward KL's is p_j - q_j; the reverse KL's p_j (ln(p_j / q_j) - KL), which is also what sampled
    tokens give on average whose advantage is ln(q / p): on-policy distillation as reinforcement.
    """
    generator = torch.Generator().manual_seed(seed)
    z, other = torch.randn(2, 1, size, generator=generator, dtype=torch.float64) * 2
    z.requires_grad_()
    p, q = z.softmax(-1), other.softmax(-1)
    (forward,) = torch.autograd.grad(forward_kl(z, other).sum(), z)
    torch.testing.assert_close(forward, (p - q).detach())
    (reverse,) = torch.autograd.grad(reverse_kl(z, other).sum(), z)
    gap = (p.log() - q.log()).detach()
    torch.testing.assert_close(reverse, p.detach() * (gap - (p.detach() * gap).sum()))
    (sampled,) = torch.autograd.grad((p.detach() * gap * p.log()).sum(), z)
    torch.testing.assert_close(reverse, sampled)


@pytest.mark.maths
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), beta=st.sampled_from(BETAS))
def test_a_divergence_is_0_for_equals_and_positive_for_others(seed: int, beta: float) -> None:
    """Constants added to logits count nothing; the Jensen-Shannon divergence is at most the entropy of beta."""
    generator = torch.Generator().manual_seed(seed)
    logits, teachers = 5 * torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    divergence = divergence_of(beta)
    assert divergence(logits, logits + 3).abs().max() < 1e-12
    found = divergence(logits, teachers)
    assert float(found.min()) > 0
    if 0 < beta < 1:
        assert float(found.max()) <= -beta * log(beta) - (1 - beta) * log(1 - beta) + 1e-12
        torch.testing.assert_close(found, jensen_shannon(teachers, logits, 1 - beta))


def ours(distill: Distill, batch: Batch, logits: Tensor, teachers: Tensor, temperature: float) -> Result:
    leaf = logits.clone().requires_grad_()
    mask = batch.loss_mask
    pairs = leaf[mask] / temperature, teachers[mask] / temperature
    read = {name: scatter_to_mask(readout(*pairs), mask) for name, readout in distill.teacher_readouts().items()}
    outputs = Outputs(logps=torch.full(mask.shape, torch.nan), readouts={**read, "entropy": torch.zeros(mask.shape)})
    loss = distill.loss(batch, outputs).over(count_denominators(distill.terms(), batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def trls(beta: float, batch: Batch, logits: Tensor, teachers: Tensor, temperature: float) -> Result:
    from trl.experimental.gkd import GKDTrainer

    leaf = logits.clone().requires_grad_()
    labels = batch.completion_ids.masked_fill(~batch.loss_mask, -100)
    loss = GKDTrainer.generalized_jsd_loss(
        leaf, teachers, labels, beta, temperature, num_items_in_batch=batch.loss_mask.sum()
    )
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.oracle
@DTYPES
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("beta", BETAS)
def test_loss_and_gradient_equal_trl(beta: float, temperature: float, dtype: torch.dtype, certify: Certify) -> None:
    generator = torch.Generator().manual_seed(int(10 * beta))
    batch = random_batch(generator)
    shape = (2, *batch.completion_ids.shape, 31)
    logits, teachers = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    mine = ours(Distill(beta=beta), batch, logits, teachers, temperature)
    certify("distill", "oracle", *assert_same(mine, trls(beta, batch, logits, teachers, temperature), dtype))


@pytest.mark.oracle
@pytest.mark.parametrize("beta", BETAS)
def test_a_forward_equals_trls_over_the_same_hidden_states(beta: float) -> None:
    """Its chunked loss, from the last hidden states of both models: heads, widths and temperature included."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    policy = taught("llama", "gpt2")
    policy.sampling = Sampling(max_completion_length=1, temperature=1.3)
    batch = random_batch(torch.Generator().manual_seed(4))
    value, grad = stepped(policy, batch, Distill(beta=beta))
    models: Any = (policy.causal_lm, policy.teacher)
    heads = [model.lm_head.weight for model in models]
    policy.model.zero_grad()
    total = 0.0
    for row in range(batch.num_rows):
        prompt = batch.prompt_ids[batch.prompt_of[row]][batch.prompt_mask[batch.prompt_of[row]]]
        answer = batch.completion_ids[row][batch.completion_mask[row]]
        ids = torch.cat([prompt, answer])[None]
        hidden = [model.base_model(input_ids=ids).last_hidden_state[:, len(prompt) - 1 : -1] for model in models]
        mask = batch.loss_mask[row][None, : len(answer)]
        more: Any = {"num_items_in_batch": batch.loss_mask.sum(), "temperature": policy.temperature}
        loss, _, _ = _chunked_divergence_loss(hidden[0], hidden[1], heads[0], heads[1], mask, beta, **more)
        loss.backward()
        total += float(loss.detach())
    assert value == pytest.approx(total, rel=1e-5)
    assert relative_error(grad, gradient(policy)) < 1e-5


def taught(student: str, teacher: str) -> Policy:
    """A tiny policy with a frozen teacher of other weights."""
    policy = tiny_policy(student)
    policy.teacher = build(teacher, seed=7)[0].requires_grad_(False)
    return policy


def stepped(policy: Policy, batch: Batch, distill: Distill, *, token_budget: int = 10_000) -> tuple[float, Tensor]:
    """The loss over one step, and its gradient."""
    policy.model.zero_grad()
    policy.token_budget = token_budget
    denominators, total = count_denominators(distill.terms(), batch), 0.0
    for part, outputs in policy.parts(batch, distill):
        loss = distill.loss(part, outputs).over(denominators)
        loss.backward()
        total += float(loss.detach())
    return total, gradient(policy)


@pytest.mark.parametrize(
    ("student", "teacher", "beta"), [("llama", "gemma3", 1.0), ("gemma3", "qwen3", 0.5), ("gpt2", "llama", 0.0)]
)
def test_layouts_and_chunks_agree(student: str, teacher: str, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher of another family, each under its own masks and cache, from one row at a time to all at once."""
    policy = taught(student, teacher)
    batch = random_batch(torch.Generator().manual_seed(3), prompts=4)
    value, grad = stepped(with_layout(policy, "plain"), batch, Distill(beta=beta), token_budget=1)
    assert value > 0
    for size in (2**28, 3 * 2 * 4 * policy.causal_lm.config.vocab_size):
        monkeypatch.setattr("rung.forward.logprobs.LOGITS_BYTES", size)
        for layout in ("plain", "shared", "masked"):
            found, other = stepped(with_layout(policy, layout), batch, Distill(beta=beta), token_budget=60)
            assert found == pytest.approx(value, rel=1e-5)
            assert relative_error(other, grad) < 1e-5


@LAYOUTS
@pytest.mark.parametrize("beta", BETAS)
def test_a_policy_that_is_its_teacher_stays(layout: Layout, beta: float) -> None:
    policy = with_layout(tiny_policy("qwen3"), layout)
    policy.teacher = policy.snapshot()
    value, grad = stepped(policy, random_batch(torch.Generator().manual_seed(3)), Distill(beta=beta))
    assert abs(value) < 1e-6
    assert float(grad.norm()) < 1e-5


def test_a_teacher_decides_about_layouts_too_and_is_left_as_it_is() -> None:
    policy = taught("llama", "qwen3")
    assert policy.teacher is not None
    before = [parameter.clone() for parameter in policy.teacher.parameters()]
    assert policy.layouts() == ("plain", "shared", "masked")
    stepped(policy, random_batch(torch.Generator().manual_seed(3)), Distill())
    assert all(parameter.grad is None for parameter in policy.teacher.parameters())
    assert all(torch.equal(*both) for both in zip(policy.teacher.parameters(), before, strict=True))
    assert not any(name.startswith("teacher") for name in policy.named_parameters())
    policy.teacher.config.model_type = "mistral"  # type: ignore[misc]
    assert policy.layouts() == ("plain", "shared")


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_padding_of_a_head_counts_nothing(side: str) -> None:
    """A larger model of a family has more rows in its head than its tokenizer has tokens."""
    policy = taught("llama", "gpt2")
    batch = random_batch(torch.Generator().manual_seed(3))
    value, _ = stepped(policy, batch, Distill(beta=0.5))
    wider = policy.teacher if side == "teacher" else policy.causal_lm
    assert wider is not None
    wider.resize_token_embeddings(wider.config.vocab_size + 9, mean_resizing=False)
    assert stepped(policy, batch, Distill(beta=0.5))[0] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("completions", "beta"), [("policy", 1.0), ("data", 0.5), ("data", 0.0)])
def test_a_student_learns_from_its_teacher(completions: Literal["policy", "data"], beta: float) -> None:
    distill = Distill(completions=completions, beta=beta)
    more = {"data": PROMPTS, **SHORT} if completions == "policy" else {"data": TOLD, "batch_size": 8}
    stage = rung.train(distill, model="tiny:llama", teacher="tiny:gemma3", max_steps=12, learning_rate=3e-3, **more)
    steps = list(stage)
    assert all(0 < step.metrics["teacher_entropy"].value() < log(300) for step in steps)  # type: ignore[operator]
    assert steps[-1].loss < 0.75 * steps[0].loss


def judged(completions: list[str], **columns: Any) -> list[float | None]:
    """Abstains on every other completion."""
    return [float(number) if number % 2 else None for number in range(len(completions))]


def test_rewards_may_be_given_and_are_logged_and_change_nothing() -> None:
    """The rows that they abstain from are learnt on like the others."""

    def losses(**more: Any) -> tuple[list[tuple[float, int]], dict[str, Any], list[dict[str, Any]]]:
        stage = rung.train(
            Distill(), model="tiny:llama", teacher="tiny:gpt2", data=PROMPTS, max_steps=2, **SHORT, **more
        )
        steps = [(step.loss, step.num_tokens) for step in stage]
        return steps, *stage.source.pop_report()

    plain, metrics, table = losses()
    assert metrics["reward"].value() is None
    assert [row["reward"] for row in table] == [None] * 16
    found, metrics, table = losses(rewards=judged)
    assert found == plain
    assert metrics["rewards/judged/abstained"].value() == 0.5
    assert [row["reward"] for row in table[:4]] == [None, 1.0, None, 3.0]


def test_one_temperature_divides_logits_and_samples() -> None:
    """The stage's, of answers that are only read too."""
    hot: dict[str, Any] = {"rollout": {"batch_size": 4, "max_completion_length": 4, "temperature": 2.0}}
    more: dict[str, Any] = {"teacher": "tiny:gpt2", "model": "tiny:llama", "max_steps": 1}
    stage = rung.train(Distill(), data=PROMPTS, **more, **hot)
    assert stage.policy.temperature == stage.source.generator.sampling.temperature == 2.0  # type: ignore[attr-defined]
    data = Distill(completions="data")
    stage = rung.train(data, data=TOLD, batch_size=4, rollout={"temperature": 2.0}, **more)
    assert stage.policy.temperature == 2.0
    found = next(iter(stage)).loss
    assert 0 < found < next(iter(rung.train(data, data=TOLD, batch_size=4, **more))).loss

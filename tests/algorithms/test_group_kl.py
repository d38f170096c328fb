"""The gradient of each KL estimator is that of the exact KL, by enumeration of every answer."""

import itertools
from dataclasses import replace

import pytest
import torch

from helpers.batches import random_batch
from helpers.certificate import Certify
from rung.algorithms.cispo import CISPO
from rung.algorithms.gmpo import GMPO
from rung.algorithms.grpo import GRPO
from rung.algorithms.gspo import GSPO
from rung.algorithms.rloo import RLOO
from rung.algorithms.sapo import SAPO
from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import KLEstimator
from rung.algorithms.vespo import VESPO
from rung.batch import Batch, Outputs

VOCABULARY = 3


def every_answer(seed: int) -> tuple[torch.Tensor, Batch, torch.Tensor, torch.Tensor]:
    """All answers of two tokens: logits (1 + V, V) of a policy, the batch, a reference's logits, how likely each is."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (
        torch.randn(1 + VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    answers = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=2)))
    batch = random_batch(generator, prompts=1, rows=(len(answers), len(answers)), length=(2, 2))
    old = logps_of(logits, answers)
    batch = replace(
        batch,
        completion_ids=answers,
        completion_mask=torch.ones_like(answers).bool(),
        loss_mask=torch.ones_like(answers).bool(),
        old_logps=old,
        ref_logps=logps_of(reference, answers),
        advantages=torch.zeros_like(old),
    )
    return logits, batch, reference, old.sum(1).exp()


def logps_of(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    tables = logits.log_softmax(-1)
    return torch.stack([tables[0][answers[:, 0]], tables[1 + answers[:, 0], answers[:, 1]]], 1)


def differentiated(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


def step_by_step(logits: torch.Tensor, reference: torch.Tensor, *, backwards: bool = False) -> torch.Tensor:
    """The KL of each next token, summed over the prefixes that the policy reaches, which are held fixed."""
    policy, other = logits.log_softmax(-1), reference.log_softmax(-1)
    left, right = (other, policy) if backwards else (policy, other)
    reached = torch.cat([torch.ones(1, dtype=torch.float64), policy[0].exp()]).detach()
    return (reached * (left.exp() * (left - right)).sum(1)).sum()


@pytest.mark.maths
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("estimator", "backwards"), [("rho_k3", False), ("k2", False), ("k3", True)])
@pytest.mark.parametrize("made", [GRPO, GSPO, GMPO, CISPO, SAPO, VESPO])
def test_a_kl_in_the_loss_has_the_gradient_that_it_is_said_to_have(
    made: type[GroupRelative], estimator: KLEstimator, backwards: bool, seed: int, certify: Certify
) -> None:
    """Summed over every answer, each weighed by how likely it is: KL(policy to reference), of plain k3 the other one.

    The ratio beside k3 is the token's own, whatever ratio the objective has.
    """
    logits, batch, reference, probability = every_answer(seed)
    leaf = logits.clone().requires_grad_()
    logps = logps_of(leaf, batch.completion_ids)
    algorithm = made(beta=1, kl_estimator=estimator, reduction="row_sum")
    total = torch.zeros((), dtype=torch.float64)
    for row in range(batch.num_rows):
        part = batch.select(torch.tensor([row]))
        outputs = Outputs(logps=logps[row : row + 1], readouts={"entropy": torch.zeros(1, 2)})
        total = total + probability[row] * algorithm.loss(part, outputs).terms["policy"]
    wanted = differentiated(step_by_step(leaf, reference, backwards=backwards), leaf)
    found = differentiated(total, leaf)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    certify(algorithm.name, "golden", found, wanted)


@pytest.mark.maths
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("made", [RLOO, GRPO, SAPO, CISPO, VESPO])
def test_k1_in_the_reward_has_the_gradient_of_the_kl_of_completions(
    made: type[GroupRelative], seed: int, certify: Certify
) -> None:
    """Every pair of answers is a group, as likely as the two together; rewards are 0.

    In expectation the other answer is a constant, so what is left is beta x the gradient of KL(policy to reference) of
    whole answers, which also sees that the prefixes change. The mean of a group of two is half of that.
    """
    logits, batch, reference, probability = every_answer(seed)
    pairs = torch.tensor(list(itertools.product(range(batch.num_rows), repeat=2)))
    rows = pairs.flatten()
    leaf = logits.clone().requires_grad_()
    grouped = replace(
        batch,
        **{name: getattr(batch, name)[rows] for name in ("completion_ids", "completion_mask", "loss_mask")},
        old_logps=batch.old_logps[rows],  # type: ignore[index]
        ref_logps=batch.ref_logps[rows],  # type: ignore[index]
        prompt_of=torch.zeros_like(rows),
        group_of=torch.arange(len(pairs)).repeat_interleave(2),
        rewards=torch.zeros(len(rows), dtype=torch.float64),
        row_ids=("",) * len(rows),
        advantages=None,
    )
    algorithm = made(beta=1, kl_estimator="k1", scale_rewards="none", num_generations=2)
    grouped = algorithm.credit(grouped, {})[0]
    loss, _ = algorithm.objective(logps_of(leaf, grouped.completion_ids), grouped)
    per_row = loss.mean(1) if made is RLOO else loss.sum(1)  # the reduction of each
    total = (probability[pairs].prod(1).repeat_interleave(2) * per_row).sum() / 2
    policy, other = (logps_of(each, batch.completion_ids).sum(1) for each in (leaf, reference))
    exact = differentiated((policy.exp() * (policy - other)).sum(), leaf)
    share = 1.0 if made is RLOO else 0.5
    found = differentiated(total, leaf)
    torch.testing.assert_close(found, share * exact, atol=1e-12, rtol=0)
    certify(algorithm.name, "golden", found, share * exact)

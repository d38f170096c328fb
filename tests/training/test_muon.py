"""Muon: orthogonal steps for the matrices of the layers, AdamW for embeddings, heads and vectors."""

import pytest
import torch
from torch.nn import Parameter

import rung
from rung.training.muon import Muon, orthogonalized


def _matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.maths
def test_a_first_step_on_one_singular_value_is_its_outer_product():
    """The gradient is s u v': its orthogonal factor is u v' times the quintic's value, 5 times from 1 on; s is lost.

    With p(x) = 3.4445 x - 4.775 x^3 + 2.0315 x^5: 1 -> .701 -> 1.1134 -> .7169 -> 1.0948 -> .6899 (4 decimals).
    """
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([0.0, 1.0, 0.0])
    for size in (1e-3, 50.0):
        weight = Parameter(torch.zeros(2, 3))
        weight.grad = size * torch.outer(u, v)
        value = 1.0
        for _ in range(5):
            value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
        Muon([{"params": [weight], "hidden": True}], lr=0.1).step()
        expected = -0.1 * 0.2 * 3**0.5 * value * torch.outer(u, v)
        assert torch.allclose(weight, expected, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(16, 16), (40, 16), (16, 40)])
def test_it_is_torchs_muon_in_a_finer_precision(shape):
    ours, theirs = Parameter(_matrix(*shape)), Parameter(_matrix(*shape))
    mine = Muon([{"params": [ours], "hidden": True, "weight_decay": 0.1}], lr=0.05)
    oracle = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        ours.grad, theirs.grad = _matrix(*shape, seed=step + 1), _matrix(*shape, seed=step + 1)
        mine.step()
        oracle.step()
    moved = (theirs - _matrix(*shape)).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bfloat16 has 8 bits


@pytest.mark.oracle
def test_what_is_not_marked_takes_the_steps_of_adamw():
    ours, theirs = [Parameter(_matrix(6, 4)), Parameter(_matrix(4))], [Parameter(_matrix(6, 4)), Parameter(_matrix(4))]
    mine = Muon([{"params": ours, "weight_decay": 0.1}], lr=0.01)
    oracle = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad, b.grad = _matrix(*a.shape, seed=step + 1), _matrix(*a.shape, seed=step + 1)
        mine.step()
        oracle.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shape", [(24, 24), (8, 30), (30, 8)])
def test_singular_values_end_near_one_and_singular_vectors_stay(shape):
    matrix = _matrix(*shape, seed=3)
    values = torch.linalg.svdvals(orthogonalized(matrix))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalized(matrix) @ v.T
    assert values.max() < 1.25
    assert values[: len(values) // 2].min() > 0.6
    assert (inner - inner.diag().diag()).abs().max() < 1e-4


def test_one_word_picks_it_and_it_learns_with_embeddings_and_norms_under_adamw():
    rows = [{"prompt": "a", "completion": " b c d"}, {"prompt": "b", "completion": " d c b"}]
    stage = rung.train("sft", model="tiny:gpt2", data=rows, optimizer="muon", learning_rate=0.02, max_steps=25)
    losses = [step.loss for step in stage]
    assert losses[-1] < 0.2 * losses[0]
    by_kind = {name: set(stage.optimizer.state[p]) for name, p in stage.policy.named_parameters().items()}
    assert by_kind["transformer.h.0.attn.c_attn.weight"] == {"momentum"}
    for name in ("transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight"):
        assert by_kind[name] == {"step", "exp_avg", "exp_avg_sq"}

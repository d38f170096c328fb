"""The loss of a step and its gradient by each token's log-prob, of rung and of another implementation.

Log-probs are leaves, so the gradient is the whole derivative of the loss.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from helpers.batches import random_batch
from rung.algorithm import Algorithm
from rung.batch import Batch, Outputs, count_denominators

Result = tuple[torch.Tensor, torch.Tensor]  # a loss and its gradient
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
SEEDS = pytest.mark.parametrize("seed", range(4))


def batch_and_logps(seed: int, group: int | None, dtype: torch.dtype) -> tuple[Batch, torch.Tensor]:
    """A batch whose completions are trained throughout, and log-probs near its old and reference ones."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=3, rows=(2, 4), length=(1, 9), group=group)
    shape = batch.completion_ids.shape
    logps = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    old = logps + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    ref = logps + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=batch.completion_mask,
        old_logps=old.to(dtype),
        ref_logps=ref.to(dtype),
        rewards=torch.randn(batch.num_rows, generator=generator, dtype=torch.float64).to(dtype),
        max_completion_length=11,
    )
    return batch, logps.to(dtype)


def ours(algorithm: Algorithm, batch: Batch, logps: torch.Tensor, **readouts: torch.Tensor) -> Result:
    """The loss of an algorithm over its denominators, and its gradient by the log-probs."""
    leaf = logps.clone().requires_grad_()
    nothing = torch.zeros_like(logps)
    outputs = Outputs(
        logps=leaf,
        readouts={"entropy": nothing, "top_logp": nothing, **readouts},
        values=nothing if "values" in algorithm.needs() else None,
    )
    loss = algorithm.loss(batch, outputs).over(count_denominators(algorithm.terms(), batch))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad * batch.loss_mask


def theirs(loss: Callable[[torch.Tensor], torch.Tensor], batch: Batch, logps: torch.Tensor) -> Result:
    """Another implementation's loss of the log-probs, and its gradient by them."""
    leaf = logps.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad * batch.loss_mask


def assert_same(mine: Result, other: Result, dtype: torch.dtype) -> tuple[Result, Result]:
    """Both of them, which agree to 1e-6 in float32 and to 1e-12 in float64."""
    bound = 1e-6 if dtype == torch.float32 else 1e-12
    assert abs(float(mine[0]) - float(other[0])) < bound * max(1.0, abs(float(other[0])))
    torch.testing.assert_close(mine[1], other[1], atol=bound, rtol=bound)
    return mine, other

"""Muon: an optimizer with orthogonalised momentum updates for the matrices of the layers, and AdamW for the rest.

torch's own Muon is not used: it computes in bfloat16, which takes 15 times as long on a CPU without bfloat16 arithmetic
(60 ms instead of 4 ms for a 128 x 128 matrix), and needs a second optimizer for embeddings and vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

_QUINTIC = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_ADAMW_RMS = 0.2  # typical RMS of AdamW's updates; Muon's are scaled to it, so that one learning rate fits both


class Muon(Optimizer):
    """Updates parameter groups marked `"hidden": True`, which have only matrices, by Muon, and other groups by AdamW.

    All groups use the same `lr` >= 0, since the updates of Muon are scaled to the size of AdamW's. Weight decay is
    decoupled. Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale: Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95):
        super().__init__(
            params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "betas": (0.9, 0.95), "hidden": False}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._orthogonal if group["hidden"] else self._adamw)(params, group)

    def _orthogonal(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in params:
            assert parameter.grad is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            update = orthogonalized(parameter.grad.lerp(momentum, group["momentum"]))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * _ADAMW_RMS * max(parameter.shape) ** 0.5)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in params:
            if not self.state[parameter]:
                self.state[parameter] |= {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in params]
        adamw(
            params,
            [parameter.grad for parameter in params if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors as `matrix`, and with singular values between about 0.7 and 1.2.

    This approximates the orthogonal factor. (m, n) float -> (m, n), by a quintic Newton-Schulz iteration in the dtype
    of the matrix. Singular values that are far smaller than the largest one remain below this range.

    >>> orthogonalized(torch.diag(torch.tensor([3.0, -2.0]))).sign().tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x

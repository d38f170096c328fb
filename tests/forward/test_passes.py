"""Parts of ranks that have fewer than others, and how much work is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from helpers.edges import batch_of
from rung.batch import Batch
from rung.forward.layouts import States
from rung.forward.passes import PartRunner, WorkCounter
from rung.forward.planner import Block, Part
from rung.tiny.models import build

ROWS = batch_of([([5, 6], [7, 8, 9]), ([5, 6, 7], [8])])


class OtherRanks:
    """Ranks of which another one has `parts` parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def max(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.maximum(value, torch.tensor(self.parts)) for name, value in values.items()}


class WholeShards:
    """Shards that are whole, and count how often they are gathered."""

    def __init__(self) -> None:
        self.runs, self.freed = 0, 0

    def run(self, compute: Callable[[], Any]) -> Any:
        self.runs += 1
        return compute()

    def reshard_root(self) -> None:
        self.freed += 1


def runner(shards: WholeShards | None, parts: int) -> PartRunner:
    return PartRunner(torch.device("cpu"), torch.float32, shards, OtherRanks(parts), WorkCounter())  # type: ignore[arg-type]


def run(made: PartRunner, head: nn.Linear, block: Block) -> list[tuple[list[int], Tensor]]:
    """Runs the parts of a block, and the backward pass of each; the numbers of its rows and its hidden states."""
    model = build("llama")[0]

    def compute(part: Batch, states: list[States]) -> dict[str, Any]:
        (one,) = states
        return {"a": head(one.predicting).sum(), "more": {"b": head(one.predicting) ** 2}, "none": None}

    found = []
    for rows, _, result in made.run([model], ROWS, (block,), compute):
        result["a"].backward()
        found.append((rows.tolist(), result["a"].detach()))
    return found


def test_a_rank_with_fewer_parts_runs_the_others_without_a_gradient() -> None:
    block = Block("plain", (Part((0,)), Part((1,))))
    torch.manual_seed(0)
    head = nn.Linear(32, 1)
    alone = run(runner(None, 5), head, block)
    assert head.weight.grad is not None
    expected = head.weight.grad.clone()
    for parts, runs in ((0, 2), (2, 2), (5, 5)):
        head.weight.grad = None
        shards = WholeShards()
        made = runner(shards, parts)
        assert [rows for rows, _ in run(made, head, block)] == [rows for rows, _ in alone] == [[0], [1]]
        assert (shards.runs, shards.freed, made.work.calls) == (runs, 1, runs)
        assert torch.equal(head.weight.grad, expected)  # type: ignore[arg-type]

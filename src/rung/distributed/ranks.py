"""Collectives over all processes: sum, max, agree, gather. A single process has one rank."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch import distributed as dist

from rung.distributed.failures import watch_ranks
from rung.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Parameter

LONGEST_WAIT = timedelta(hours=12)  # rank 0 evaluates a stage while the others wait for it


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank of this process among `world`, and collectives, which all ranks must call in the same order.

    Each rank holds a replica of the weights or, if `sharded`, a shard of each weight.
    """

    rank: int = 0
    world: int = 1
    sharded: bool = False

    def sum(self, amounts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars summed over the ranks, in float64."""
        return dict(zip(amounts, self._reduce(list(amounts.values()), dist.ReduceOp.SUM), strict=True))

    def max(self, amounts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maximum of each scalar over the ranks, in float64."""
        return dict(zip(amounts, self._reduce(list(amounts.values()), dist.ReduceOp.MAX), strict=True))

    def agree(self, yes: bool) -> bool:
        """True if `yes` is true on every rank."""
        return not self.max({"no": torch.tensor(0.0 if yes else 1.0)})["no"]

    def gather(self, value: Any) -> list[Any]:
        """A JSON value from every rank, in the order of ranks."""
        if self.world == 1:
            return [value]
        return [json.loads(raw) for raw in self._gather_bytes(json.dumps(value).encode())]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Named tensors from every rank; shapes and names may differ."""
        if self.world == 1:
            return [dict(tensors)]
        return [load(raw) for raw in self._gather_bytes(save({k: v.contiguous() for k, v in tensors.items()}))]

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Sums gradients over the ranks in place; a parameter that no part used gets zeros on every rank.

        With sharded weights, the backward passes have already summed them.

        An optimizer skips a parameter whose gradient is None, but updates one whose gradient is 0 (momentum, weight
        decay). The zeros make a step without active rows independent of the number of ranks.
        """
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.world == 1 or self.sharded:
            return
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat)
        for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(piece.view_as(parameter))

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This rank's share: every `world`-th item, starting at its rank."""
        return items[self.rank :: self.world]

    def _reduce(self, amounts: list[Tensor], operation: dist.ReduceOp.RedOpType) -> list[Tensor]:
        stacked = torch.stack([amount.detach().double() for amount in amounts])
        if self.world > 1:
            dist.all_reduce(stacked, operation)
        return list(stacked.unbind())

    def _gather_bytes(self, raw: bytes) -> list[bytes]:
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(raw)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        gathered = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(gathered, padded)
        return [bytes(row[: int(size)].numpy()) for row, size in zip(gathered, sizes, strict=True)]


@contextmanager
def init_ranks(fully_shard: bool = False) -> Iterator[Ranks]:
    """The ranks started by `torchrun` or `rung run --nproc`, or a single one; the process group ends with the block.

    An exception on one rank ends all of them. Raises ConfigError for sharding with a single process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        if fully_shard:
            raise ConfigError("`--fully-shard` needs more than one process", "add `--nproc N`, N > 1")
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    with watch_ranks(dist.get_rank(), size):
        yield Ranks(dist.get_rank(), size, fully_shard)
    dist.barrier()  # failures are no longer watched, so a rank may exit
    dist.destroy_process_group()

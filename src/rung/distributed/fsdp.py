"""Sharded weights (FSDP2): every rank holds a part of each, and a layer gathers them in its forward and backward.

Every layer is a collective, so all ranks run the same number of parts in the same layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

Result = TypeVar("Result")


class Root(nn.Module):
    """Everything that is sharded, as FSDP2 sees it: one module, whose forward runs a function of whoever calls it.

    Weights outside the layers (embeddings, heads) are whole while the function runs, those of a layer in its forward.
    What the function returns has its tensors in tuples and dicts: their backward gathers the weights again.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        super().__init__()
        self.inside = nn.ModuleList(modules)

    def forward(self, run: Callable[[], Result]) -> Result:
        """What the function gives."""
        return run()


class Shards:
    """Named modules over all ranks, sharded in place, layer by layer; their gradients add up over the ranks."""

    def __init__(self, modules: Mapping[str, nn.Module]):
        self.modules = dict(modules)
        self.outlines = {name: meta_copy(module) for name, module in modules.items()}
        self.root = Root(modules.values())
        device = next(self.root.parameters()).device.type
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        layers = _layer_names(self.root)
        for module in [module for module in self.root.modules() if type(module).__name__ in layers]:
            fully_shard(module, mesh=mesh)
        fully_shard(self.root, mesh=mesh)
        self.units = [module for module in self.root.modules() if isinstance(module, FSDPModule)]
        for unit in self.units:
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo knows no other
            # A head that one rank's parts read and another's do not gets zeros there.
            unit.set_reduce_scatter_unused_params(True)

    def run(self, compute: Callable[[], Result]) -> Result:
        """What `compute` gives, with every weight there when it is needed; a collective."""
        return self.root(compute)

    def run_whole(self, compute: Callable[[], Result]) -> Result:
        """The same where models are called as often as one likes, such as by a sampler whose rows end early on a rank.

        All weights are gathered once, before, and dropped afterwards.
        """
        for unit in self.units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            return self.root(compute)
        finally:
            for unit in self.units:
                unit.set_reshard_after_forward(unit is not self.root, recurse=False)
                unit.reshard()

    def reshard_root(self) -> None:
        """Drops the whole weights outside the layers, which FSDP2 keeps after a forward: a step makes them old."""
        self.units[0].reshard()

    def gather_module(self, name: str) -> nn.Module | None:
        """A copy of a module with whole weights on rank 0, None elsewhere; a collective."""
        keeps = dist.get_rank() == 0
        outline, filled = self.outlines[name], {}
        for empty, live in zip(outline.parameters(), self.modules[name].parameters(), strict=True):
            gathered = full_tensor(live.detach())
            if keeps:
                filled[id(empty)] = nn.Parameter(gathered, requires_grad=empty.requires_grad)
        return deepcopy(outline, filled) if keeps else None


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, on every rank (a collective); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(target: Tensor, value: Tensor) -> Tensor:
    """A whole `value` in shards as those of `target`; as it is where `target` has none, or `value` is in shards."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )  # every rank has read all of it


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters are on the device `meta`; buffers are copied. FSDP2's own modules cannot be copied."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return deepcopy(module, empty)


def _layer_names(root: Root) -> set[str]:
    """The classes that the models in `root` name as those that are never split."""
    models = [module for module in root.modules() if isinstance(module, PreTrainedModel)]
    return {name for model in models for name in getattr(model, "_no_split_modules", None) or ()}

"""Sharded weights (FSDP2): a rank holds a shard of each weight, and a layer gathers its weights to run.

Running a layer is a collective, so all ranks run the same number of parts in the same layouts.
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
    """The root module for FSDP2: it contains all modules that are sharded, and its forward runs a given function.

    Weights outside the layers (embeddings, heads) are gathered while the function runs, those of a layer in its
    forward. The function returns tensors in tuples and dicts, where FSDP2 finds those whose backward pass must gather
    the weights again.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        super().__init__()
        self.inside = nn.ModuleList(modules)

    def forward(self, run: Callable[[], Result]) -> Result:
        """Calls `run` and returns its result."""
        return run()


class Shards:
    """Named modules, sharded over all ranks in place, layer by layer; gradients are summed over the ranks."""

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
            unit.set_force_sum_reduction_for_comms(True)  # gloo supports no other
            # A head that the parts of a rank do not use gets zero gradients on that rank.
            unit.set_reduce_scatter_unused_params(True)

    def run(self, compute: Callable[[], Result]) -> Result:
        """Calls `compute`, with every weight gathered when it is needed, and returns its result; a collective."""
        return self.root(compute)

    def run_unsharded(self, compute: Callable[[], Result]) -> Result:
        """Like `run`, but ranks may make different numbers of model calls, as in sampling, where one may finish early.

        All weights are gathered once before, and resharded afterwards.
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
        """Frees the gathered weights outside the layers: FSDP2 keeps them, but an optimizer step makes them stale."""
        self.units[0].reshard()

    def gather_module(self, name: str) -> nn.Module | None:
        """A copy of a module with unsharded weights on rank 0, None elsewhere; a collective."""
        keeps = dist.get_rank() == 0
        outline, filled = self.outlines[name], {}
        for empty, live in zip(outline.parameters(), self.modules[name].parameters(), strict=True):
            gathered = full_tensor(live.detach())
            if keeps:
                filled[id(empty)] = nn.Parameter(gathered, requires_grad=empty.requires_grad)
        return deepcopy(outline, filled) if keeps else None


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor as a full tensor on every rank (a collective); any other tensor is returned unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(target: Tensor, value: Tensor) -> Tensor:
    """A full `value`, sharded like `target`; unchanged if `target` is not sharded or `value` already is."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )  # every rank has the full value


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number of the tensors is infinite or NaN; of a sharded tensor, none of this rank's shard."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return all(bool(tensor.detach().isfinite().all()) for tensor in local)


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters are on the device `meta`; buffers are copied. FSDP2's own modules cannot be copied."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return deepcopy(module, empty)


def _layer_names(root: Root) -> set[str]:
    """Class names of the layers: those in `_no_split_modules` of the models in `root`."""
    models = [module for module in root.modules() if isinstance(module, PreTrainedModel)]
    return {name for model in models for name in getattr(model, "_no_split_modules", None) or ()}

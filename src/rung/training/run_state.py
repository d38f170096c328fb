"""Converts the state of a run, a nested dict, to named tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_MARK = "$tensor"


@dataclass(frozen=True, slots=True)
class RunState:
    """The state from which a run can be resumed: named tensors of any shape and dtype, and JSON values.

    `RunState(*flatten(tree))` converts a nested dict, `unflatten(state.tensors, state.values)` converts it back.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in a nested dict by their paths, and the nested dict with a marker in place of each tensor.

    The dict may contain dicts with string keys, lists, tuples (which become lists), tensors and JSON scalars; anything
    else raises TypeError. A tensor that occurs twice (tied weights) is stored once, and is shared again after
    `unflatten`. Tensors are not copied: save them before the next step changes them in place.

    >>> import torch
    >>> tensors, values = flatten({"weights": {"a": torch.ones(2)}, "step": 7})
    >>> list(tensors), values
    (['weights/a'], {'weights': {'a': {'$tensor': 'weights/a'}}, 'step': 7})
    """
    tensors: dict[str, Tensor] = {}
    first_name: dict[tuple, str] = {}

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, Tensor):
            name = first_name.setdefault(_identity(node), "/".join(path))
            tensors.setdefault(name, node.detach())
            return {_MARK: name}
        if isinstance(node, Mapping):
            bad = [key for key in node if not isinstance(key, str) or key == _MARK]
            if bad:
                raise TypeError(f"{'/'.join(path)}: {bad[0]!r} cannot be a key in a checkpoint")
            return {key: visit(child, (*path, _escaped(key))) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return [visit(child, (*path, str(index))) for index, child in enumerate(node)]
        if node is None or isinstance(node, str | int | float):
            return node
        raise TypeError(f"{'/'.join(path)}: a {type(node).__name__} cannot be kept in a checkpoint")

    return tensors, visit(tree, ())


def unflatten(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    >>> unflatten(*flatten({"a": [1, {"b": None}]}))
    {'a': [1, {'b': None}]}
    """

    def visit(node: Any) -> Any:
        if isinstance(node, Mapping):
            if node.keys() == {_MARK}:
                return tensors[node[_MARK]]
            return {key: visit(child) for key, child in node.items()}
        return [visit(child) for child in node] if isinstance(node, list) else node

    return visit(values)


def _identity(tensor: Tensor) -> tuple:
    start = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return *start, tensor.shape, tensor.stride(), tensor.dtype


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")  # as in a JSON pointer (RFC 6901); keeps paths distinct

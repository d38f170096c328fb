"""Shards in one process, whose group has no other rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from rung.distributed.fsdp import Shards
from rung.tiny.models import build


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_only_the_layer_that_runs_has_its_weights_gathered() -> None:
    model, _ = build("llama")
    ids = torch.tensor([[5, 6, 7]])
    expected = model(ids).logits.detach()
    shards = Shards({"model": model})
    layers: list[Any] = list(model.model.layers)
    whole: list[list[bool]] = []

    def look(*_: object) -> None:
        whole.append([not isinstance(next(layer.parameters()), DTensor) for layer in layers])

    for layer in layers:
        layer.self_attn.register_forward_hook(look)
    with torch.no_grad():
        (logits,) = shards.run(lambda: (model(ids).logits,))
    torch.testing.assert_close(logits, expected)
    assert whole == [[True, False], [False, True]]

"""Which matrices are quantised, and how, and that the trained adapter is merged into the full-precision weights.

bitsandbytes has a stand-in here, whose layers keep all bits: what it makes of 4 bits is tested in `test_quantized.py`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from torch import Tensor, nn
from transformers import PreTrainedModel

from helpers.adapters import moved
from rung.models.adapters import fingerprint
from rung.models.load import merge_adapter
from rung.models.lora import with_adapter
from rung.models.quantization import quantize
from rung.tiny.models import build

IDS = torch.arange(5, 45).view(2, 20)


class Params4bit(nn.Parameter):
    """Weights that remember how they are to be quantised."""

    settings: dict[str, Any]

    def __new__(cls, data: Tensor, requires_grad: bool, **settings: Any) -> Params4bit:
        made = torch.Tensor._make_subclass(cls, data, requires_grad)
        made.settings = settings
        return made


class Linear4bit(nn.Linear):
    """A linear layer in the place of a quantised one."""

    def __init__(self, width: int, out: int, bias: bool, *, compute_dtype: torch.dtype, device: str) -> None:
        super().__init__(width, out, bias=bias, device=device)
        self.compute_dtype = compute_dtype


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    # peft looks for bitsandbytes once and remembers the answer, which must be about the real package.
    is_bnb_available()
    is_bnb_4bit_available()
    package, layers = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.nn")
    layers.Linear4bit, layers.Params4bit = Linear4bit, Params4bit  # type: ignore[attr-defined]
    package.nn = layers  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", layers)


def quantized(family: str, *kept: str, seed: int = 0) -> PreTrainedModel:
    model = build(family, seed=seed)[0]
    return quantize(model, kept=kept, dtype=torch.bfloat16, start=f"tiny:{family}", seed=seed)


def names(model: nn.Module) -> set[str]:
    """The last words of the names of quantised layers."""
    return {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
    ],
)
def test_the_matrices_of_the_layers_are_quantised_and_embeddings_and_head_are_not(
    family: str, expected: set[str]
) -> None:
    model = quantized(family)
    assert names(model) == expected
    assert type(model.get_output_embeddings()) is nn.Linear
    assert type(model.get_input_embeddings()) is nn.Embedding


def test_what_is_trained_whole_is_not_quantised() -> None:
    every = names(quantized("llama"))
    assert names(quantized("llama", "o_proj", "lm_head")) == every - {"o_proj"}
    assert names(quantized("llama", "mlp.up_proj")) == every - {"up_proj"}
    assert names(quantized("llama", "proj")) == every, "a name ends in whole words"
    first = "layers.0.self_attn.q_proj"
    kept = {name for name, layer in quantized("llama", first).named_modules() if type(layer) is nn.Linear}
    assert kept == {f"model.{first}", "lm_head"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_handed_over_whole_as_nf4_with_double_quantisation(family: str) -> None:
    model, start = quantized(family), build(family)[0]
    torch.testing.assert_close(logits(model), logits(start))
    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    for layer in layers:
        weight = layer.weight
        assert isinstance(weight, Params4bit)
        assert not weight.requires_grad
        assert weight.settings == {"compress_statistics": True, "quant_type": "nf4", "module": layer}
        assert weight.is_contiguous()
        assert layer.support_avx512bf16_for_cpu is False
        assert (layer.bias is not None) is (family == "gpt2")


def test_an_adapter_is_merged_into_the_full_precision_weights_of_its_seed() -> None:
    lora = {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["o_proj"], "use_rslora": True}
    model = moved(with_adapter(quantized("llama", "o_proj", seed=3), lora))
    assert model.base_fingerprint == fingerprint(build("llama", seed=3)[0])
    whole = moved(with_adapter(build("llama", seed=3)[0], lora))
    whole.load_state_dict({n: p for n, p in model.named_parameters() if p.requires_grad}, strict=False)
    before = names(model)
    merged = merge_adapter(model)
    assert names(merged) == set()
    torch.testing.assert_close(logits(merged), logits(whole), atol=2e-5, rtol=0)
    assert (logits(merged) - logits(build("llama", seed=3)[0])).abs().max() > 1e-2
    assert names(model) == before, "the trained model is not changed"


def test_other_weights_in_the_place_of_the_base_are_not_merged_into() -> None:
    model = with_adapter(quantized("llama"), {"r": 2})
    model.get_base_model().load_full_precision = lambda: build("llama", seed=1)[0]  # type: ignore[operator]
    with pytest.raises(AssertionError, match="the base has changed"):
        merge_adapter(model)

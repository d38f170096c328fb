"""LoRA on a base in 4 bits: what passes and gradients are, what is merged, and what is refused.

What quantises runs where bitsandbytes is installed (`pip install rung[qlora]`), on CPU.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import rung
from helpers.adapters import moved
from rung.config import StageConfig
from rung.errors import ConfigError
from rung.models.load import merge_adapter, read_config
from rung.models.lora import with_adapter
from rung.models.quantization import quantize
from rung.pipeline.requirements import check_4bit
from rung.tiny.models import build

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
QLORA: dict[str, Any] = {"adapter": {"lora": {"r": 4}, "load_in_4bit": True}}
IDS = torch.arange(5, 45).view(2, 20)
ROWS = [{"prompt": "a", "completion": "b"}]


def stage_of(lora: dict[str, Any], **keys: Any) -> StageConfig:
    adapter = {"lora": lora, "load_in_4bit": True}
    return StageConfig.model_validate({"name": "one", "algorithm": "dpo", "adapter": adapter, **keys})


def quantized(family: str, lora: dict[str, Any]) -> PreTrainedModel:
    kept = lora.get("modules_to_save", ())
    return quantize(build(family)[0], kept=kept, dtype=torch.float32, start=f"tiny:{family}", seed=0)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


def as_quantised(family: str) -> PreTrainedModel:
    """A whole model whose matrices have the values that 4 bits left of them."""
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

    whole, model = build(family)[0], quantized(family, {})
    for name, layer in model.named_modules():
        if hasattr(layer, "compute_dtype"):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[attr-defined]
            target = whole.get_parameter(f"{name}.weight")
            target.data = weight.T if family == "gpt2" else weight
    return whole


@installed
@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_passes_and_gradients_are_those_of_the_values_that_are_left(family: str, dora: bool) -> None:
    """In eval mode, and after a pass without a gradient, such as a sampler's: there bitsandbytes may repack weights."""
    lora = {"r": 4, "use_dora": dora}
    torch.manual_seed(0)
    model = moved(with_adapter(quantized(family, lora), lora))
    expected = moved(with_adapter(as_quantised(family), lora))
    expected.load_state_dict({n: p for n, p in model.named_parameters() if p.requires_grad}, strict=False)
    torch.testing.assert_close(logits(model.eval()), logits(expected), atol=2e-5, rtol=0)
    assert (logits(expected) - logits(build(family)[0])).abs().max() > 1e-2
    for each in (model, expected):
        each(IDS).logits.square().mean().backward()
    gradients = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-6, rtol=1e-4)


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("llama", {"use_dora": True}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["o_proj", "lm_head"]}),
        ("gpt2", {"use_rslora": True}),
    ],
)
def test_the_adapter_is_merged_into_whole_weights(family: str, lora: dict[str, Any]) -> None:
    lora = {"r": 4, **lora}
    model = moved(with_adapter(quantized(family, lora), lora))
    whole = moved(with_adapter(build(family)[0], lora))
    whole.load_state_dict({n: p for n, p in model.named_parameters() if p.requires_grad}, strict=False)
    torch.testing.assert_close(logits(merge_adapter(model)), logits(whole), atol=2e-5, rtol=0)
    assert (logits(model) - logits(whole)).abs().max() > 1e-3, "which is not what was trained"


def test_shards_of_a_base_in_4_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="with `--fully-shard`") as caught:
        check_4bit(stage_of({}), sharded=True)
    assert "`--nproc` without `--fully-shard`" in caught.value.remedy


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed") as caught:
        rung.train("sft", model="tiny:llama", data=ROWS, **QLORA)
    assert caught.value.remedy == "pip install 'rung[qlora]'"


def test_a_model_that_could_not_be_loaded_again_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`load_in_4bit` loads the model again .* passed as an object"):
        rung.train("sft", model=build("llama"), data=ROWS, **QLORA)


def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path) -> None:
    model = build("llama")[0]
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    file.write_text(json.dumps(json.loads(file.read_text()) | stored))
    with pytest.raises(ConfigError, match="is quantised, but a stage saves full-precision weights") as caught:
        read_config(str(tmp_path))
    assert "load_in_4bit" in caught.value.remedy

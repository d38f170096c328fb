"""A model with an adapter is saved merged and as the adapter alone, or refused where it could not be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from rung.errors import ConfigError
from rung.models.load import save_model
from rung.models.lora import check_adapter, with_adapter
from rung.tiny.models import build

IDS = torch.arange(5, 45).view(2, 20)


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("llama", {"init_lora_weights": "pissa", "use_dora": True}),
        ("llama", {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]}),
        ("qwen3", {"use_rslora": True, "r": 6}),
        ("qwen3", {"init_lora_weights": "olora"}),
        ("gpt2", {"bias": "all"}),
        ("gpt2", {"init_lora_weights": "pissa"}),
        ("gemma3", {"use_dora": True}),
    ],
)
def test_any_adapter_is_handed_over_merged_and_by_itself(tmp_path: Path, family: str, lora: dict[str, Any]) -> None:
    start, tokenizer = build(family)
    adapted = with_adapter(build(family)[0], {"r": 4, **lora})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    save_model(adapted, tokenizer, tmp_path)
    expected = logits(adapted)
    assert (logits(start) - expected).abs().max() > 1e-2
    for found in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        PeftModel.from_pretrained(start, str(tmp_path / "adapter")),
    ):
        torch.testing.assert_close(logits(found), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"target_modules": ["lm_head"]}, "ties its embeddings and head"),
        ({"target_modules": ["embed_tokens"]}, "ties its embeddings and head"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "eva"}, "one of true"),
    ],
)
def test_an_adapter_that_could_not_be_handed_over_is_refused(lora: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_adapter(build("qwen3")[0], lora)


@pytest.mark.parametrize("target", ["c_attn", "c_proj"])
def test_olora_of_transposed_matrices_is_refused(target: str) -> None:
    """peft decomposes them as they lie: of a square one it would train another function, of any other none."""
    lora = {"init_lora_weights": "olora", "target_modules": [target]}
    model = build("gpt2")[0]
    for refuse in (with_adapter, check_adapter):
        with pytest.raises(ConfigError, match="does not work with models of type `gpt2`") as caught:
            refuse(model, lora)
        assert "pissa" in caught.value.remedy

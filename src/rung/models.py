"""Models and tokenizers: loaded in fp32 from a name or folder, given an adapter, saved merged."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rung.errors import ConfigError
from rung.policy import base_model
from rung.tiny.models import load_spec

TINY = "tiny:"


def load_model(location: str | Path, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in fp32 and its tokenizer; `tiny:<name>`, a folder or a hub id. `seed` is for random tiny ones.

    Code that comes with a model never runs. Raises ConfigError where there is no such model, or its tokenizer cannot
    tell padding or the end of an answer.
    """
    name = str(location)
    if name.startswith(TINY):
        return load_spec(name.removeprefix(TINY), seed=seed)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        what = f"model `{name}` cannot be loaded: {str(error).splitlines()[0]}"
        raise ConfigError(
            what, "name a folder with a transformers model, a hub id, or one of `rung list models`"
        ) from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of `{name}` has no EOS token", "set `eos_token` in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Padding is never attended and never trained: which id it has does not matter, only that there is one.
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def with_adapter(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """The model with fresh LoRA layers, the rest frozen; `lora` holds the keys of `peft.LoraConfig`.

    Raises ConfigError for a key or value that peft does not take.
    """
    from peft import LoraConfig, get_peft_model

    try:
        config = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
        return get_peft_model(model, config)  # type: ignore[return-value]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"adapter.lora: {error}", "give the keys of peft.LoraConfig, such as r, lora_alpha, target_modules"
        ) from None


def starts_equal(lora: Mapping[str, Any]) -> bool:
    """Whether the model with its fresh adapter off is the model that it was before; PiSSA and OLoRA change the base."""
    return lora.get("init_lora_weights", True) in (True, "gaussian")


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model without gradients, in eval mode."""
    return model.requires_grad_(False).eval()  # type: ignore[return-value]


def on(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on a device; transformers types `to` for one argument kind too few."""
    return model.to(device)  # type: ignore[arg-type]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `folder/model`, always merged, and `folder/adapter` beside it where there is one."""
    merged = model
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(str(folder / "adapter"))
        merged = deepcopy(model).merge_and_unload()  # type: ignore[operator]
    base_model(merged).save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))

"""Models and tokenizers: loaded in fp32 from a name or folder, given an adapter, saved merged."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rung.errors import ConfigError
from rung.locate import REMEDY, TINY
from rung.policy import base_model
from rung.registry import hint
from rung.tiny.models import load_spec

LORA_REMEDY = "give the keys of peft.LoraConfig, such as r, lora_alpha, target_modules"
MADE_FROM_WEIGHTS = ("pissa", "olora", "loftq", "corda")  # values of `init_lora_weights`


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
    except (OSError, ValueError) as error:
        raise ConfigError(f"model `{name}` cannot be loaded: {str(error).splitlines()[0]}", REMEDY) from None
    return model, load_tokenizer(name)


def load_outline(location: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same model without its weights (on the device `meta`, unless it is tiny), and its tokenizer.

    Raises ConfigError as `load_model` does.
    """
    name = str(location)
    return load_model(name) if name.startswith(TINY) else (empty_model(name), load_tokenizer(name))


def empty_model(name: str) -> PreTrainedModel:
    """A causal LM on the device `meta`, by its config alone; ConfigError where there is no such model."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model `{name}` cannot be read: {str(error).splitlines()[0]}", REMEDY) from None


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with a token to pad with; ConfigError where it cannot end an answer."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of `{name}` cannot be read: {str(error).splitlines()[0]}", REMEDY) from None
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of `{name}` has no EOS token", "set `eos_token` in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Padding is never attended and never trained: which id it has does not matter, only that there is one.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def num_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a prompt and its completion may have together; None where the model sets no bound."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def with_adapter(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """The model with fresh LoRA layers, the rest frozen; `lora` holds the keys of `peft.LoraConfig`.

    Raises ConfigError for a key or value that peft does not take, and for dropout.
    """
    from peft import LoraConfig, get_peft_model

    for key in lora:
        if key not in LoraConfig.__dataclass_fields__:
            raise ConfigError(f"unknown key `adapter.lora.{key}`", hint(key, LoraConfig.__dataclass_fields__))
    if lora.get("lora_dropout"):
        what = f"adapter.lora: `lora_dropout` is {lora['lora_dropout']}, and dropout is off in every forward pass"
        raise ConfigError(what, "leave it out")
    try:
        config = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
        return get_peft_model(model, config)  # type: ignore[return-value]
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"adapter.lora: {error}", LORA_REMEDY) from None


def check_adapter(outline: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Raises ConfigError where `with_adapter` would; `outline` needs no weights and is left as it is."""
    derived = str(lora.get("init_lora_weights")).startswith(MADE_FROM_WEIGHTS)
    with_adapter(deepcopy(outline), {**lora, "init_lora_weights": True} if derived else lora)


def starts_equal(lora: Mapping[str, Any]) -> bool:
    """Whether the model with its adapter off is, all along, the model of before the adapter.

    PiSSA and OLoRA change the base at the start, `bias` trains it.
    """
    return lora.get("init_lora_weights", True) in (True, "gaussian") and lora.get("bias", "none") == "none"


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model without gradients, in eval mode."""
    return model.requires_grad_(False).eval()  # type: ignore[return-value]


def placed(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `folder/model`, always merged, and `folder/adapter` beside it where there is one."""
    merged(model, folder).save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The causal LM with its adapter in its weights; the adapter by itself is written to `folder/adapter`."""
    if not hasattr(model, "merge_and_unload"):
        return model
    model.save_pretrained(str(folder / "adapter"))
    return base_model(deepcopy(model).merge_and_unload())  # type: ignore[operator]

"""Adds LoRA layers to a model, and checks the settings of an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rung.errors import ConfigError
from rung.models.adapters import fingerprint
from rung.models.architecture import base_model
from rung.utils.messages import did_you_mean

# The supported keys of peft.LoraConfig: their adapters can be merged, and can be loaded onto the stage's first model.
LORA_KEYS = (
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "bias",
    "modules_to_save",
    "init_lora_weights",
)
ALPHA = 2  # `lora_alpha` per rank unless it is set, as in TRL's defaults (r 16, lora_alpha 32)
FRESH, MADE_FROM_WEIGHTS = (True, False, "gaussian", "orthogonal"), ("pissa", "olora")  # for `init_lora_weights`
LORA_REMEDY = "give keys of peft.LoraConfig: r, lora_alpha, target_modules, use_dora, init_lora_weights, ..."


def with_adapter(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """Adds LoRA layers to a model and freezes its other weights; `lora` has keys of `peft.LoraConfig` in `LORA_KEYS`.

    Raises ConfigError for another key, a value that peft rejects, and an adapter that could not be merged.
    """
    from peft import LoraConfig, get_peft_model

    _check_lora(lora, model)
    start = getattr(model, "base_fingerprint", None) or fingerprint(model)
    try:
        rank = lora.get("r", LoraConfig().r)
        scale = {"lora_alpha": ALPHA * rank} if isinstance(rank, int) else {}
        config = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **scale, **lora})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # rejected below
            adapted = get_peft_model(model, config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"adapter.lora: {error}", LORA_REMEDY) from None
    _check_ties(base_model(adapted))  # type: ignore[arg-type]
    adapted.base_fingerprint = start  # type: ignore[assignment]  # of the model before peft changed it
    return adapted  # type: ignore[return-value]


def _check_lora(lora: Mapping[str, Any], model: PreTrainedModel) -> None:
    from peft import LoraConfig

    if lora.get("lora_dropout"):
        what = f"adapter.lora: `lora_dropout` is {lora['lora_dropout']}, but dropout is off in every forward pass"
        raise ConfigError(what, "leave it out")
    for key in lora:
        if key not in LoraConfig.__dataclass_fields__:
            raise ConfigError(f"unknown key `adapter.lora.{key}`", did_you_mean(key, LORA_KEYS))
        if key not in (*LORA_KEYS, "lora_dropout"):
            what = f"`adapter.lora.{key}` is a key of peft that a stage does not support"
            raise ConfigError(what, f"leave it out; the keys are {', '.join(LORA_KEYS)}")
    known = (*FRESH, *MADE_FROM_WEIGHTS)
    if lora.get("init_lora_weights", True) not in known:
        what = f"adapter.lora: `init_lora_weights` is {lora['init_lora_weights']!r}"
        raise ConfigError(what, f"take one of {', '.join(str(word).lower() for word in known)}")
    if lora.get("init_lora_weights") == "olora" and any(isinstance(module, Conv1D) for module in model.modules()):
        what = f"`init_lora_weights: olora` does not work with models of type `{model.config.model_type}`"
        reason = "they store their weights transposed"
        raise ConfigError(
            f"adapter.lora: {what}: {reason}", "use `init_lora_weights: pissa`, or a model of another type"
        )


def _check_ties(model: PreTrainedModel) -> None:
    """Raises ConfigError for LoRA on one of two tied matrices: merging it would change the other one too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.tie_word_embeddings and any(isinstance(layer, BaseTunerLayer) for layer in ends):
        what = "adapter.lora: this model ties its embeddings and head, and LoRA would change only one of them"
        raise ConfigError(what, "leave both out of `target_modules`, as `all-linear` does")


def check_adapter(outline: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Raises ConfigError if `with_adapter` would; `outline` may be on the device `meta`, and is not changed."""
    _check_lora(lora, outline)
    derived = lora.get("init_lora_weights") in MADE_FROM_WEIGHTS
    with_adapter(deepcopy(outline), {**lora, "init_lora_weights": True} if derived else lora)


def keeps_base_weights(lora: Mapping[str, Any]) -> bool:
    """Whether disabling the adapter always gives the original model.

    PiSSA and OLoRA change the base weights at initialisation; `bias` trains the biases of the base model.
    """
    return lora.get("init_lora_weights", True) in (True, "gaussian") and lora.get("bias", "none") == "none"

"""The parts of a causal LM: its layers, its head, and its dropout."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM inside a peft wrapper, with the adapters in its layers; a model without a wrapper is returned."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model  # type: ignore[operator]


def hidden_matrices(model: PreTrainedModel) -> set[str]:
    """Names of the trainable matrices, without embeddings and LM head."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = base_model(model).get_output_embeddings()
    outside = {id(p) for module in (*embeddings, *([head] if head is not None else [])) for p in module.parameters()}
    named = model.named_parameters()
    return {name for name, p in named if p.requires_grad and p.dim() == 2 and id(p) not in outside}


def zero_dropout(model: nn.Module) -> None:
    """Sets all dropout rates to 0 permanently: those of dropout modules, and the attributes of attention layers."""
    for module in model.modules():
        for name in ("p", "attention_dropout", "dropout", "attn_dropout", "resid_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)

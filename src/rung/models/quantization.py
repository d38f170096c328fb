"""QLoRA: an adapter is trained on a model with 4-bit weights, and merged into the full-precision weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rung.models.adapters import fingerprint
from rung.models.load import load_model


def quantize(
    model: PreTrainedModel, *, kept: Sequence[str], dtype: torch.dtype, start: str, seed: int
) -> PreTrainedModel:
    """Quantises the matrices of the model's layers to 4 bits, in place; on the GPU if there is one.

    NF4 with double quantisation, multiplied in `dtype` (QLoRA, Dettmers et al. 2023, arXiv 2305.14314). Embeddings,
    head and the modules whose names end in one of `kept` are not quantised. The full-precision model is loaded again
    from the location `start`, with `seed`, when the trained adapter is merged.
    """
    model.base_fingerprint = fingerprint(model)  # type: ignore[assignment]
    model.load_full_precision = lambda: load_model(start, seed=seed)[0]  # type: ignore[assignment]
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft reads it
    head = model.get_output_embeddings()
    endings = tuple(f".{name}" for name in kept)
    for name, layer in list(model.named_modules()):
        if type(layer) in (nn.Linear, Conv1D) and layer is not head and not f".{name}".endswith(endings):
            model.set_submodule(name, _in_4bit(layer, dtype))
    return model


def _in_4bit(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit  # type: ignore[import-not-found]

    assert isinstance(layer, nn.Linear | Conv1D), "only linear layers can be quantised"
    weight = (layer.weight.T if isinstance(layer, Conv1D) else layer.weight).detach().contiguous()
    made = Linear4bit(weight.shape[1], weight.shape[0], layer.bias is not None, compute_dtype=dtype, device="meta")
    made.weight = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made)
    made.bias = layer.bias
    # Trap: on CPUs with avx512_bf16 the layer would repack its weights in eval mode, and multiply in bf16 without a
    # gradient.
    made.support_avx512bf16_for_cpu = False
    return made.to("cuda" if torch.cuda.is_available() else "cpu")

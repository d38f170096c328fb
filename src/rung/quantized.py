"""Bases in 4 bits: an adapter is trained on what bitsandbytes keeps of the weights, and merged into all of them."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rung.adapters import fingerprint
from rung.config import StageConfig
from rung.config.models import MOVING
from rung.errors import ConfigError
from rung.models import load_model, starts_equal


def in_4bit(config: StageConfig) -> bool:
    """Whether a stage quantises its base."""
    return config.adapter is not None and config.adapter.load_in_4bit


def check_4bit(config: StageConfig, *, sharded: bool = False) -> None:
    """Raises ConfigError where a stage could not train on a base in 4 bits; any other stage passes."""
    if not in_4bit(config):
        return
    assert config.adapter is not None, "an adapter says so"
    stage = f"stage `{config.name}`: `load_in_4bit`"
    if not starts_equal(config.adapter.lora):
        what = f"{stage} beside an adapter that changes the base, which stays in 4 bits"
        raise ConfigError(what, "leave `init_lora_weights` and `bias` of `adapter.lora` at their defaults")
    if config.reference in MOVING:
        what = f"{stage} beside `reference: {config.reference}`, which is a second model"
        raise ConfigError(what, "take `reference: start`, which is the base with the adapter off")
    if sharded:
        what = f"{stage} with `--fully-shard`, which spreads whole weights"
        raise ConfigError(what, "run replicas (`--nproc` alone), or leave `load_in_4bit` out")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{stage} needs bitsandbytes, which is not installed", "pip install 'rung[qlora]'")


def quantized(model: PreTrainedModel, config: StageConfig, *, start: str, seed: int) -> PreTrainedModel:
    """The model with the matrices of its layers in 4 bits, in place; on the GPU, where there is one.

    NF4 with double quantisation, multiplied in the precision of the stage (QLoRA, Dettmers et al. 2023, arXiv
    2305.14314). Embeddings, head and `modules_to_save` stay as they are. Of `start` and `seed` the model was loaded; so
    it is once more in the end, for the trained adapter to be merged into weights that are whole.
    """
    assert config.adapter is not None, "a base is quantised below an adapter"
    model.base_fingerprint = fingerprint(model)  # type: ignore[assignment]
    model.load_whole = lambda: load_model(start, seed=seed)[0]  # type: ignore[assignment]
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # what peft asks for
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    head = model.get_output_embeddings()
    kept = tuple(f".{name}" for name in config.adapter.lora.get("modules_to_save") or ())
    for name, layer in list(model.named_modules()):
        if type(layer) in (nn.Linear, Conv1D) and layer is not head and not f".{name}".endswith(kept):
            model.set_submodule(name, _in_4bit(layer, dtype))
    return model


def _in_4bit(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit  # type: ignore[import-not-found]

    assert isinstance(layer, nn.Linear | Conv1D), "a matrix and its bias"
    weight = (layer.weight.T if isinstance(layer, Conv1D) else layer.weight).detach().contiguous()
    made = Linear4bit(weight.shape[1], weight.shape[0], layer.bias is not None, compute_dtype=dtype, device="meta")
    made.weight = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made)
    made.bias = layer.bias
    # On CPUs with avx512_bf16 it would repack itself in eval mode, and multiply in bf16 and without a gradient then.
    made.support_avx512bf16_for_cpu = False
    return made.to("cuda" if torch.cuda.is_available() else "cpu")

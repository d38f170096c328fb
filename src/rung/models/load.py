"""Loads models in fp32 and tokenizers from a name or folder, and saves merged models."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from rung.data.template_choice import chosen_template
from rung.distributed.fsdp import all_finite
from rung.errors import ConfigError, NonFiniteError
from rung.models.adapters import base_of, is_adapter, load_merged, sort_names, write_fingerprint
from rung.models.architecture import base_model
from rung.models.files import check_files, pickle_error, readable, uses_safetensors
from rung.models.lora import LORA_KEYS, with_adapter
from rung.models.names import TINY, check_hub
from rung.models.vocabulary import ignore_unused_rows
from rung.tiny.models import load_spec
from rung.utils.limits import Limits

HEAD = "base_model.model.score.weight"  # peft's name for the head of a sequence classifier
QUANTIZED = AUTO_QUANTIZER_MAPPING.keys() - {"mxfp4"} | {"bitsandbytes"}  # mxfp4 is read as full precision
BUILDING = Limits(30.0, 2**32)  # of a model without weights, which takes seconds with hundreds of layers
READS_PADDING = frozenset({"rwkv", "recurrent_gemma"})  # transformers does not mask padding in these


def load_model(location: str | Path, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal LM in fp32, and its tokenizer, from a folder, a hub id or `tiny:<name>`.

    From a folder with an adapter, loads the model that the adapter was trained on, with the adapter merged. `seed`
    initialises the random tiny models. Code that comes with a model is never executed. Raises ConfigError if there is
    no such model, or if its tokenizer has no EOS token.
    """
    name = str(location)
    if is_adapter(name):
        return load_merged(load_model(base_of(name), seed=seed)[0], name), load_tokenizer(name)
    if name.startswith(TINY):
        model, tokenizer = load_spec(name.removeprefix(TINY), seed=seed)
        model.name_or_path = name  # an adapter records it as its base model
        return model, _with_template(tokenizer, name)
    read_config(name)
    model, info = read_weights(AutoModelForCausalLM, name)
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ConfigError(
            f"model `{name}` lacks weights, among them {missing}", "save the complete model, with its head"
        )
    tokenizer = load_tokenizer(name)
    ignore_unused_rows(model, tokenizer)
    return model, tokenizer


def read_weights(auto: Any, name: str, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model in fp32 that `auto`, a class such as `AutoModelForCausalLM`, reads, and the names of missing weights.

    Code that comes with a model is never run, and pickled weights are only read if the user allows it, without code.
    Raises ConfigError if the weights cannot be read.
    """
    safe = uses_safetensors(name)
    try:
        with readable(f"model `{name}` cannot be loaded"):
            return auto.from_pretrained(
                name,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                **settings,
            )
    except ConfigError as error:
        if safe and not Path(name).is_dir() and "safetensors" in error.what:
            raise pickle_error(name, "no .safetensors file") from None
        raise


def load_meta_model(location: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Like `load_model`, but without weights (on the device `meta`, unless it is tiny).

    Raises ConfigError as `load_model` does.
    """
    name = base_of(str(location))
    return load_model(name) if name.startswith(TINY) else (meta_model(name), load_tokenizer(name))


def meta_model(name: str) -> PreTrainedModel:
    """A causal LM on the device `meta`, built from its config; ConfigError if there is no such model."""
    config = read_config(name)
    with readable(f"model `{name}` cannot be read"):
        with torch.device("meta"):
            model = BUILDING.run(lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False))
        with contextlib.suppress(OSError):  # not every model has a generation_config.json
            model.generation_config = GenerationConfig.from_pretrained(name)
    return model


def read_config(name: str) -> PretrainedConfig:
    """The config of a causal LM in a folder or on the hub; ConfigError if there is none or it is a reward model's.

    Trap: transformers would load a reward model as a causal LM with a random head.
    """
    name = base_of(name)
    if name.startswith(TINY):
        return load_spec(name.removeprefix(TINY))[0].config
    if not Path(name).is_dir():
        check_hub(name)
    check_files(name)
    with readable(f"model `{name}` cannot be read"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else str(quantization)
    if method in QUANTIZED:
        what = f"model `{name}` is quantised, but a stage saves full-precision weights"
        raise ConfigError(what, "name the full-precision model; `load_in_4bit: true` in `adapter` quantises it")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        what = f"model `{name}` is of type `{config.model_type}`, for which transformers has no causal LM"
        raise ConfigError(what, "use a text model; of a multimodal model, save its language model alone")
    if config.model_type in READS_PADDING:
        what = f"model `{name}` is of type `{config.model_type}`, whose recurrent layers read the padding of a batch"
        raise ConfigError(what, "use a model of another type, such as mamba2, jamba or qwen3_next")
    if is_reward_model(config):
        what = f"model `{name}` is a reward model, which scores answers and does not generate"
        raise ConfigError(what, "name a policy; a reward model can be a `critic`, or part of a reward")
    return config


def is_reward_model(config: PretrainedConfig) -> bool:
    """Whether the architecture of a config is a sequence classifier, in which form reward models are saved."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model location, and makes EOS its padding token if no other is set.

    Raises ConfigError if the tokenizer has no EOS token.
    """
    if not (Path(name) / "tokenizer_config.json").is_file():
        name = base_of(name)
    if name.startswith(TINY):
        return _with_template(load_spec(name.removeprefix(TINY))[1], name)
    with readable(f"the tokenizer of `{name}` cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of `{name}` has no EOS token", "set `eos_token` in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        # Padding is never attended and never trained, so any id works.
        tokenizer.pad_token = tokenizer.eos_token
    return _with_template(tokenizer, name)


def _with_template(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = chosen_template(tokenizer.chat_template, name)
    return tokenizer


def check_same_tokenizer(location: str, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
    """Raises ConfigError if the model at `location` has another tokenizer or chat template than `tokenizer`.

    `role` names the model in errors. The outputs of a model are meaningless for a vocabulary or chat template on which
    it was not trained.
    """
    own = load_tokenizer(location)
    if own.get_vocab() != tokenizer.get_vocab() or own.eos_token_id != tokenizer.eos_token_id:
        what = f"the {role} `{location}` has another tokenizer than the policy"
        raise ConfigError(
            what, f"use a {role} with the policy's tokenizer, such as one trained from the policy's model"
        )
    if own.chat_template != tokenizer.chat_template:
        what = f"the {role} `{location}` has another chat template than the policy"
        raise ConfigError(what, "give both the same chat_template.jinja, and train them with it")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that determines the ids of a text or chat, 64 hex digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    content = json.dumps([type(tokenizer).__name__, rules, special, tokenizer.chat_template], default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def num_positions(model: PreTrainedModel) -> int | None:
    """The maximum length of a prompt and its completion together, in tokens; None if the model has no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The model without gradients, in eval mode."""
    return model.requires_grad_(False).eval()  # type: ignore[return-value]


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU, if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves the merged model in `folder/model` and, if there is an adapter, the adapter in `folder/adapter`.

    Raises NonFiniteError for a model with weights that are not finite.
    """
    merged = merge_adapter(model)
    check_finite(merged)
    save_adapter(model, folder / "adapter")
    merged.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))


def check_finite(model: nn.Module) -> None:
    """Raises NonFiniteError if a weight of the model is infinite or NaN; such a model is not saved."""
    broken = [name for name, weight in model.named_parameters() if not all_finite([weight])]
    if broken:
        what = f"the trained model has weights that are not finite, among them {broken[0]}"
        raise NonFiniteError(what, "start afresh with `--new` and a lower `learning_rate` or `max_grad_norm`")


def save_adapter(model: PreTrainedModel, folder: Path, head: nn.Linear | None = None) -> None:
    """Saves the adapter, if there is one, for loading with peft onto the model that the stage started from.

    If `head` is given, the adapter is saved as that of a sequence classifier, and includes the head.
    """
    if not hasattr(model, "peft_config"):
        return
    # otherwise peft would ask the hub whether the vocabulary has grown, which never happens here
    model.save_pretrained(str(folder), save_embedding_layers=False)
    sort_names(folder)
    if isinstance(start := getattr(model, "base_fingerprint", None), str):
        write_fingerprint(folder, start)
    if head is None:
        return
    from peft import LoraConfig, TaskType

    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), HEAD: head.weight.detach().cpu().contiguous()}, file, metadata={"format": "pt"})
    config = LoraConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    config.task_type = TaskType.SEQ_CLS
    config.modules_to_save = [*(config.modules_to_save or ()), "score"]
    config.save_pretrained(str(folder))
    sort_names(folder)


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM with its adapter merged into its weights; a model without one is returned unchanged."""
    if not hasattr(model, "merge_and_unload"):
        return model
    adapted = deepcopy(model) if getattr(model, "load_full_precision", None) is None else _on_full_precision_base(model)
    return base_model(adapted.merge_and_unload())  # type: ignore[operator]


def _on_full_precision_base(model: PreTrainedModel) -> PreTrainedModel:
    """The adapter of a quantised model on the full-precision weights, which are loaded again."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    lora = {key: getattr(model.peft_config["default"], key) for key in LORA_KEYS}  # type: ignore[index]
    adapted = with_adapter(model.load_full_precision(), lora)  # type: ignore[operator]
    assert adapted.base_fingerprint == model.base_fingerprint, "the base has changed since it was quantised"
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model, save_embedding_layers=False))
    return adapted

"""Models and tokenizers: loaded in fp32 from a name or folder, given an adapter, saved merged."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from rung.errors import ConfigError
from rung.models.adapters import base_of, fingerprint, is_adapter, load_merged, write_fingerprint
from rung.models.architecture import base_model
from rung.models.names import REMEDY, TINY, check_hub
from rung.tiny.models import load_spec
from rung.utils.messages import did_you_mean

# Of peft.LoraConfig those whose adapter can be merged, and put back on the model that the stage started from.
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
HEAD = "base_model.model.score.weight"  # where peft looks for the head of a sequence classifier
FRESH, MADE_FROM_WEIGHTS = (True, False, "gaussian", "orthogonal"), ("pissa", "olora")  # for `init_lora_weights`
LORA_REMEDY = "give keys of peft.LoraConfig: r, lora_alpha, target_modules, use_dora, init_lora_weights, ..."


def load_model(location: str | Path, *, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in fp32 and its tokenizer; `tiny:<name>`, a folder or a hub id. `seed` is for random tiny ones.

    A folder with an adapter is the model that it was trained on with the adapter in its weights.

    Code that comes with a model never runs. Raises ConfigError where there is no such model, or its tokenizer cannot
    tell padding or the end of an answer.
    """
    name = str(location)
    if is_adapter(name):
        return load_merged(load_model(base_of(name), seed=seed)[0], name), load_tokenizer(name)
    if name.startswith(TINY):
        model, tokenizer = load_spec(name.removeprefix(TINY), seed=seed)
        model.name_or_path = name  # an adapter keeps it as the name of its base
        return model, tokenizer
    read_config(name)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # a pair, as it is asked for
            name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"model `{name}` cannot be loaded: {str(error).splitlines()[0]}", REMEDY) from None
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ConfigError(f"model `{name}` lacks weights, among them {missing}", "save it whole, with its head")
    return model, load_tokenizer(name)


def load_meta_model(location: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same model without its weights (on the device `meta`, unless it is tiny), and its tokenizer.

    Raises ConfigError as `load_model` does.
    """
    name = base_of(str(location))
    return load_model(name) if name.startswith(TINY) else (meta_model(name), load_tokenizer(name))


def meta_model(name: str) -> PreTrainedModel:
    """A causal LM on the device `meta`, by its config alone; ConfigError where there is no such model."""
    config = read_config(name)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ConfigError(f"model `{name}` cannot be read: {str(error).splitlines()[0]}", REMEDY) from None


def read_config(name: str) -> PretrainedConfig:
    """The config of a causal LM, in a folder or on the hub; ConfigError where there is none, or it is a reward model's.

    transformers would give the trunk of a reward model a random head.
    """
    name = base_of(name)
    if name.startswith(TINY):
        return load_spec(name.removeprefix(TINY))[0].config
    if not Path(name).is_dir():
        check_hub(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model `{name}` cannot be read: {str(error).splitlines()[0]}", REMEDY) from None
    if (getattr(config, "quantization_config", None) or {}).get("quant_method") == "bitsandbytes":
        what = f"model `{name}` is kept in few bits, and a stage hands over whole weights"
        raise ConfigError(what, "name the model that it was made from; `load_in_4bit: true` in `adapter` quantises it")
    if is_reward_model(config):
        what = f"model `{name}` is a reward model: it judges answers and gives none"
        raise ConfigError(what, "name a policy; a reward model is named as `critic`, or in a reward")
    return config


def is_reward_model(config: PretrainedConfig) -> bool:
    """Whether a model classifies texts: its config names a sequence classifier."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of what `load_model` takes, with a token to pad with; ConfigError where it cannot end an answer."""
    if not (Path(name) / "tokenizer_config.json").is_file():
        name = base_of(name)
    if name.startswith(TINY):
        return load_spec(name.removeprefix(TINY))[1]
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


def check_same_tokenizer(location: str, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
    """Raises ConfigError where the model at `location` reads other tokens than `tokenizer` writes.

    `role` says in errors what the model is to the policy. A model is trained on the tokens of one vocabulary in the
    form of one chat template: whatever a policy writes in another is noise to it.
    """
    own = load_tokenizer(location)
    if own.get_vocab() != tokenizer.get_vocab() or own.eos_token_id != tokenizer.eos_token_id:
        what = f"the {role} `{location}` has another tokenizer than the policy"
        raise ConfigError(what, "take one that was trained from the policy's model, or a policy of its family")
    if own.chat_template != tokenizer.chat_template:
        what = f"the {role} `{location}` has another chat template than the policy"
        raise ConfigError(what, "give both the same chat_template.jinja, and train them with it")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash over all that decides which ids a text or chat becomes, 64 hex digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    content = json.dumps([type(tokenizer).__name__, rules, special, tokenizer.chat_template], default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def num_positions(model: PreTrainedModel) -> int | None:
    """How many tokens a prompt and its completion may have together; None where the model sets no bound."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def with_adapter(model: PreTrainedModel, lora: Mapping[str, Any]) -> PreTrainedModel:
    """The model with fresh LoRA layers, the rest frozen; `lora` holds those keys of `peft.LoraConfig` in `LORA_KEYS`.

    Raises ConfigError for another key, a value that peft does not take, and an adapter that could not be handed over.
    """
    from peft import LoraConfig, get_peft_model

    _check_lora(lora, model)
    start = getattr(model, "base_fingerprint", None) or fingerprint(model)
    try:
        config = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # refused below
            adapted = get_peft_model(model, config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"adapter.lora: {error}", LORA_REMEDY) from None
    _check_ties(base_model(adapted))  # type: ignore[arg-type]
    adapted.base_fingerprint = start  # type: ignore[assignment]  # of what it was before peft changed it
    return adapted  # type: ignore[return-value]


def _check_lora(lora: Mapping[str, Any], model: PreTrainedModel) -> None:
    from peft import LoraConfig

    if lora.get("lora_dropout"):
        what = f"adapter.lora: `lora_dropout` is {lora['lora_dropout']}, and dropout is off in every forward pass"
        raise ConfigError(what, "leave it out")
    for key in lora:
        if key not in LoraConfig.__dataclass_fields__:
            raise ConfigError(f"unknown key `adapter.lora.{key}`", did_you_mean(key, LORA_KEYS))
        if key not in (*LORA_KEYS, "lora_dropout"):
            what = f"`adapter.lora.{key}`: a key of peft that a stage cannot be trained with and handed over"
            raise ConfigError(what, f"leave it out; the keys are {', '.join(LORA_KEYS)}")
    known = (*FRESH, *MADE_FROM_WEIGHTS)
    if lora.get("init_lora_weights", True) not in known:
        what = f"adapter.lora: `init_lora_weights` is {lora['init_lora_weights']!r}"
        raise ConfigError(what, f"take one of {', '.join(str(word).lower() for word in known)}")
    if lora.get("init_lora_weights") == "olora" and any(isinstance(module, Conv1D) for module in model.modules()):
        what = f"adapter.lora: `olora` on a model of type `{model.config.model_type}`, whose matrices lie transposed"
        raise ConfigError(what, "take `init_lora_weights: pissa`, or another family: peft mixes up the two sides")


def _check_ties(model: PreTrainedModel) -> None:
    """Raises ConfigError for LoRA on one of two tied matrices: merging it would change the other one too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.tie_word_embeddings and any(isinstance(layer, BaseTunerLayer) for layer in ends):
        what = "adapter.lora: this model's embeddings and head are one matrix, and LoRA would change one of the two"
        raise ConfigError(what, "leave both out of `target_modules`, as `all-linear` does")


def check_adapter(outline: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Raises ConfigError where `with_adapter` would; `outline` needs no weights and is left as it is."""
    _check_lora(lora, outline)
    derived = lora.get("init_lora_weights") in MADE_FROM_WEIGHTS
    with_adapter(deepcopy(outline), {**lora, "init_lora_weights": True} if derived else lora)


def keeps_base_weights(lora: Mapping[str, Any]) -> bool:
    """Whether the model with its adapter off is, all along, the model of before the adapter.

    PiSSA and OLoRA change the base at the start, `bias` trains it.
    """
    return lora.get("init_lora_weights", True) in (True, "gaussian") and lora.get("bias", "none") == "none"


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The model without gradients, in eval mode."""
    return model.requires_grad_(False).eval()  # type: ignore[return-value]


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `folder/model`, always merged, and `folder/adapter` beside it where there is one."""
    save_adapter(model, folder / "adapter")
    merge_adapter(model).save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))


def save_adapter(model: PreTrainedModel, folder: Path, head: nn.Linear | None = None) -> None:
    """Writes the adapter, where there is one, as peft puts it on the model that the stage started from.

    With a `head` it goes on the sequence classifier of that model, and brings the head.
    """
    if not hasattr(model, "peft_config"):
        return
    # peft asks the hub whether the vocabulary has grown, which it never does here
    model.save_pretrained(str(folder), save_embedding_layers=False)
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


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The causal LM with its adapter in its weights; a model without one is given back as it is."""
    if not hasattr(model, "merge_and_unload"):
        return model
    adapted = deepcopy(model) if getattr(model, "load_whole", None) is None else _on_whole_base(model)
    return base_model(adapted.merge_and_unload())  # type: ignore[operator]


def _on_whole_base(model: PreTrainedModel) -> PreTrainedModel:
    """The adapter of a quantised model on the weights that it was quantised from, loaded once more."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    lora = {key: getattr(model.peft_config["default"], key) for key in LORA_KEYS}  # type: ignore[index]
    adapted = with_adapter(model.load_whole(), lora)  # type: ignore[operator]
    assert adapted.base_fingerprint == model.base_fingerprint, "the base has changed since it was quantised"
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model, save_embedding_layers=False))
    return adapted

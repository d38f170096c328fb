"""Reward models on disk: a decoder with the head `score`, its tokenizer, and the mean and std of its scores.

A folder loads with `AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)`, which gives unnormalised
scores; `reward_mean` and `reward_std` in its config.json are their mean and standard deviation over reference samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rung.data.collate import padded
from rung.errors import ConfigError, NonFiniteError
from rung.models.files import check_files, readable
from rung.models.load import (
    check_finite,
    check_same_tokenizer,
    is_reward_model,
    load_tokenizer,
    merge_adapter,
    read_weights,
    save_adapter,
    to_device,
)
from rung.models.names import TINY

MEAN, STD = "reward_mean", "reward_std"
NO_MODEL = "name a folder or hub id of a sequence classifier with one label, such as the `model` of a reward model"


def check_can_be_reward_model(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError if transformers has no sequence classifier that reads the score at the same token as training.

    Sequence classifiers read the score at the last token that is not padding; if padding and EOS are the same token,
    this is the token before EOS.
    """
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        what = "the tokenizer pads with EOS, but a reward model's score is read at the last token that is not padding"
        raise ConfigError(what, "set `pad_token` in its tokenizer_config.json to another token")
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        what = f"transformers has no sequence classifier for a model of type `{config.model_type}`"
        raise ConfigError(what, "use a model of another type, such as llama, qwen3 or gpt2")


def save_reward_model(
    model: PreTrainedModel, head: nn.Linear, tokenizer: PreTrainedTokenizerBase, folder: Path, scores: Tensor
) -> None:
    """Saves the merged model in `folder/model` and, if there is an adapter, the adapter and head in `folder/adapter`.

    The config records the mean and std of `scores` (n,), the scores of reference samples; a std of 0 is saved as 1.
    Raises NonFiniteError for weights or scores that are not finite.
    """
    causal_lm = merge_adapter(model)
    for trained in (causal_lm, head):
        check_finite(trained)
    if not scores.isfinite().all():
        what = "the reward model gives scores that are not finite to rows of its data, which cannot normalise it"
        raise NonFiniteError(what, "start afresh with `--new` and a lower `learning_rate` or `max_grad_norm`")
    save_adapter(model, folder / "adapter", head)
    config = deepcopy(causal_lm.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    setattr(config, MEAN, float(scores.double().mean()))
    setattr(config, STD, float(scores.double().std(correction=0)) or 1.0)
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config)
    setattr(classifier, classifier.base_model_prefix, causal_lm.base_model)
    classifier.score = head
    classifier.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))


def check_reward_model(location: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError if `location` has no reward model, or one whose tokenizer differs from `tokenizer`.

    The weights are not loaded.
    """
    _config(location)
    check_same_tokenizer(location, tokenizer, "reward model")


@lru_cache(maxsize=2)
def load_reward_model(location: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a reward model, frozen, in fp32, and on the GPU if there is one, and its tokenizer.

    Raises ConfigError if `location` is not a one-label sequence classifier, or if some of its weights are missing.
    """
    _config(location)
    model, info = read_weights(AutoModelForSequenceClassification, location, num_labels=1)
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"]))
        raise ConfigError(
            f"the reward model `{location}` lacks weights: {missing}", "save the complete model, with its head"
        )
    model.config.use_cache = False
    return to_device(model.requires_grad_(False).eval()), load_tokenizer(location)


@torch.no_grad()
def score_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, token_budget: int) -> list[float]:
    """The score of each row of token ids, normalised by the model's reference mean and std if it has them.

    Rows of similar length are batched; a batch has at most `token_budget` tokens with padding, or one row.
    """
    pad = model.config.get_text_config().pad_token_id
    mean, std = getattr(model.config, MEAN, 0.0), getattr(model.config, STD, 1.0)
    scores = torch.zeros(len(rows))
    for part in length_sorted([len(row) for row in rows], token_budget):
        ids, mask = padded([rows[i] for i in part], pad, left=False)
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        scores[part] = logits[:, 0].float().cpu()
    return [float(score) for score in (scores.double() - mean) / std]


def length_sorted(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Batches of indices, longest rows first; a batch has at most `token_budget` tokens with padding, or one row.

    >>> length_sorted([2, 9, 3, 8], 18)
    [[1, 3], [2, 0]]
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= token_budget:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _config(location: str) -> PretrainedConfig:
    """The config of a reward model; ConfigError for anything else."""
    if location.startswith(TINY):
        raise ConfigError(f"`{location}` is not a reward model", NO_MODEL)
    check_files(location)
    with readable(f"reward model `{location}` cannot be read", NO_MODEL):
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    if not is_reward_model(config) or config.num_labels != 1:
        raise ConfigError(f"`{location}` is not a reward model: it does not output a single score", NO_MODEL)
    if config.get_text_config().pad_token_id is None:
        raise ConfigError(
            f"the reward model `{location}` has no padding token", "set `pad_token_id` in its config.json"
        )
    return config

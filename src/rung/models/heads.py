"""Score and value heads, which map a hidden state to a number, and the critic, a separate model for the values."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from rung.models.files import check_files, readable
from rung.models.load import is_reward_model, load_model, read_weights, to_device
from rung.models.names import TINY


def fresh_head(causal_lm: PreTrainedModel) -> nn.Linear:
    """A head (n, H) -> (n, 1) without bias, random with std 1/sqrt(H + 1) from torch's generator."""
    width = causal_lm.config.get_text_config().hidden_size
    head = nn.Linear(width, 1, bias=False)
    nn.init.normal_(head.weight, std=1 / math.sqrt(width + 1))
    return head


def zero_head(causal_lm: PreTrainedModel) -> nn.Linear:
    """A head (n, H) -> (n, 1) with a bias, initialised to 0."""
    head = nn.Linear(causal_lm.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def load_critic(location: str) -> tuple[PreTrainedModel, nn.Linear | None]:
    """Loads the critic, with all weights trainable, and its value head, which is None if the critic is a causal LM.

    `location` is one that `load_model` accepts, or a folder with a reward model (a one-label sequence classifier). The
    value head of a reward model outputs its scores, normalised by their saved mean and std.
    """
    if location.startswith(TINY):
        return to_device(load_model(location)[0]), None
    check_files(location)
    with readable(f"critic `{location}` cannot be read"):
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    if not is_reward_model(config):
        return to_device(load_model(location)[0]), None
    classifier, _ = read_weights(AutoModelForSequenceClassification, location, num_labels=1)
    head = zero_head(classifier)
    mean, std = (
        getattr(classifier.config, name, default) for name, default in (("reward_mean", 0.0), ("reward_std", 1.0))
    )
    with torch.no_grad():
        head.weight.copy_(classifier.score.weight / std)
        head.bias.fill_(-mean / std)
    classifier.score.requires_grad_(False)
    return to_device(classifier), head

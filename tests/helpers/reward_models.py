"""Random reward models, as policies and as folders."""

from pathlib import Path

import torch

from helpers.policies import tiny_policy
from rung.forward.policy import Policy
from rung.models.heads import fresh_head
from rung.models.reward_model import save_reward_model
from rung.tiny.models import build


def random_reward_model(family: str, *, lora: bool = False) -> Policy:
    """A tiny policy with a fresh head for scores."""
    policy = tiny_policy(family, lora=lora)
    policy.score_head = fresh_head(policy.causal_lm)
    return policy


def save_random_reward_model(folder: Path, *, template: str = "", token: str = "") -> None:
    """Writes one to `folder / "model"`, where asked with another chat template or one more token."""
    policy, tokenizer = random_reward_model("llama"), build("llama")[1]
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.add_tokens([token] if token else [])
    assert isinstance(policy.score_head, torch.nn.Linear)
    save_reward_model(policy.model, policy.score_head, tokenizer, folder, torch.tensor([0.0, 2.0]))

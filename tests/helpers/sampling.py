"""Prompts, models that end often, and log-probs without a cache, for tests of samplers."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from rung.rollout.philox import Key
from rung.rollout.samplers import Prompt

KEY = Key(seed=0, stage="test", purpose="rollout")
LENGTHS = (3, 21, 1, 13, 13, 8)  # Gemma's window is 8 tokens


def prompts_of(lengths: tuple[int, ...] = LENGTHS) -> list[Prompt]:
    generator = torch.Generator().manual_seed(5)
    return [tuple(torch.randint(7, 263, (n,), generator=generator).tolist()) for n in lengths]


def ending_often(model: Any) -> Any:
    """Many EOS tokens, so that rows end at uneven lengths."""
    model.generation_config.eos_token_id = list(range(30, 60))
    return model


def lora(model: Any) -> Any:
    config = LoraConfig(
        r=4,
        target_modules="all-linear",
        init_lora_weights=False,
        fan_in_fan_out=model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return get_peft_model(model, config).eval()


@torch.no_grad()
def plain_logps(model: Any, prompt: Prompt, completion: tuple[int, ...], temperature: float) -> torch.Tensor:
    """One sequence, no cache, no padding."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]

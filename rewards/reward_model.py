"""The score of a trained reward model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from rung.reward import Verdict, reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _check_tokenizer(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    from rung.models.reward_model import check_reward_model

    check_reward_model(settings["model"], tokenizer)


@reward(range=(-math.inf, math.inf), batch=True, check=_check_tokenizer)
def reward_model(
    prompts: list[Any], completion_ids: list[list[int]], *, model: str, token_budget: PositiveInt = 8192
) -> list[float | Verdict]:
    """The score of the reward model `model` (`stage:NAME`, a folder or a hub id), normalised by its reference samples.

    The reward model gets the ids of the prompt and of the sampled completion, so it must have the policy's tokenizer
    and chat template; a truncated completion is scored as it is, without EOS. Rows are scored in batches of at most
    `token_budget` padded tokens. None (no reward) where prompt and completion exceed the reward model's positions.

    >>> reward_model([], [], model="runs/pharmacy/rm/model")
    []
    """
    if not prompts:
        return []
    from rung.models.load import num_positions
    from rung.models.reward_model import load_reward_model, score_rows

    scorer, tokenizer = load_reward_model(model)
    num_allowed = num_positions(scorer)
    rows = [_row(prompt, ids, tokenizer) for prompt, ids in zip(prompts, completion_ids, strict=True)]
    fitting = [i for i, row in enumerate(rows) if num_allowed is None or len(row) <= num_allowed]
    scores = score_rows(scorer, [rows[i] for i in fitting], token_budget=token_budget)
    too_long = Verdict(None, note=f"prompt and completion exceed the {num_allowed} positions of the reward model")
    scored = dict(zip(fitting, scores, strict=True))
    return [scored.get(i, too_long) for i in range(len(rows))]


def _row(prompt: Any, completion_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids as in reward-model training: prompt, completion, and the ids that the chat template adds after EOS."""
    from rung.data.encode import encode_prompt

    ids = [*encode_prompt(prompt, tokenizer), *completion_ids]
    ended = bool(completion_ids) and completion_ids[-1] == tokenizer.eos_token_id
    return [*ids, *_tail(tokenizer)] if ended and not isinstance(prompt, str) else ids


@lru_cache(maxsize=8)
def _tail(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that the chat template adds after the EOS of a turn, such as a line break."""
    from rung.data.chat import render
    from rung.data.records import Messages
    from rung.data.tokens import tokens

    turns: Messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    ids, _ = tokens(render(turns, tokenizer, add_generation_prompt=False), tokenizer, special=False)
    # Tokenised after EOS, not alone: some tokenizers add a space before a text, but not after a special token.
    ended = next((n for n, token in enumerate(reversed(ids)) if token == tokenizer.eos_token_id), 0)
    return tuple(ids[len(ids) - ended :])

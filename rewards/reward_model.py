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
    prompts: list[Any],
    prompt_ids: list[list[int]],
    completion_ids: list[list[int]],
    *,
    model: str,
    token_budget: PositiveInt = 8192,
) -> list[float | Verdict]:
    """The score of the reward model `model` (`stage:NAME`, a folder or a hub id), normalised by its reference samples.

    The reward model gets the ids of the prompt and of the sampled completion, so it must have the policy's tokenizer
    and chat template. As in its training, a chat ends with what the template writes after the stop token, such as a
    line break; a truncated completion is scored as it is. Rows are scored in batches of at most `token_budget` padded
    tokens. None (no reward) where prompt and completion exceed the reward model's positions.

    >>> reward_model([], [], [], model="runs/pharmacy/rm/model")
    []
    """
    if not prompts:
        return []
    from rung.models.load import num_positions
    from rung.models.reward_model import load_reward_model, score_rows

    scorer, tokenizer = load_reward_model(model)
    num_allowed = num_positions(scorer)
    rows = [
        [*asked, *ids, *(() if isinstance(prompt, str) else _after_stop(ids, tokenizer))]
        for prompt, asked, ids in zip(prompts, prompt_ids, completion_ids, strict=True)
    ]
    fitting = [i for i, row in enumerate(rows) if num_allowed is None or len(row) <= num_allowed]
    scores = score_rows(scorer, [rows[i] for i in fitting], token_budget=token_budget)
    too_long = Verdict(None, note=f"prompt and completion exceed the {num_allowed} positions of the reward model")
    scored = dict(zip(fitting, scores, strict=True))
    return [scored.get(i, too_long) for i in range(len(rows))]


def _after_stop(completion_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that the chat template adds after the last token of a completion, if that token ends a turn."""
    end = _end_of_turn(tokenizer)
    if not completion_ids or completion_ids[-1] not in end:
        return ()
    return end[end.index(completion_ids[-1]) + 1 :]


@lru_cache(maxsize=8)
def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that the chat template writes after the content of a last turn: a stop token, and often a line break."""
    from rung.data.templates import Chat, own_template, render
    from rung.data.tokens import tokens

    said = "\ufdd0"  # a noncharacter of Unicode, which no template writes
    chat = Chat(({"role": "user", "content": "a"}, {"role": "assistant", "content": said}))
    text = render(chat, own_template(tokenizer, chat), tokenizer, end="turn")
    ids, spans = tokens(text, tokenizer, special=False)
    # Tokenised with the turn, not alone: some tokenizers add a space before a text, but not after a special token.
    return tuple(token for token, (start, _) in zip(ids, spans, strict=True) if start > text.rindex(said))

"""What `rung check` remarks on data that can be used: prompts in two sets, columns and templates that nothing reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rung.config import PathConfig
from rung.pipeline.evaluations import SETS, Evaluations
from rung.pipeline.stage_data import StageData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def shared_prompts(stage: str, data: StageData, evaluations: Evaluations) -> list[str]:
    """A warning for each evaluation set with prompts that a stage trains on."""
    trained = {one.example.group for one in data.train}
    told = []
    for evaluation_set in SETS:
        items = evaluations.items(evaluation_set)
        shared = sum(item.group in trained for item in items)
        if shared:
            place = f"{shared} of {len(items)} items of `evaluate.{evaluation_set}`"
            told.append(f"warning: stage `{stage}` trains on the prompts of {place}, which it may remember")
    return told


def unread_columns(columns: Collection[str], read: Collection[str]) -> list[str]:
    """A line with the columns of the data that no format, reward or metric reads; no line if there are none."""
    left = [name for name in columns if name not in read]
    return [f"columns kept for rewards and metrics: {', '.join(left)}"] if left else []


def unused_template(config: PathConfig, data: StageData, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A line if plain prompts of the user's own data are asked without the chat template that the model has.

    No line if the config sets `prompt_template`, also to null.
    """
    if "prompt_template" in config.model_fields_set or tokenizer.chat_template is None:
        return []
    if not any(isinstance(one.example.prompt, str) and not one.source.startswith("task:") for one in data.train):
        return []
    what = f"notice: the prompts are plain text, but {config.model} has a chat template"
    return [f"{what}; set `prompt_template: chat` to use it, or `prompt_template: null` not to"]

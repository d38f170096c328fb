"""What `rung check` remarks on data that can be used: prompts in two sets, columns and templates that nothing reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from rung.config import PathConfig, StageConfig
from rung.data.report import quantiles
from rung.data.tokens import tokens
from rung.evaluation.fewshot import answer, last_text
from rung.pipeline.evaluations import SETS, Evaluations, EvaluationSet
from rung.pipeline.stage_data import StageData
from rung.pipeline.stage_settings import resolved

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


def cut_answers_of_rollout(stage: StageConfig, data: StageData, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A warning if a stage that samples cuts off answers as long as those of its rows, which are `ground_truth`."""
    if data.train[0].answers:
        return []
    limit = resolved(stage.rollout.max_completion_length)
    answers = [one.example.columns.get("ground_truth") for one in data.all]
    return _cut_answers("rollout.max_completion_length", limit, answers, tokenizer)


def cut_answers_of_evaluation(
    evaluations: Evaluations, evaluation_set: EvaluationSet, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """A warning if an evaluation cuts off answers as long as those of its items."""
    answers = [answer(item) for item in evaluations.items(evaluation_set)]
    texts = [None if each is None else last_text(each) for each in answers]
    limit = evaluations.max_completion_length
    return _cut_answers("evaluate.max_completion_length", limit, texts, tokenizer, f" of `evaluate.{evaluation_set}`")


def _cut_answers(
    key: str, limit: int, answers: Sequence[Any], tokenizer: PreTrainedTokenizerBase, of: str = ""
) -> list[str]:
    texts = [text for text in answers if isinstance(text, str)]
    lengths = [len(tokens(text, tokenizer, special=False)[0]) + 1 for text in texts]  # with the token that ends it
    if not lengths or limit >= (p99 := quantiles(lengths)["p99"]):
        return []
    what = f"warning: `{key}` {limit} is below the {p99} tokens of the answers{of} (p99)"
    return [f"{what}: answers of this length are cut off; raise it"]

"""Sampling with transformers' own `generate`, for models whose state cannot be shared between the rows of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicCache

from rung.batch import Completion, FinishReason
from rung.errors import NonFiniteError
from rung.models.architecture import base_model
from rung.models.vocabulary import without_unused
from rung.rollout.decode import NOT_FINITE, StopCriteria
from rung.rollout.draw import draw
from rung.rollout.philox import Key, uniforms
from rung.sampling import Sampling

ATTENTION = {"DynamicLayer", "DynamicSlidingWindowLayer"}  # the layers of a cache whose rows can be selected


def shares_state(model: PreTrainedModel) -> bool:
    """Whether the state of decoding is a cache of attention layers, whose rows can be copied and removed.

    It is not for recurrent layers such as Mamba's, linear attention and RWKV.
    """
    causal_lm = base_model(model)
    if "past_key_values" not in inspect.signature(causal_lm.forward).parameters:
        return False
    return {type(layer).__name__ for layer in DynamicCache(config=causal_lm.config).layers} <= ATTENTION


def generate_rows(
    model: PreTrainedModel,
    prompt: tuple[int, ...],
    samples: Sequence[tuple[int, int]],
    *,
    stop_criteria: StopCriteria,
    key: Key,
    sampling: Sampling,
) -> list[Completion]:
    """One completion of the prompt for each (visit, number) of `samples`, which determines its random draws.

    All rows have the same prompt, so that nothing is padded. Draws and log-probs are those of `LocalSampler`. Raises
    NonFiniteError if the log-probs of the policy are not finite.
    """
    drawing = _Draw(model, key, sampling, *(torch.tensor(numbers) for numbers in zip(*samples, strict=True)))
    ids = torch.tensor([prompt] * len(samples), device=model.device)
    config = GenerationConfig(
        max_new_tokens=sampling.max_completion_length,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stop_criteria.eos_ids) or None,
        pad_token_id=stop_criteria.tokenizer.pad_token_id,
    )
    with _without_own_config(model, config):
        generated = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([drawing]),
            stopping_criteria=StoppingCriteriaList([_StopTexts(stop_criteria, len(prompt))]),
        )
    return _completions(generated[:, len(prompt) :], torch.stack(drawing.logps, dim=1), stop_criteria)


class _Draw(LogitsProcessor):
    """Draws the next token of each row by its own random numbers, and leaves `generate` no other choice."""

    def __init__(self, model: PreTrainedModel, key: Key, sampling: Sampling, visits: Tensor, numbers: Tensor):
        self.model, self.sampling = model, sampling
        self.uniforms = uniforms(key, visits, numbers, 0, sampling.max_completion_length).to(model.device)
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        logits = without_unused(self.model, scores).float()
        tokens, logps = draw(logits, self.uniforms[:, len(self.logps)], self.sampling)
        self.logps.append(logps)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _StopTexts(StoppingCriteria):
    """Ends rows in which a stop text was generated."""

    def __init__(self, stop_criteria: StopCriteria, start: int):
        self.stop_criteria, self.start = stop_criteria, start

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.stop_criteria.stopped(input_ids[:, self.start :]).to(input_ids.device)


def _completions(ids: Tensor, logps: Tensor, stop_criteria: StopCriteria) -> list[Completion]:
    """The completions, each cut after the token that ended it."""
    made = []
    for row, logp in zip(ids, logps, strict=True):
        length, reason = len(row), cast(FinishReason, "length")
        for t in range(len(row)):
            if stop_criteria.eos(row[t : t + 1]).item():
                length, reason = t + 1, "eos"
                break
            if stop_criteria.stopped(row[None, : t + 1]).item():
                length, reason = t + 1, "stop"
                break
        if not logp[:length].isfinite().all():
            raise NonFiniteError(*NOT_FINITE)
        made.append(Completion(tuple(row[:length].tolist()), tuple(logp[:length].tolist()), reason))
    return made


@contextmanager
def _without_own_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """A context manager in which the model's generation config, whose values `generate` would mix in, is `config`."""
    causal_lm = base_model(model)
    own, causal_lm.generation_config = causal_lm.generation_config, config
    try:
        yield
    finally:
        causal_lm.generation_config = own

"""One generation batch: prompts are sampled, judged, and become rows of a `Batch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from rung.advantages import standardised_sum
from rung.batch import Batch, Completion
from rung.data.collate import collate
from rung.data.records import Answer, Encoded
from rung.metrics import Max, Mean, Metric, Min, merge
from rung.reward import Rewards, Sample
from rung.reward.sample import text_of
from rung.reward.scores import Scores
from rung.rollout.draw import Sampling
from rung.rollout.philox import Key
from rung.rollout.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Generated:
    """Judged rows; `table` has one mapping a row for people to read, `metrics` what was seen on the way."""

    batch: Batch
    table: list[dict[str, Any]]
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class Generator:
    """What it takes to answer prompts and judge the answers: `samples` completions for each prompt."""

    sampler: Sampler
    sampling: Sampling
    key: Key
    samples: int
    rewards: Rewards
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, prompts: Sequence[Encoded], visits: Sequence[int], step: int) -> Generated:
        """Answers each prompt under the draws that its visit names; rows of equal prompts come out adjacent.

        `step` counts optimizer steps; rewards may ask for it.
        """
        order = adjacent([prompt.prompt_ids for prompt in prompts])
        prompts, visits = [prompts[i] for i in order], [visits[i] for i in order]
        answers = self.sampler.sample(
            [prompt.prompt_ids for prompt in prompts], self.samples, visits=visits, key=self.key, sampling=self.sampling
        )
        flat = [completion for group in answers for completion in group]
        samples = [
            self._sample(prompt, completion, group)
            for group, (prompt, completions) in enumerate(zip(prompts, answers, strict=True))
            for completion in completions
        ]
        scores = self.rewards.score(samples, step=step)
        rows = [answered(prompt, completions) for prompt, completions in zip(prompts, answers, strict=True)]
        batch = collate(rows, pad_id=cast(int, self.tokenizer.pad_token_id))
        batch = replace(
            batch,
            max_completion_length=self.sampling.max_completion_length,
            truncated=torch.tensor([completion.finish_reason == "length" for completion in flat]),
            rewards=floats(scores.totals),
            task_rewards=floats(scores.task_totals),
            extras={"visit": torch.tensor(visits).repeat_interleave(self.samples)},
        )
        if self.rewards.weights:
            batch = batch.replace_extras(standardised_rewards=standardised(scores, self.rewards.weights, batch))
        logps = padded([completion.logps for completion in flat], batch.completion_ids.shape[1])
        if self.sampler.exact(self.sampling):
            batch = replace(batch, old_logps=logps)
        else:
            batch = batch.replace_extras(sampled_logps=logps)
        table = [
            {
                "prompt": text_of(sample.prompt),
                "completion": text_of(sample.completion),
                "finish_reason": sample.finish_reason,
                "reward": total,
                "rewards": {label: outcomes[i].value for label, outcomes in scores.by_reward.items()},
                **{column: values[i] for column, values in scores.columns.items()},
            }
            for i, (sample, total) in enumerate(zip(samples, scores.totals, strict=True))
        ]
        return Generated(batch, table, merge([scores.metrics(), lengths(flat)]))

    def _sample(self, prompt: Encoded, completion: Completion, group: int) -> Sample:
        asked = prompt.example.prompt
        assert asked is not None, "a prompt to sample from has text"
        text = cast(str, self.tokenizer.decode(list(completion.ids), skip_special_tokens=True))
        return Sample(
            prompt=asked,
            completion=text if isinstance(asked, str) else ({"role": "assistant", "content": text},),
            completion_ids=completion.ids,
            finish_reason=completion.finish_reason,
            n_tokens=len(completion.ids),
            row_id=prompt.source,
            group=group,
            columns=prompt.example.columns,
        )


def adjacent(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """Indices in order of first appearance, equal prompts next to each other.

    >>> adjacent([(1,), (2,), (1,)])
    [0, 2, 1]
    """
    first: dict[tuple[int, ...], int] = {}
    for index, prompt in enumerate(prompts):
        first.setdefault(prompt, index)
    return sorted(range(len(prompts)), key=lambda index: first[prompts[index]])


def answered(prompt: Encoded, completions: Sequence[Completion]) -> Encoded:
    """The prompt with its sampled ids as answers, all of them trained."""
    return replace(prompt, answers=tuple(Answer(c.ids, (True,) * len(c.ids)) for c in completions))


def standardised(scores: Scores, weights: Mapping[str, float], batch: Batch) -> torch.Tensor:
    """(N,) each reward against its group by itself, added up by weight; NaN where a row is unscored."""
    assert batch.rewards is not None
    told = [floats([outcome.value for outcome in scores.by_reward[label]]) for label in weights]
    columns = torch.stack(told, 1).masked_fill(batch.rewards.isnan()[:, None], torch.nan)
    return standardised_sum(columns, torch.tensor(list(weights.values())), batch.group_of)


def floats(values: Sequence[float | None]) -> torch.Tensor:
    """(N,) float32, NaN for None."""
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)


def padded(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """(N, width) float32, 0 beyond each row's end."""
    tensor = torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        tensor[number, : len(row)] = torch.tensor(row)
    return tensor


def lengths(completions: Sequence[Completion]) -> dict[str, Metric]:
    """TRL's metrics of completion length, and the share that hit the limit."""
    counts = [float(len(completion.ids)) for completion in completions]
    ended = [float(len(completion.ids)) for completion in completions if completion.finish_reason != "length"]
    return {
        "completions/mean_length": Mean(sum(counts), len(counts)),
        "completions/min_length": Min(min(counts, default=None)),
        "completions/max_length": Max(max(counts, default=None)),
        "completions/mean_terminated_length": Mean(sum(ended), len(ended)),
        "completions/clipped_ratio": Mean(float(len(counts) - len(ended)), len(counts)),
    }

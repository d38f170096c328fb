"""Makes one generation batch: samples completions, scores them, and collates them into a `Batch`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from rung.agents.agent import Agent
from rung.agents.metrics import trajectory_metrics
from rung.batch import CUT_OFF, Batch, Completion
from rung.data.collate import collate
from rung.data.records import Answer, Encoded, Text
from rung.maths.turns import at_turn_ends
from rung.metrics import Max, Mean, Metric, Min, Sum, merge
from rung.reward import RewardSet
from rung.reward.returned import as_json
from rung.reward.sample import answered_sample, text_of
from rung.reward.scores import Scores
from rung.reward.trajectory import Trajectory
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler, Sampler
from rung.rollout.unscored import unscored_rows
from rung.sampling import Sampling

GOLD = ("ground_truth", "answer", "solution")  # columns that are logged even if no reward names them
MAX_LOGGED, MAX_EXTRA = 2_000, 20_000  # characters in the log of completions: of a column, and of what rewards log
LOGGED_ONLY = ("row_id", "columns", "details")  # keys of `Generated.table` that are too long for a terminal


@dataclass(frozen=True, slots=True)
class Generated:
    """A generation batch with rewards, metrics of lengths and rewards, and its rows in readable form (`table`).

    `unscored` says why rows have no reward, one text a prompt.
    """

    batch: Batch
    table: list[dict[str, Any]]
    metrics: Mapping[str, Metric]
    unscored: list[str]


@dataclass(frozen=True, slots=True)
class Generator:
    """Samples a number of completions (`samples`) of each prompt, and scores them.

    With `keeps_separate_rewards`, the batch has the individual rewards in addition to their weighted sum. Rewards can
    read `total_steps`, the optimizer steps of the stage, and the epoch, which follows from `steps_per_epoch`. With an
    `agent`, completions are trajectories, in which tools or environments answer the turns of the policy.
    """

    sampler: Sampler
    sampling: Sampling
    key: Key
    samples: int
    rewards: RewardSet
    tokenizer: PreTrainedTokenizerBase
    keeps_separate_rewards: bool = False
    total_steps: int = 0
    steps_per_epoch: float = 0.0
    agent: Agent | None = None

    def __call__(self, prompts: Sequence[Encoded], visits: Sequence[int], step: int) -> Generated:
        """Samples and scores completions of each prompt; rows of equal prompts are adjacent in the result.

        The random draws for a prompt depend on its number in `visits`. `step` is the number of optimizer steps so far,
        for rewards that use it.
        """
        order = group_equal_prompts([prompt.prompt_ids for prompt in prompts])
        prompts, visits = [prompts[i] for i in order], [visits[i] for i in order]
        prompts, answers, trajectories = sampled(
            self.sampler, self.agent, prompts, self.samples, visits=visits, key=self.key, sampling=self.sampling
        )
        flat = [completion for group in answers for completion in group]
        samples = [
            answered_sample(
                cast(Text, prompt.example.prompt),
                completion,
                self.tokenizer,
                prompt_ids=prompt.prompt_ids,
                row_id=prompt.source,
                group=group,
                columns=prompt.example.columns,
                skip_special_tokens=self.sampling.skip_special_tokens,
                trajectory=trajectories.get((group, number)),
            )
            for group, (prompt, completions) in enumerate(zip(prompts, answers, strict=True))
            for number, completion in enumerate(completions)
        ]
        scores = self.rewards.score(
            samples, step=step, max_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        rows = [with_answers(prompt, completions) for prompt, completions in zip(prompts, answers, strict=True)]
        batch = collate(rows, pad_id=cast(int, self.tokenizer.pad_token_id))
        batch = replace(
            batch,
            max_completion_length=self.sampling.max_completion_length,
            truncated=torch.tensor([completion.finish_reason in CUT_OFF for completion in flat]),
            rewards=float_tensor(scores.totals),
            task_rewards=float_tensor(scores.task_totals),
            extras={"visit": torch.tensor(visits).repeat_interleave(self.samples)},
        )
        if self.agent is not None:
            weight = self.rewards.environment_weight
            of_turns = [[weight * reward for reward in one.turn_rewards] for one in trajectories.values()]
            batch = batch.replace_extras(turn_rewards=at_turn_ends(of_turns, batch.loss_mask))
        if self.keeps_separate_rewards:
            weights = self.rewards.weights
            batch = batch.with_separate_rewards(separate_rewards(scores, weights), weights)
        logps = pad_rows([completion.logps for completion in flat], batch.completion_ids.shape[1])
        unknown = ~logps.isfinite()
        logps = logps.masked_fill(unknown, torch.nan)  # NaN stands for a ratio of 1
        if self.sampler.exact(self.sampling):
            batch = replace(batch, old_logps=logps)
        else:
            batch = batch.replace_extras(sampled_logps=logps)
        table = [
            {
                "prompt": text_of(sample.prompt),
                "completion": sample.answer,
                **({"messages": bounded(as_json(list(sample.trajectory.messages)))} if sample.trajectory else {}),
                **({"raw_completion": sample.raw_completion} if sample.has_hidden_tokens else {}),
                "finish_reason": sample.finish_reason,
                "reward": total,
                "rewards": {label: outcomes[i].value for label, outcomes in scores.by_reward.items()},
                "row_id": sample.row_id,
                "columns": logged_columns(sample.columns, self.rewards.named_columns()),
                "details": scores.details(i),
                **{column: bounded(values[i]) for column, values in scores.columns.items()},
            }
            for i, (sample, total) in enumerate(zip(samples, scores.totals, strict=True))
        ]
        credited = {reward.label for reward in self.rewards.rewards if reward.credited}
        metrics = merge([scores.metrics(), length_metrics(flat), unknown_metrics(unknown)])
        if trajectories:
            metrics |= trajectory_metrics(flat, list(trajectories.values()))
        return Generated(batch, table, metrics, unscored_rows(samples, scores, credited))


def sampled(
    sampler: Sampler,
    agent: Agent | None,
    prompts: Sequence[Encoded],
    samples: int,
    *,
    visits: Sequence[int],
    key: Key,
    sampling: Sampling,
) -> tuple[Sequence[Encoded], list[list[Completion]], dict[tuple[int, int], Trajectory]]:
    """Completions of each prompt, or with an `agent` trajectories; by number of the prompt and of the sample.

    Returns the prompts too, to which environments may have added what they tell.
    """
    if agent is None:
        ids = [prompt.prompt_ids for prompt in prompts]
        return prompts, sampler.sample(ids, samples, visits=visits, key=key, sampling=sampling), {}
    assert isinstance(sampler, LocalSampler), "`build_agent` refuses other samplers"
    prompts, world = agent.world(prompts, samples, visits, (key.seed, key.stage, key.purpose))
    ids = [prompt.prompt_ids for prompt in prompts]
    made = sampler.sample_trajectories(ids, samples, visits=visits, key=key, sampling=sampling, world=world)
    rows = ((i, j, one) for i, group in enumerate(made) for j, one in enumerate(group))
    return prompts, made, {(i, j): world.trajectory((i, j), one) for i, j, one in rows}


def group_equal_prompts(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """The indices of the prompts, ordered so that equal prompts are adjacent, in the order of first appearance.

    >>> group_equal_prompts([(1,), (2,), (1,)])
    [0, 2, 1]
    """
    first: dict[tuple[int, ...], int] = {}
    for index, prompt in enumerate(prompts):
        first.setdefault(prompt, index)
    return sorted(range(len(prompts)), key=lambda index: first[prompts[index]])


def with_answers(prompt: Encoded, completions: Sequence[Completion]) -> Encoded:
    """The prompt with its sampled completions as answers, in which the tokens that were sampled are trained."""
    return replace(prompt, answers=tuple(Answer(c.ids, c.trained) for c in completions))


def separate_rewards(scores: Scores, labels: Iterable[str]) -> dict[str, torch.Tensor]:
    """The scores of each reward by label, (N,) float32; NaN if the reward has no score or the whole row is unscored."""
    unscored = float_tensor(scores.totals).isnan()
    return {
        label: float_tensor([outcome.value for outcome in scores.by_reward[label]]).masked_fill(unscored, torch.nan)
        for label in labels
    }


def logged_columns(columns: Mapping[str, Any], read: Iterable[str]) -> dict[str, Any]:
    """The gold answer and the columns that rewards read, as JSON values; a value that is long is cut off, as text.

    >>> logged_columns({"answer": 4, "text": "abc"}, ["answer"])
    {'answer': 4}
    """
    found = {name: as_json(columns[name]) for name in (*read, *GOLD) if name in columns}
    return {name: bounded(value, MAX_LOGGED) for name, value in found.items()}


def bounded(value: Any, limit: int = MAX_EXTRA) -> Any:
    """A JSON value, or the first `limit` characters of its text if that is longer."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= limit else f"{text[:limit]}..."


def float_tensor(values: Sequence[float | None]) -> torch.Tensor:
    """The values as a tensor (N,) float32, with NaN in place of None."""
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)


def pad_rows(rows: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    """The rows as a tensor (N, width) float32, padded with 0 at the end."""
    tensor = torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        tensor[number, : len(row)] = torch.tensor(row)
    return tensor


def unknown_metrics(unknown: torch.Tensor) -> dict[str, Metric]:
    """The number of tokens to which the sampler gave no finite log-prob, (N, T) bool; nothing if there are none."""
    count = float(unknown.sum())
    return {"sampling/non_finite_logps": Sum(count)} if count else {}


def length_metrics(completions: Sequence[Completion]) -> dict[str, Metric]:
    """TRL's metrics of completion length in sampled tokens, and the fraction that the length limit cut off."""
    counts = [float(sum(completion.trained)) for completion in completions]
    ended = [float(sum(one.trained)) for one in completions if one.finish_reason not in CUT_OFF]
    return {
        "completions/mean_length": Mean(sum(counts), len(counts)),
        "completions/min_length": Min(min(counts, default=None)),
        "completions/max_length": Max(max(counts, default=None)),
        "completions/mean_terminated_length": Mean(sum(ended), len(ended)),
        "completions/clipped_ratio": Mean(float(len(counts) - len(ended)), len(counts)),
    }

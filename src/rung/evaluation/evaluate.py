"""Evaluates a model: samples one completion per item, scores it with all metrics, and records scores and setup."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rung.data.records import Encoded, Example, as_prompt
from rung.data.templates import LIMITS
from rung.errors import CheckpointError, DataError
from rung.evaluation.fewshot import SEPARATOR, answer, encode_question, last_text, question
from rung.evaluation.statistics import mean_interval
from rung.reward import Outcome, RewardSet, Sample
from rung.reward.decorator import Goal
from rung.reward.returned import as_json
from rung.reward.sample import answered_sample
from rung.utils.files import sha256_text, write_text
from rung.utils.sealed import read_sealed, write_sealed
from rung.utils.secrets import without_secrets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.agents.agent import Agent
    from rung.rollout.philox import Key
    from rung.rollout.samplers import Sampler
    from rung.sampling import Sampling

OUTPUT_TOKENS, TRUNCATED = "output_tokens", "truncated"
BUILT_IN_GOALS: Mapping[str, Goal] = {OUTPUT_TOKENS: "min", TRUNCATED: "min"}  # metrics that every evaluation has
COUNTS_OF_TRAJECTORIES = ("num_turns", "num_calls", "failed_calls", "unknown_calls", "repeated_calls")
OF_TRAJECTORIES = (*COUNTS_OF_TRAJECTORIES, "hit_limit")
_ROWS = "rows"
_REMEDY = "evaluate the stage again"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """The mean of a metric over the `n` items with a score, and its 95 % interval; all three are None if `n` is 0.

    `low` and `high` are also None if an interval cannot be computed.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    lost: float = 0.0  # fraction of items without a score; they are excluded, not counted as 0
    failure: str = ""  # the error of the first item on which the metric failed; an abstention is no failure


class Lengths(_Record):
    """Statistics of the number of output tokens (EOS included) per item."""

    mean: float
    median: float
    sd: float
    p95: float
    min: float
    max: float


class Row(_Record):
    """The result for one item: prompt, expected answer, completion, and scores by metric (None: not scored).

    `details` has what metrics tell beside their scores (parts, note and cost of a Verdict) or how they failed.
    """

    id: str
    source: str
    group: str
    prompt: str  # the last turn, without shots
    expected: str | None
    completion: str
    finish_reason: str
    scores: dict[str, float | None]
    details: dict[str, dict[str, Any]] = {}
    messages: list[dict[str, Any]] = []  # of a trajectory: the turns of the model and the answers to them

    def line(self) -> str:
        """The row as one line of JSON, without `details` and `messages` if there are none."""
        return (
            self.model_dump_json(exclude={name for name in ("details", "messages") if not getattr(self, name)}) + "\n"
        )


class Evaluation(_Record):
    """The results of a model on a set of items.

    Two evaluations with equal `hash` have the same items and setup, so that they can be compared row by row. `measured`
    has the digests from which the hash is computed: those of the items, the rendered prompts (which depend on chat
    template and tokenizer), the shots, the decoding and the metrics. `model` is a hash of the model, or empty.
    """

    hash: str
    measured: dict[str, str]
    model: str = ""
    num_shots: int
    metrics: dict[str, Estimate]
    output_tokens: Lengths
    rows: tuple[Row, ...]

    def save(self, path: Path) -> None:
        """Writes the evaluation to `path` (JSON, with its hash), and its rows to a `.jsonl` file beside it."""
        lines = without_secrets("".join(row.line() for row in self.rows))
        rows = path.with_suffix(".jsonl")
        write_text(rows, lines)
        pointer = {"file": rows.name, "sha256": sha256_text(lines)}
        summary = self.model_dump(mode="json", exclude={_ROWS}) | {_ROWS: pointer}
        write_sealed(path, summary)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Reads an evaluation that `save` wrote. Raises CheckpointError if a file is missing, damaged or replaced."""
        try:
            summary = read_sealed(path, _REMEDY)
            lines = path.with_suffix(".jsonl").read_text(encoding="utf-8")
            if sha256_text(lines) != summary[_ROWS]["sha256"]:
                raise ValueError("its rows belong to another evaluation")
            # split at \n only: completions may contain other line breaks
            rows = [json.loads(line) for line in lines.split("\n")[:-1]]
            return cls.model_validate(summary | {_ROWS: rows})
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is not an evaluation: {reason}", _REMEDY) from error


def evaluate(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    metrics: RewardSet,
    *,
    shots: Sequence[Example] = (),
    sampling: Sampling,
    key: Key,
    agent: Agent | None = None,
) -> Evaluation:
    """Evaluates a model: samples one completion per item, with the shots before the prompt, and scores it.

    Metrics see the prompt of the item without shots; `output_tokens` and `truncated` are always among the metrics. The
    random draws depend on `key` and the position of the item, so they are the same for two models. Before sampling,
    raises DataError for no items, for raw text and for a shot that is one of the items, and RewardError if the data
    lack a column that a metric reads. With an `agent`, completions are trajectories.
    """
    from rung.rollout.generate import sampled

    check_items(examples, shots)
    items = [as_prompt(example) for example in examples]
    metrics.check(set.intersection(*(set(item.columns) for item in items)))
    with LIMITS:
        prompts = [encode_question(item, shots, tokenizer) for item in items]
    rows = [Encoded(item.id, item.source, ids, (), item) for item, ids in zip(items, prompts, strict=True)]
    rows, drawn, trajectories = sampled(sampler, agent, rows, 1, visits=range(len(prompts)), key=key, sampling=sampling)
    completions = [completion for (completion,) in drawn]
    with LIMITS:
        asked = [encode_question(item, (), tokenizer) for item in items] if shots else [row.prompt_ids for row in rows]
    samples = [
        answered_sample(
            question(item),
            completion,
            tokenizer,
            prompt_ids=ids,
            row_id=item.source,
            group=group,
            columns=item.columns,
            skip_special_tokens=sampling.skip_special_tokens,
            trajectory=trajectories.get((group, 0)),
        )
        for group, (item, completion, ids) in enumerate(zip(items, completions, asked, strict=True))
    ]
    by_metric = _outcomes(metrics, samples)
    scores = {name: [outcome.value for outcome in outcomes] for name, outcomes in by_metric.items()}
    failures = {name: first_failure(outcomes) for name, outcomes in by_metric.items()}
    measured = {
        "items": items_digest(examples),
        "prompts": _digest(prompts),
        "shots": _digest([[_contents(shot) for shot in shots], SEPARATOR]),
        "decoding": _digest([_decoding(sampling), key.seed]),
        "scorers": _digest([[reward.label, reward.settings, reward.spec.columns] for reward in metrics.rewards]),
    }
    if agent is not None:
        measured["tools"] = _digest([agent.toolbox.schemas(), asdict(agent.toolbox.limits)])
    groups = [example.group for example in examples]
    return Evaluation(
        hash=_digest(measured),
        measured=measured,
        num_shots=len(shots),
        metrics={name: estimate(values, groups, failures[name]) for name, values in scores.items()},
        output_tokens=_lengths([sum(completion.trained) for completion in completions]),
        rows=tuple(
            _row(example, sample, {name: outcomes[i] for name, outcomes in by_metric.items()})
            for i, (example, sample) in enumerate(zip(examples, samples, strict=True))
        ),
    )


def built_in_goals(trajectories: bool) -> Mapping[str, Goal]:
    """The metrics that every evaluation has, with tools or without, and their goals."""
    return {**BUILT_IN_GOALS, **dict.fromkeys(OF_TRAJECTORIES, "min")} if trajectories else BUILT_IN_GOALS


def items_digest(examples: Sequence[Example]) -> str:
    """A hash (16 hex digits) of the contents of the items of an evaluation, as in `Evaluation.measured`."""
    return _digest([_contents(example) for example in examples])


def _decoding(sampling: Sampling) -> dict[str, Any]:
    """The settings that determine completions and their texts."""
    settings = asdict(sampling)
    if settings["skip_special_tokens"]:
        del settings["skip_special_tokens"]  # the default must not change the hash of evaluations that are stored
    return settings


def estimate(scores: Sequence[float | None], groups: Sequence[str], failure: str = "") -> Estimate:
    """The mean and 95 % interval of the scores that are not None; `groups` are the clusters of the interval.

    >>> estimate([1, 0, None, 1], list("abcd")).n
    3
    """
    kept = [(score, group) for score, group in zip(scores, groups, strict=True) if score is not None]
    lost = 1 - len(kept) / len(scores)
    if not kept:
        return Estimate(value=None, low=None, high=None, n=0, lost=lost, failure=failure)
    values, clusters = [score for score, _ in kept], [group for _, group in kept]
    interval = mean_interval(values, clusters)
    low, high = interval if interval else (None, None)
    return Estimate(value=float(np.mean(values)), low=low, high=high, n=len(kept), lost=lost, failure=failure)


def check_items(examples: Sequence[Example], shots: Sequence[Example]) -> None:
    """Raises DataError if there are no items, for raw text, and for a shot that is one of the items."""
    if not examples:
        raise DataError("there is no item to evaluate", "name a data set with at least one row")
    for example in examples:
        question(example)
    items = {example.id: example for example in examples}
    for shot in shots:
        if shot.id in items:
            what = f"{shot.place}: a shot is one of the items ({items[shot.id].place})"
            raise DataError(what, "take shots from the training data")


def first_failure(outcomes: Sequence[Outcome]) -> str:
    """The reason of the first failure of a metric; empty if it failed on no item."""
    return next((outcome.note for outcome in outcomes if outcome.failed), "")


def _outcomes(metrics: RewardSet, samples: Sequence[Sample]) -> dict[str, Sequence[Outcome]]:
    """The outcomes of the items by metric, including the metrics that every evaluation has."""
    by_metric = dict(metrics.score(samples).by_reward)
    trajectories = any(sample.trajectory is not None for sample in samples)
    missing = [name for name in built_in_goals(trajectories) if name not in by_metric]
    return by_metric | dict(RewardSet(missing, trajectories=trajectories).score(samples).by_reward)


def _row(example: Example, sample: Sample, outcomes: Mapping[str, Outcome]) -> Row:
    expected = answer(example)
    told = {name: outcome.described() for name, outcome in outcomes.items()}
    return Row(
        id=example.id,
        source=example.source,
        group=example.group,
        prompt=last_text(question(example)),
        expected=None if expected is None else last_text(expected),
        completion=sample.answer,
        finish_reason=sample.finish_reason,
        scores={name: outcome.value for name, outcome in outcomes.items()},
        details={name: each for name, each in told.items() if each},
        messages=as_json(list(sample.trajectory.messages)) if sample.trajectory else [],
    )


def _contents(example: Example) -> list[Any]:
    return [example.id, question(example), answer(example), example.columns]


def _lengths(lengths: Sequence[int]) -> Lengths:
    return Lengths(
        mean=float(np.mean(lengths)),
        median=float(np.median(lengths)),
        sd=float(np.std(lengths, ddof=1)) if len(lengths) > 1 else 0.0,
        p95=float(np.percentile(lengths, 95)),
        min=float(min(lengths)),
        max=float(max(lengths)),
    )


def _digest(value: Any) -> str:
    """A hash (16 hex digits) of a value; what JSON cannot represent is converted to a dict (mappings) or a string."""

    def plain(other: object) -> object:
        return dict(other) if isinstance(other, Mapping) else str(other)

    return sha256_text(json.dumps(value, sort_keys=True, default=plain))[:16]

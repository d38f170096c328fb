"""Small pieces of the engine for the tests of its edges: a tiny policy, batches written out, evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from rung.batch import Batch
from rung.config import PathConfig, StageConfig, parse_config, resolve
from rung.data.records import Answer, Encoded, make_example
from rung.evaluate import Evaluation, Lengths, Row, estimate
from rung.policy import Policy
from rung.tiny.models import build

TEXTS = [{"prompt": f"number {i}", "completion": f" it is {i * i}"} for i in range(6)]


def tiny_policy(family: str = "llama", **settings: Any) -> Policy:
    """A random model of two layers, the same each time."""
    return Policy(build(family)[0], **settings)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    """A copy of everything that is trained."""
    return {name: parameter.detach().clone() for name, parameter in policy.named_parameters().items()}


def batch_of(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, trained: Sequence[Sequence[bool]] | None = None
) -> Batch:
    """A row for each (prompt, completion) of ids, each with a prompt and a group of its own."""
    width = max(len(completion) for _, completion in rows)
    prompt_width = max(len(prompt) for prompt, _ in rows)
    prompt_ids = torch.tensor([[0] * (prompt_width - len(prompt)) + list(prompt) for prompt, _ in rows])
    prompt_mask = torch.tensor([[False] * (prompt_width - len(p)) + [True] * len(p) for p, _ in rows])
    completion_ids = torch.tensor([list(ids) + [0] * (width - len(ids)) for _, ids in rows])
    completion_mask = torch.tensor([[True] * len(ids) + [False] * (width - len(ids)) for _, ids in rows])
    chosen = trained or [[True] * len(ids) for _, ids in rows]
    return Batch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        prompt_of=torch.arange(len(rows)),
        group_of=torch.arange(len(rows)),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        loss_mask=torch.tensor([list(row) + [False] * (width - len(row)) for row in chosen]),
        row_ids=tuple(f"row {i}" for i in range(len(rows))),
    )


def encoded(source: str, prompt: Sequence[int], *answers: Sequence[int], **fields: Any) -> Encoded:
    """An example as ids, all of them trained; `fields` are those of its `Example`."""
    made = tuple(Answer(tuple(ids), (True,) * len(ids)) for ids in answers)
    return Encoded(source, source, tuple(prompt), made, make_example("unpaired", source, {}, prompt="p", **fields))


def evaluation(scores: Mapping[str, Sequence[float | None]], *, groups: Sequence[str] | None = None) -> Evaluation:
    """An evaluation of given scores, one row an item; two of equal length are comparable."""
    count = len(next(iter(scores.values())))
    owners = groups or [str(i) for i in range(count)]
    return Evaluation(
        hash=f"items={count}",
        measured={"items": str(count)},
        num_shots=0,
        metrics={name: estimate(values, owners) for name, values in scores.items()},
        output_tokens=Lengths(mean=10, median=10, sd=0, p95=10, min=10, max=10),
        rows=tuple(
            Row(
                id=str(i),
                source=f"items.jsonl:{i + 1}",
                group=owners[i],
                prompt=f"question {i}",
                expected=None,
                completion=f"text {i}",
                finish_reason="eos",
                scores={name: values[i] for name, values in scores.items()},
            )
            for i in range(count)
        ),
    )


def one_stage(base: Path, stage: Mapping[str, Any], **path: Any) -> tuple[StageConfig, PathConfig]:
    """A resolved path of one stage on `tiny:llama`, and that stage."""
    raw = {"name": "edges", "model": "tiny:llama", "stages": [{"name": "only", **stage}], **path}
    config = resolve(parse_config(raw, source="test", base=base))
    return config.stages[0], config


def changeless(record: type) -> bool:
    """Whether a record's fields are what it was made with, and no others: frozen, with slots or closed to more."""
    if issubclass(record, BaseModel):
        return record.model_config.get("frozen") is True and record.model_config.get("extra") == "forbid"
    return vars(record)["__dataclass_params__"].frozen is True and "__slots__" in vars(record)

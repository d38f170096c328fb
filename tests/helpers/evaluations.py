"""Evaluations made of given scores: for tests of comparisons, gates and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rung.evaluation.evaluate import Evaluation, Lengths, Row, estimate

Scores = Sequence[float | None]


def evaluation(
    scores: Mapping[str, Scores],
    *,
    groups: Sequence[str] | None = None,
    completions: Sequence[str] | None = None,
    num_shots: int = 0,
    measured: Mapping[str, str] | None = None,
) -> Evaluation:
    """One row an item, ten output tokens each; evaluations of equal `measured` and shots are comparable."""
    count = len(next(iter(scores.values())))
    groups = groups or [str(i) for i in range(count)]
    scores = {**scores, "output_tokens": [10.0] * count, "truncated": [0.0] * count}
    parts = {"items": str(count), "shots": str(num_shots), **(measured or {})}
    return Evaluation(
        hash=" ".join(f"{name}={part}" for name, part in sorted(parts.items())),
        measured=parts,
        num_shots=num_shots,
        metrics={name: estimate(values, groups) for name, values in scores.items()},
        output_tokens=Lengths(mean=10, median=10, sd=0, p95=10, min=10, max=10),
        rows=tuple(
            Row(
                id=str(i),
                source=f"items.jsonl:{i + 1}",
                group=groups[i],
                prompt=f"question {i}",
                expected=f"answer {i}",
                completion=completions[i] if completions else f"text {i}",
                finish_reason="eos",
                scores={name: values[i] for name, values in scores.items()},
            )
            for i in range(count)
        ),
    )


def scores_before_and_after(right: int, gained: int, lost: int, wrong: int) -> tuple[list[float], list[float]]:
    """0/1 scores before and after: so many items stay right, turn right, turn wrong and stay wrong."""
    before = [1.0] * right + [0.0] * gained + [1.0] * lost + [0.0] * wrong
    after = [1.0] * right + [1.0] * gained + [0.0] * lost + [0.0] * wrong
    return before, after

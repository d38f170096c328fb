"""Says why rows of a rollout are not trained: their rewards abstained or failed, or they are truncated."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rung.batch import Batch
from rung.reward.sample import Sample
from rung.reward.scores import Scores


def unscored_rows(samples: Sequence[Sample], scores: Scores, credited: Collection[str]) -> list[str]:
    """For each data row with a completion without a total: the row, and what the first such completion met.

    `credited` has the labels of the rewards that make the total.
    """
    found: dict[str, str] = {}
    for number, (sample, total) in enumerate(zip(samples, scores.totals, strict=True)):
        if total is None and sample.row_id not in found:
            reasons = ", ".join(_reasons(scores, number, credited))
            found[sample.row_id] = f"{sample.row_id}: {reasons or 'it has no reward'}"
    return list(found.values())


def truncated_rows(rollout: Batch) -> list[str]:
    """The data rows with a truncated completion that the algorithm leaves out of the loss."""
    if rollout.truncated is None:
        return []
    left_out = rollout.truncated & ~rollout.loss_mask.any(1)
    rows = dict.fromkeys(row for row, out in zip(rollout.row_ids, left_out.tolist(), strict=True) if out)
    return [f"{row}: truncated at {rollout.max_completion_length} tokens" for row in rows]


def _reasons(scores: Scores, number: int, credited: Collection[str]) -> Iterator[str]:
    """Each reward that gave no score to the completion, with its exception or its note."""
    for label, outcomes in scores.by_reward.items():
        outcome = outcomes[number]
        if outcome.value is None and label in credited:
            kind = "abstained" if outcome.kind == "abstained" else "failed"
            yield f"reward `{label}` {kind}" + (f" ({outcome.note})" if outcome.note else "")

"""Samples for the tests of rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rung.reward import Sample


def make_sample(
    completion: Any = "yes", *, row: int = 0, group: int = 0, prompt: Any = "Why?", **columns: Any
) -> Sample:
    return Sample(
        prompt=prompt,
        completion=completion,
        prompt_ids=(1,),
        completion_ids=[7] * len(completion),
        finish_reason="eos",
        n_tokens=len(completion),
        row_id=f"rows.jsonl:{row}",
        group=group,
        columns=columns,
    )


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def table() -> Callable[..., list[Sample]]:
    """A sample a row, whose columns hold what the rewards of a test are to return."""

    def rows(groups: Sequence[int], **columns: Sequence[Any]) -> list[Sample]:
        return [
            make_sample(row=row, group=group, **{name: values[row] for name, values in columns.items()})
            for row, group in enumerate(groups)
        ]

    return rows

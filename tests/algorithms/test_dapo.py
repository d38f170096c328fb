"""What DAPO does before its loss: it keeps mixed groups alone, and long completions pay."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rung.algorithms.dapo import DAPO
from rung.batch import Batch

pytestmark = pytest.mark.maths
NAN = float("nan")


def answered(lengths: list[int], rewards: list[float], *, limit: int, group: int, **fields: Any) -> Batch:
    """One row a length, trained throughout; `group` adjacent rows answer one prompt."""
    rows = torch.arange(len(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    prompts = len(lengths) // group
    return Batch(
        prompt_ids=torch.ones(prompts, 1, dtype=torch.long),
        prompt_mask=torch.ones(prompts, 1, dtype=torch.bool),
        prompt_of=rows // group,
        group_of=rows // group,
        completion_ids=mask.long(),
        completion_mask=mask,
        loss_mask=mask,
        row_ids=tuple(map(str, lengths)),
        max_completion_length=limit,
        rewards=torch.tensor(rewards),
        **fields,
    )


@pytest.mark.parametrize(
    ("settings", "advantages"),
    [
        ({}, [1.125, 0.125, -0.375, -0.875]),
        ({"overlong_buffer": 4}, [1.125, 0.125, -0.375, -0.875]),
        ({"overlong_buffer": 4, "overlong_factor": 2.0}, [1.5, 0.5, -0.5, -1.5]),
        ({"overlong_buffer": 20}, [1.05, -0.25, -0.35, -0.45]),
        ({"overlong_buffer": 1000}, [1.05, -0.25, -0.35, -0.45]),
        ({"overlong_buffer": 0}, [0.75, -0.25, -0.25, -0.25]),
        ({"overlong_factor": 0.0}, [0.75, -0.25, -0.25, -0.25]),
    ],
    ids=["a fifth", "as many", "twice as dear", "all of it", "more than all", "off", "for nothing"],
)
def test_the_last_tokens_before_the_limit_cost(settings: dict[str, Any], advantages: list[float]) -> None:
    """Limit 20, lengths 10, 16, 18, 20, rewards 2, 1, 1, 1. A buffer of 4 takes 0, 0, .5, 1: mean .875 of what is left.

    A buffer of 20, or of more, which is taken as 20, takes .5, .8, .9, 1: mean .45.
    """
    dapo = DAPO(scale_rewards="none", **settings)
    batch, state = dapo.credit(answered([10, 16, 18, 20], [2.0, 1.0, 1.0, 1.0], limit=20, group=4), {})
    assert batch.advantages is not None
    expected = torch.tensor(advantages, dtype=torch.float32)[:, None] * batch.loss_mask
    torch.testing.assert_close(batch.advantages, expected, atol=1e-6, rtol=0)
    assert state == {}


def test_a_limit_of_a_few_tokens_leaves_no_room_to_punish() -> None:
    """A fifth of 4 tokens is none."""
    batch, _ = DAPO().credit(answered([2, 4], [1.0, 1.0], limit=4, group=2), {})
    assert batch.advantages is not None
    assert not batch.advantages.any()


def test_groups_that_the_task_cannot_tell_apart_are_drawn_anew() -> None:
    """Tasks 1 and 0; 1 and 1, whose lengths differ; 0 and 0, which do too; 1 and a row without a reward."""
    task = torch.tensor([1, 0, 1, 1, 0, 0, 1, NAN])
    shaped = [1.0, 1.0, 1.0, 0.0, 0.0, -1.0, 1.0, NAN]
    batch = answered([3, 4, 3, 20, 3, 20, 3, 3], shaped, limit=20, group=2, task_rewards=task)
    assert DAPO().keep_groups(batch).tolist() == [True, False, False, False]


def test_the_rollout_is_filled_in_a_bounded_number_of_draws() -> None:
    assert DAPO(max_num_gen_batches=3).generation_limit() == 3
    assert DAPO(max_num_gen_batches=0).generation_limit() == 0, "without a bound"


def test_rewards_that_are_normalised_apart_take_no_penalty() -> None:
    apart = {"multi_objective_aggregation": "normalize_then_sum"}
    with pytest.raises(ValidationError, match="the overlong penalty needs a summed reward"):
        DAPO.model_validate(apart)
    assert "separate_rewards" in DAPO.model_validate({**apart, "overlong_buffer": 0}).needs()

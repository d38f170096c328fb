"""Writes the model of a stage that has ended; a reward model with the statistics of its scores."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.errors import CheckpointError
from rung.forward.memory import within_memory
from rung.forward.policy import Policy
from rung.models.load import save_model
from rung.models.reward_model import save_reward_model
from rung.training.stage import Stage
from rung.utils.files import new_folders

REFERENCE_ROWS = 512  # training rows scored to normalise a reward model if there are no held-out rows


def save_final_model(stage: Stage, folder: Path) -> None:
    """Writes the trained model to `folder/model`; all ranks call this function, and rank 0 writes.

    A reward model is saved with the mean and standard deviation of its scores on reference rows.
    """
    is_reward_model = stage.policy.score_head is not None
    own = torch.zeros(0)
    if is_reward_model:
        own = reference_scores(stage.policy, stage.algorithm, reference_batches(stage))
    scores = torch.cat([part["scores"] for part in stage.ranks.gather_tensors({"scores": own})])
    policy = stage.policy.gathered()
    if stage.ranks.rank > 0:
        return
    assert policy is not None, "rank 0 has all weights"
    try:
        with new_folders(folder, "adapter", "model") as aside:
            if is_reward_model:
                assert isinstance(policy.score_head, nn.Linear), "a reward model has a linear score head"
                save_reward_model(policy.model, policy.score_head, stage.tokenizer, aside, scores)
            else:
                save_model(policy.model, stage.tokenizer, aside)
                if stage.report.prompt_form is not None:
                    stage.report.prompt_form.save(aside / "model")
    except SafetensorError as error:
        what = f"{folder / 'model'} cannot be written: {error}"
        raise CheckpointError(what, "check free space and permissions; the same command then goes on") from None


@torch.no_grad()
def reference_scores(policy: Policy, algorithm: Algorithm, batches: Iterable[Batch]) -> Tensor:
    """The scores that a reward model gives to all rows of the batches, (rows,) float32, in no particular order."""

    def scores_of(batch: Batch) -> list[Tensor]:
        found = (outputs.scores for _, outputs in policy.parts(batch, algorithm))
        return [scores.cpu() for scores in found if scores is not None]

    unit = algorithm.keep_together
    parts = [within_memory(policy, batch, unit, lambda batch=batch: scores_of(batch)) for batch in batches]
    return torch.cat([scores for part in parts for scores in part])


def reference_batches(stage: Stage) -> list[Batch]:
    """The batches for the scores with which a reward model is normalised; each rank gets its own share.

    They are the held-out batches or, if there are none, the next training batches: `REFERENCE_ROWS` rows or one epoch.
    """
    batches = list(stage.held_out)
    if not batches:
        rows = 0
        for batch in islice(stage.source, math.ceil(stage.steps_per_epoch)):
            batches.append(batch)
            rows += int(stage.ranks.sum({"rows": torch.tensor(batch.num_rows)})["rows"])
            if rows >= REFERENCE_ROWS:
                break
    return batches

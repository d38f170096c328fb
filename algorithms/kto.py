"""Kahneman-Tversky optimisation: trains on single answers labelled good or bad instead of preference pairs.

    u    = sum_t m (log pi - log ref) of a row
    z0   = max(0, mean of the same sum over mismatched rows), without a gradient
    loss = lambda_D (1 - sigma(beta (u - z0))) for a desirable row, lambda_U (1 - sigma(beta (z0 - u))) for an
           undesirable row, mean over rows

m is the loss mask. Source: Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7. z0 estimates KL(policy || reference) from
mismatched rows, prompts with answers to other prompts; the loss saturates for rows far from z0 on either side.
`loss_type: apo_zero_unpaired` replaces z0 by 0 (arXiv 2408.06266, eq. 7).

How we differ from TRL: z0 is computed once per step over all processes, not per micro-batch. The mismatched answer of a
prompt is chosen among the distinct answers of the step, sorted by a hash, instead of from the previous row: it depends
neither on the order of rows nor on the number of processes, and no row gets an answer equal to its own. A step in which
all answers are equal has z0 = 0.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from rung.algorithm import Algorithm, DataKind, ForwardPasses, Need
from rung.batch import Batch, Denominator, Loss, Outputs, Readout
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError
from rung.maths.tensors import entropy_detached, masked_sum
from rung.metrics import mean_of

Answer = tuple[tuple[int, ...], tuple[bool, ...]]  # token ids, and whether each is trained


class KTO(Algorithm):
    """Kahneman-Tversky optimisation on labelled answers, against a frozen reference.

    Defaults: beta, loss_type, desirable_weight, undesirable_weight (arXiv 2402.01306).
    """

    name: ClassVar = "kto"
    least_batch_size: ClassVar = 2

    beta: PositiveFloat = 0.1
    """Scale of the implicit rewards; larger values keep the policy closer to the reference."""
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """Baseline of the implicit rewards: z0 with `kto`, 0 with `apo_zero_unpaired`."""
    desirable_weight: NonNegativeFloat = 1.0
    """Weight of rows labelled true; the product of weight and number of rows should be 1 to 4/3 times as large as that
    for rows labelled false."""
    undesirable_weight: NonNegativeFloat = 1.0
    """Weight of rows labelled false."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.desirable_weight and not self.undesirable_weight:
            what = "`desirable_weight` and `undesirable_weight` are both 0, so nothing is trained"
            remedy = "make one of them positive; weight times row count should have a ratio of 1 to 4/3 between labels"
            raise ConfigError(what, remedy)
        return self

    def data_kind(self) -> DataKind:
        """Answers labelled good or bad."""
        return "unpaired"

    def needs(self) -> frozenset[Need]:
        """A reference model."""
        return frozenset({"reference"})

    def terms(self) -> Mapping[str, Denominator]:
        """The loss, a mean over rows."""
        return {"rows": "rows"}

    def readouts(self) -> Mapping[str, Readout]:
        """Entropy, for metrics."""
        return {"entropy": entropy_detached}

    @torch.no_grad()
    def prepare(self, batch: Batch, policy: ForwardPasses) -> Batch:
        """Adds reference log-probs, and the z0 of the step to every row."""
        batch = super().prepare(batch, policy)
        z0 = baseline(batch, policy) if self.loss_type == "kto" else 0.0
        return batch.replace_extras(z0=torch.full((batch.num_rows,), z0))

    def loss(self, batch: Batch, outputs: Outputs) -> Loss:
        """The summed loss of the rows of a part."""
        assert batch.ref_logps is not None
        mask, label, z0 = batch.loss_mask, batch.extras["label"], batch.extras["z0"]
        implied = self.beta * masked_sum(outputs.logps - batch.ref_logps, mask)
        gain = implied - self.beta * z0
        desirable, undesirable = (-gain).sigmoid(), gain.sigmoid()
        losses = torch.where(label, self.desirable_weight * desirable, self.undesirable_weight * undesirable)
        logps = masked_sum(outputs.logps, mask)
        metrics = {
            f"{kind}/{side}": mean_of(values, among)
            for kind, values in (("rewards", implied), ("logps", logps))
            for side, among in (("chosen", label), ("rejected", ~label))
        }
        metrics |= {"kl": mean_of(z0), "entropy": mean_of(outputs.readouts["entropy"], mask)}
        return Loss({"rows": losses.sum()}, metrics)


def baseline(batch: Batch, policy: ForwardPasses) -> float:
    """z0: the mean log-ratio of mismatched rows over all ranks, at least 0; 0 if all answers of the step are equal.

    A collective over all ranks.
    """
    mismatched = with_other_answers(batch, policy.ranks)
    if mismatched is None:
        return 0.0
    log_ratio = policy.logps(mismatched) - policy.reference_logps(mismatched)
    total = {"sum": masked_sum(log_ratio, mismatched.loss_mask).sum(), "rows": torch.tensor(batch.num_rows)}
    total = policy.ranks.sum(total)
    return max(0.0, float(total["sum"] / total["rows"]))


def with_other_answers(batch: Batch, ranks: Ranks) -> Batch | None:
    """Replaces each answer by another answer of the step on any rank; None if all answers of the step are equal.

    It is the previous one among the distinct answers, sorted by hash. It is cut where it would make its row longer than
    the longest row of the step, a length that the model is known to accept. A collective over all ranks.
    """
    own = answers(batch.completion_ids, batch.completion_mask, batch.loss_mask)
    lengths = batch.prompt_mask.sum(1)[batch.prompt_of]
    longest = int(ranks.max({"length": (lengths + batch.lengths).max()})["length"])
    columns = {"ids": batch.completion_ids, "mask": batch.completion_mask, "trained": batch.loss_mask}
    known = {
        answer
        for share in ranks.gather_tensors(columns)
        for answer in answers(share["ids"], share["mask"], share["trained"])
    }
    if len(known) == 1:
        return None
    ordered = sorted(known, key=lambda answer: hashlib.sha256(repr(answer).encode()).digest())
    before = {answer: ordered[number - 1] for number, answer in enumerate(ordered)}
    given = [before[answer] for answer in own]
    width = max(len(ids) for ids, _ in given)
    completion_ids = torch.zeros(batch.num_rows, width, dtype=torch.long)
    trained = torch.zeros(batch.num_rows, width, dtype=torch.bool)
    for row, (ids, marks) in enumerate(given):
        completion_ids[row, : len(ids)] = torch.tensor(ids)
        trained[row, : len(ids)] = torch.tensor(marks)
    room = torch.tensor([len(ids) for ids, _ in given]).minimum(longest - lengths)
    fits = torch.arange(width) < room[:, None]
    return replace(
        batch,
        completion_ids=completion_ids,
        completion_mask=fits,
        loss_mask=trained & fits,
        ref_logps=None,
        extras={},
    )


def answers(completion_ids: Tensor, completion_mask: Tensor, loss_mask: Tensor) -> list[Answer]:
    """The completion of each row without padding: token ids, and whether each is trained; all arguments (N, T)."""
    lengths = completion_mask.sum(1).tolist()
    rows = zip(completion_ids.tolist(), loss_mask.tolist(), lengths, strict=True)
    return [(tuple(ids[:length]), tuple(trained[:length])) for ids, trained, length in rows]

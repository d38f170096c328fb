"""The records of the training loop: prompts and completions, the policy's outputs for them, and a loss as sums.

Dimensions: P distinct prompts, S prompt width, N completions (rows), T completion width, V vocabulary.
**Column t of every (N, T) tensor belongs to completion token t**: its log-prob, its advantage, the value of the state
before it. Column 0 belongs to the first completion token, which the model predicts at the prompt's last position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rung.metrics import Metrics

# How a row ended: with an EOS token or a stop string; at the limit of tokens, while the model wrote or since an answer
# did not fit; at the limit of calls; since what answers the model failed; or since the environment was done.
FinishReason = Literal["eos", "stop", "length", "answer_length", "turns", "tool_failed", "done"]
CUT_OFF: frozenset[FinishReason] = frozenset({"length", "answer_length"})
Readout = Callable[[Tensor], Tensor]  # a function of logits, (n, V) -> (n,), such as the entropy
TeacherReadout = Callable[[Tensor, Tensor], Tensor]  # logits of the policy and of the teacher -> (n,)
Denominator = Literal["tokens", "rows", "groups"] | float | Callable[["Batch"], Tensor]
Denominators = Mapping[str, Tensor]

_REWARD = "reward/"  # prefix in `extras` of the individual rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of P distinct prompts and N completions (rows).

    A group is a set of rows of one prompt that a loss compares: one row for SFT, two for a preference pair (the chosen
    row first), K samples for the GRPO family. The rows of a group are adjacent, and so are the groups of a prompt,
    which may have several. `completion_mask` is true at real tokens (attended), `loss_mask` at trained tokens: tool
    output and user turns inside a completion are attended but not trained.
    """

    prompt_ids: Tensor  # (P, S) int64, left-padded
    prompt_mask: Tensor  # (P, S) bool
    prompt_of: Tensor  # (N,) int64, non-decreasing: the prompt of each row
    group_of: Tensor  # (N,) int64, non-decreasing: the group of each row
    completion_ids: Tensor  # (N, T) int64, right-padded
    completion_mask: Tensor  # (N, T) bool
    loss_mask: Tensor  # (N, T) bool, within completion_mask
    row_ids: tuple[str, ...]  # (N,) the file and row that each row comes from, for messages to the user
    prompt_inputs: Mapping[str, Tensor] = field(default_factory=dict)  # reserved for images
    max_completion_length: int = 0  # the sampler's limit in tokens; 0 for a data set
    truncated: Tensor | None = None  # (N,) bool: cut off at that limit
    rewards: Tensor | None = None  # (N,) float, NaN where unscored
    task_rewards: Tensor | None = None  # (N,) float, before shaping; NaN where unscored
    advantages: Tensor | None = None  # (N, T)
    old_logps: Tensor | None = None  # (N, T) under the weights that sampled the rollout
    ref_logps: Tensor | None = None  # (N, T)
    values: Tensor | None = None  # (N, T)
    end_values: Tensor | None = None  # (N,) value of the state after the last attended token
    returns: Tensor | None = None  # (N, T)
    reward_weights: Mapping[str, float] = field(default_factory=dict)  # the weight of each of `separate_rewards`
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # further tensors (N,) or (N, T), by name

    @property
    def num_rows(self) -> int:
        """The number of rows (completions), N."""
        return len(self.prompt_of)

    @property
    def num_prompts(self) -> int:
        """The number of distinct prompts, P."""
        return len(self.prompt_ids)

    @property
    def num_groups(self) -> int:
        """The number of groups."""
        return len(self.group_of.unique_consecutive())

    @property
    def lengths(self) -> Tensor:
        """(N,) the number of attended completion tokens of each row."""
        return self.completion_mask.sum(1)

    def select(self, rows: Tensor) -> Batch:
        """The batch of the selected rows; `rows` has their indices (n,), or is a mask (N,).

        Prompts and groups are renumbered from 0, and padding that is no longer needed is removed. Indices must be in
        an order that keeps the rows of a group adjacent.
        """
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        prompts, prompt_of = self.prompt_of[rows].unique_consecutive(return_inverse=True)
        group_of = self.group_of[rows].unique_consecutive(return_inverse=True)[1]
        width = int(self.completion_mask[rows].sum(1).max()) if len(rows) else 0
        offset = self.prompt_ids.shape[1] - (int(self.prompt_mask[prompts].sum(1).max()) if len(rows) else 0)

        def cut(tensor: Tensor) -> Tensor:
            return tensor[rows, :width] if tensor.dim() > 1 else tensor[rows]

        picked = {name: cut(tensor) for name, tensor in self._row_tensors().items()}
        return replace(
            self,
            prompt_ids=self.prompt_ids[prompts, offset:],
            prompt_mask=self.prompt_mask[prompts, offset:],
            prompt_inputs={name: tensor[prompts] for name, tensor in self.prompt_inputs.items()},
            row_ids=tuple(self.row_ids[i] for i in rows.tolist()),
            extras={name: cut(tensor) for name, tensor in self.extras.items()},
            **(picked | {"prompt_of": prompt_of, "group_of": group_of}),
        )

    def replace_extras(self, **tensors: Tensor) -> Batch:
        """The batch with `tensors`, each (N,) or (N, T), added to `extras` by name."""
        return replace(self, extras={**self.extras, **tensors})

    @property
    def separate_rewards(self) -> dict[str, Tensor]:
        """The individual rewards (N,) by name; empty unless the algorithm needs them.

        A value is NaN if this reward has no score for the row, or if the row as a whole is unscored.
        """
        return {name.removeprefix(_REWARD): one for name, one in self.extras.items() if name.startswith(_REWARD)}

    def with_separate_rewards(self, rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Batch:
        """The batch with the individual rewards, each (N,), and their weights in the total reward."""
        extras = {f"{_REWARD}{name}": one for name, one in rewards.items()}
        return replace(self, reward_weights=dict(weights), extras={**self.extras, **extras})

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved = {name: tensor.to(device) for name, tensor in self._row_tensors().items()}
        return replace(
            self,
            prompt_ids=self.prompt_ids.to(device),
            prompt_mask=self.prompt_mask.to(device),
            prompt_inputs={name: tensor.to(device) for name, tensor in self.prompt_inputs.items()},
            extras={name: tensor.to(device) for name, tensor in self.extras.items()},
            **moved,
        )

    def _row_tensors(self) -> dict[str, Tensor]:
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_BY_ROW)
        return {name: tensor for name, tensor in named if tensor is not None}


_NOT_BY_ROW = frozenset(
    {"prompt_ids", "prompt_mask", "prompt_inputs", "extras", "row_ids", "max_completion_length", "reward_weights"}
)


def concat(batches: Sequence[Batch]) -> Batch:
    """Concatenates batches that have the same fields, and pads them to the width of the widest.

    Equal prompts of different batches are not merged: each is stored once per batch.
    """
    first = batches[0]
    names = first._row_tensors()
    assert all(batch._row_tensors().keys() == names.keys() for batch in batches), "batches have different fields"
    width = max(batch.completion_ids.shape[1] for batch in batches)
    prompt_width = max(batch.prompt_ids.shape[1] for batch in batches)

    def stacked(tensors: list[Tensor]) -> Tensor:
        if tensors[0].dim() > 1:
            tensors = [torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors]
        return torch.cat(tensors)

    def left_padded(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (prompt_width - tensor.shape[1], 0))

    rows = {name: stacked([batch._row_tensors()[name] for batch in batches]) for name in names}
    for name, size in (("prompt_of", "num_prompts"), ("group_of", "num_groups")):
        offsets = torch.tensor([0] + [getattr(batch, size) for batch in batches[:-1]]).cumsum(0)
        rows[name] = torch.cat([getattr(batch, name) + int(o) for batch, o in zip(batches, offsets, strict=True)])
    return replace(
        first,
        prompt_ids=torch.cat([left_padded(batch.prompt_ids) for batch in batches]),
        prompt_mask=torch.cat([left_padded(batch.prompt_mask) for batch in batches]),
        prompt_inputs={n: torch.cat([batch.prompt_inputs[n] for batch in batches]) for n in first.prompt_inputs},
        extras={n: stacked([batch.extras[n] for batch in batches]) for n in first.extras},
        row_ids=tuple(row for batch in batches for row in batch.row_ids),
        **rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The outputs of the policy for one part (micro-batch) of a step; 0 at tokens where `loss_mask` is false."""

    logps: Tensor  # (N, T) nats, at the sampling temperature; all NaN if the algorithm does not read them
    readouts: Mapping[str, Tensor] = field(default_factory=dict)  # (N, T) each, by the names in `Algorithm.readouts`
    values: Tensor | None = None  # (N, T) value of the state before token t
    scores: Tensor | None = None  # (N,) output of the score head at the last attended token


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss as named sums over one part (micro-batch) of a step, each to be divided by its denominator.

    Denominators are counted over the whole optimizer step, so the loss does not depend on how a step is split.
    """

    terms: Mapping[str, Tensor]  # scalars
    metrics: Metrics = field(default_factory=dict)

    def over(self, denominators: Denominators) -> Tensor:
        """The scalar to call `backward` on: each term divided by its denominator, summed over the terms."""
        assert self.terms.keys() == denominators.keys(), "a loss returns the terms that its algorithm declares"
        shares = [total / denominators[name] for name, total in self.terms.items()]
        return torch.stack(shares).sum()


def count_denominators(terms: Mapping[str, Denominator], batch: Batch) -> dict[str, Tensor]:
    """The denominator of each term for a batch: float64 scalars, counted from masks, without a forward pass.

    `tokens`, `rows` and `groups` are counted and, like the result of a function, are to be summed over ranks. A number
    is a constant, which is the same on every rank and is not summed.
    """
    counted = {
        "tokens": lambda: batch.loss_mask.sum(),
        "rows": lambda: torch.tensor(batch.num_rows),
        "groups": lambda: torch.tensor(batch.num_groups),
    }

    def one(denominator: Denominator) -> Tensor:
        if isinstance(denominator, str):
            return counted[denominator]()
        return denominator(batch) if callable(denominator) else torch.tensor(denominator)

    return {name: one(denominator).double() for name, denominator in terms.items()}


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion: its token ids (including EOS if sampled), their log-probs and the reason why it ended.

    `sampled` is true at the tokens of the model; the others are answers to its turns, and their log-probs are 0. If it
    is empty, the model sampled every token.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish_reason: FinishReason
    sampled: tuple[bool, ...] = ()

    @property
    def trained(self) -> tuple[bool, ...]:
        """Whether each token is the model's own, and so is trained."""
        return self.sampled or (True,) * len(self.ids)


def placeholder(device: torch.device) -> Batch:
    """A dummy batch on `device`: one prompt of one token and one completion of one token."""
    one, number = torch.ones((1, 1), dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    empty = Batch(
        prompt_ids=number[None],
        prompt_mask=one,
        prompt_of=number,
        group_of=number,
        completion_ids=number[None],
        completion_mask=one,
        loss_mask=one,
        row_ids=("",),
    )
    return empty.to(device)


def to_tree(batch: Batch) -> dict[str, Any]:
    """The batch as nested dicts of tensors and JSON values, for a checkpoint."""
    return {
        "rows": batch._row_tensors(),
        "prompts": {"prompt_ids": batch.prompt_ids, "prompt_mask": batch.prompt_mask},
        "prompt_inputs": dict(batch.prompt_inputs),
        "extras": dict(batch.extras),
        "row_ids": list(batch.row_ids),
        "max_completion_length": batch.max_completion_length,
        "reward_weights": dict(batch.reward_weights),
    }


def from_tree(tree: Mapping[str, Any]) -> Batch:
    """The inverse of `to_tree`."""
    return Batch(
        **tree["rows"],
        **tree["prompts"],
        prompt_inputs=dict(tree["prompt_inputs"]),
        extras=dict(tree["extras"]),
        row_ids=tuple(tree["row_ids"]),
        max_completion_length=tree["max_completion_length"],
        reward_weights=dict(tree.get("reward_weights", {})),
    )

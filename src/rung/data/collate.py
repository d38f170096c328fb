"""Collates encoded examples into a padded `Batch` in which each distinct prompt is stored once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.batch import Batch
from rung.data.records import Encoded


def collate(encoded: Sequence[Encoded], *, pad_id: int) -> Batch:
    """The batch of one or more examples with completions; the completions of one example form a group.

    Prompts with equal ids are stored once, in order of first appearance, and their groups are adjacent. `extras` has
    `margin` (rows,) float32 if some example has a margin (0 for examples without one), and `label` (rows,) bool if all
    examples have a label.
    """
    assert encoded, "a batch has at least one example"
    assert all(one.answers for one in encoded), "prompts without completions are for sampling, not for collating"
    by_prompt: dict[tuple[int, ...], list[Encoded]] = {}
    for one in encoded:
        by_prompt.setdefault(one.prompt_ids, []).append(one)
    groups = [(p, one) for p, same in enumerate(by_prompt.values()) for one in same]
    rows = [(p, g, one, answer) for g, (p, one) in enumerate(groups) for answer in one.answers]
    margins = [one.example.margin for _, _, one, _ in rows]
    labels = [one.example.label for _, _, one, _ in rows]
    extras = {"margin": torch.tensor([margin or 0.0 for margin in margins])} if any(margins) else {}
    if None not in labels:
        extras["label"] = torch.tensor(labels)

    prompt_ids, prompt_mask = padded(list(by_prompt), pad_id, left=True)
    completion_ids, completion_mask = padded([answer.ids for *_, answer in rows], pad_id, left=False)
    loss_mask = padded([answer.trained for *_, answer in rows], 0, left=False)[0].bool()
    return Batch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        prompt_of=torch.tensor([p for p, *_ in rows]),
        group_of=torch.tensor([g for _, g, *_ in rows]),
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        loss_mask=loss_mask,
        row_ids=tuple(one.source for _, _, one, _ in rows),
        extras=extras,
    )


def padded(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Pads rows of integers to an int64 tensor (rows, longest), on the left or the right; also returns its mask.

    The mask is true except at padding.

    >>> padded([[5, 6], [7]], 0, left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
        mask[i, columns] = True
    return ids, mask

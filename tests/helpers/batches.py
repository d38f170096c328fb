"""Random ragged batches: prompts with several rows each, and tokens that are attended and not trained."""

import torch

from rung.batch import Batch


def random_batch(
    generator: torch.Generator,
    *,
    prompts: int = 3,
    rows: tuple[int, int] = (1, 5),
    prompt_length: tuple[int, int] = (1, 12),
    length: tuple[int, int] = (1, 14),
    vocab: int = 100,
    group: int | None = None,
) -> Batch:
    """Prompts with a random number of rows each, ragged lengths, and a few attended tokens that are not trained.

    `group` rows make a group (rows per prompt are then its multiples); None makes each prompt's rows one group.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    prompt_lengths = [draw(*prompt_length) for _ in range(prompts)]
    counts = [draw(*rows) * (group or 1) for _ in range(prompts)]
    lengths = [draw(*length) for _ in range(sum(counts))]
    width, prompt_width = max(lengths), max(prompt_lengths)
    prompt_mask = torch.arange(prompt_width) >= prompt_width - torch.tensor(prompt_lengths)[:, None]
    completion_mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    loss_mask = completion_mask & (torch.rand(completion_mask.shape, generator=generator) < 0.85)
    loss_mask[:, 0] = completion_mask[:, 0]
    prompt_of = torch.repeat_interleave(torch.arange(prompts), torch.tensor(counts))
    return Batch(
        prompt_ids=torch.randint(5, vocab, prompt_mask.shape, generator=generator) * prompt_mask,
        prompt_mask=prompt_mask,
        prompt_of=prompt_of,
        group_of=torch.arange(sum(counts)) // group if group else prompt_of.clone(),
        completion_ids=torch.randint(5, vocab, completion_mask.shape, generator=generator) * completion_mask,
        completion_mask=completion_mask,
        loss_mask=loss_mask,
        row_ids=tuple(f"row {i}" for i in range(sum(counts))),
    )


def with_random_weights(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with random weights for `WeightedSum`."""
    return batch.replace_extras(
        weights=torch.randn(batch.completion_ids.shape, generator=generator),
        rows=torch.randn(batch.num_rows, generator=generator),
    )

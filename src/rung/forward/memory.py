"""When memory runs out, the same work is done again in smaller parts, down to one row (or group) a part."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from rung.batch import Batch
from rung.distributed.ranks import Ranks
from rung.errors import MemoryLimitError
from rung.utils.console import note

Result = TypeVar("Result")
# torch has a class for this error on CUDA only; on the CPU, and in cuBLAS, it is a RuntimeError with one of these texts
MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
SHARDED = (
    "out of memory in the forward or backward pass of sharded weights, which cannot be repeated on one rank alone",
    "lower `token_budget` (8192 may become 4096), and run the same command again: it goes on from the last checkpoint",
)


class Budgeted(Protocol):
    """A policy, as far as it is needed to lower its token budget."""

    token_budget: int
    lowered_budget: int | None

    @property
    def budget(self) -> int:
        """The token budget in force."""
        ...

    def lower_budget(self, batch: Batch, keep_together: str) -> int:
        """Lowers the token budget until the batch is split into smaller parts; returns it, or 0 at the smallest."""
        ...


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def attempt(compute: Callable[[], Result]) -> tuple[Result] | None:
    """The result of `compute`, in a tuple; None if memory ran out, after what it had allocated was freed."""
    try:
        return (compute(),)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Only here, after the `except` block, are the frames of the traceback released, and with them their tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def within_memory(policy: Budgeted, batch: Batch, keep_together: str, compute: Callable[[], Result]) -> Result:
    """The result of `compute`, a pass of `batch` that can be repeated; with a lower token budget if memory runs out.

    Not a collective: ranks may end with different budgets. Raises MemoryLimitError if the smallest parts do not fit.
    """
    while True:
        made = attempt(compute)
        if made is not None:
            return made[0]
        budget = policy.lower_budget(batch, keep_together)
        if not budget:
            raise smallest_part_error(batch)
        tell_lowered("token_budget", budget)


def fits_all_ranks(policy: Budgeted, batch: Batch, keep_together: str, ranks: Ranks, fits: bool) -> bool:
    """Whether a step fitted into memory on all ranks; if not, all of them have the same lower budget; a collective.

    `fits` says whether it did on this rank. Raises MemoryLimitError if the smallest parts do not fit on some rank.
    """
    smallest, failed = policy.budget if fits else policy.lower_budget(batch, keep_together), not fits
    if ranks.world > 1:
        told = {"failed": torch.tensor(float(failed)), "budget": torch.tensor(-float(smallest))}
        agreed = ranks.max(told)
        smallest, failed = int(-agreed["budget"]), bool(agreed["failed"])
    if not smallest:
        raise smallest_part_error(batch)
    if smallest < policy.token_budget:
        policy.lowered_budget = smallest
    if failed and ranks.rank == 0:
        tell_lowered("token_budget", smallest)
    return not failed


def smaller_budget(plan: Callable[[int], object], budget: int) -> int:
    """Half of the budget, or less if `plan` does not change before; 0 if it never changes.

    >>> smaller_budget(lambda budget: min(budget, 100), 8000), smaller_budget(lambda budget: "one row a part", 8000)
    (62, 0)
    """
    current = plan(budget)
    while budget > 1:
        budget //= 2
        if plan(budget) != current:
            return budget
    return 0


@contextmanager
def sufficient_memory(purpose: str) -> Iterator[None]:
    """A context manager that turns an error for lack of memory into MemoryLimitError, for work in a single piece."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"out of memory: there is too little memory for {purpose}"
        remedy = "train an adapter (`adapter: {lora: {r: 16}}`), take a smaller model, or shard it with `--fully-shard`"
        raise MemoryLimitError(what, remedy) from None


def smallest_part_error(batch: Batch) -> MemoryLimitError:
    """The error for a batch of which a single row (or group) does not fit into memory."""
    longest = int((batch.prompt_mask.sum(1)[batch.prompt_of] + batch.lengths).max()) if batch.num_rows else 0
    what = f"out of memory with the smallest `token_budget`: one row or pair (of up to {longest} tokens a row) a part"
    remedy = "lower `max_prompt_length` and `rollout.max_completion_length`, shorten the rows, or take a smaller model"
    return MemoryLimitError(what, remedy)


def tell_lowered(limit: str, value: int) -> None:
    """Prints in one line that a limit was lowered because memory ran out."""
    note(f"out of memory: `{limit}` is lowered to {value}, and the same work is done again")

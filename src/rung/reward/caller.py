"""Calls a reward for a batch: in this process, concurrently in threads or as coroutines, or in worker processes."""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rung.errors import RewardError
from rung.reward.binding import Reward
from rung.reward.call import Reply, call_all, call_all_async, is_async
from rung.reward.outcome import Outcome
from rung.reward.returned import copied
from rung.reward.trainer_state import TrainerState
from rung.reward.worker import Worker


class Caller:
    """Calls rewards and owns the worker processes, of which there are as many as calls at the same time."""

    def __init__(self) -> None:
        self.workers = [Worker()]

    def replies(
        self, reward: Reward, many: Sequence[Mapping[str, Any]], state: TrainerState
    ) -> Sequence[Reply | Outcome]:
        """Calls the reward once with each of `many` arguments; the replies have the same order."""
        if reward.address is not None:
            return self._replies_of_workers(reward, many, state)
        full = [{**arguments, **copied(dict(reward.settings))} for arguments in many]
        hooks = reward.signature.hooks
        if is_async(reward.function):
            return call_all_async(reward.function, hooks, full, state, reward.timeout, reward.concurrency)
        return call_all(reward.function, hooks, full, state, reward.concurrency or 1)

    def close(self) -> None:
        """Ends the worker processes; the next call of a reward with a timeout starts new ones."""
        for worker in self.workers:
            worker.close()

    def _replies_of_workers(
        self, reward: Reward, many: Sequence[Mapping[str, Any]], state: TrainerState
    ) -> Sequence[Reply | Outcome]:
        address, timeout = reward.address, reward.timeout
        assert address is not None, "a reward in a worker has an address"
        assert timeout is not None, "a reward in a worker has a timeout"
        try:
            json.dumps(many)
        except (TypeError, ValueError) as error:
            what = f"reward `{reward.label}` runs in a worker process, but an argument cannot be sent as JSON: {error}"
            raise RewardError(what, "store the column as text or numbers, or remove the reward's timeout") from None
        at_once = min(reward.concurrency or 1, len(many))
        self.workers += [Worker() for _ in range(at_once - len(self.workers))]
        free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers[: max(at_once, 1)]:
            free.put(worker)

        def one(arguments: Mapping[str, Any]) -> Reply | Outcome:
            worker = free.get()
            try:
                return worker.call(reward.label, address, arguments, state, timeout)
            finally:
                free.put(worker)

        if at_once < 2:
            return [one(arguments) for arguments in many]
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(one, many))

"""Calls a reward for a batch: in this process, or in worker processes that are ended at the deadline."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rung.reward.binding import Reward
from rung.reward.call import Reply, call_all, call_all_async, is_async
from rung.reward.keeper_process import CurrentKeeper
from rung.reward.outcome import Outcome
from rung.reward.pool import Pool
from rung.reward.returned import copied
from rung.reward.schedule import Batch, Job
from rung.reward.trainer_state import TrainerState

KEPT_DURATIONS = 32
_SENT_AS_THEY_ARE = (str, int, float, bool, type(None))


class Caller:
    """Calls rewards and owns their worker processes; rewards of one file or module share theirs."""

    def __init__(self, rewards: Iterable[Reward]) -> None:
        self._keeper = CurrentKeeper()
        self._durations: dict[str, deque[float]] = {}
        self._told: set[str] = set()
        by_source: dict[tuple[Any, ...], list[Reward]] = {}
        for reward in rewards:
            if reward.address is not None:
                by_source.setdefault(_source(reward), []).append(reward)
        self._pools: dict[str, Pool] = {}
        for together in by_source.values():
            addresses = {reward.label: reward.address for reward in together if reward.address is not None}
            pool = Pool(self._keeper.get, addresses, together[0].environment())
            self._pools |= dict.fromkeys(addresses, pool)

    def replies(
        self, reward: Reward, many: Sequence[Mapping[str, Any]], state: TrainerState
    ) -> Sequence[Reply | Outcome]:
        """Calls the reward once with each of `many` arguments; the replies have the same order."""
        pool = self._pools.get(reward.label)
        if pool is not None and reward.timeout is not None and self._can_be_sent(reward, many):
            durations = self._durations.setdefault(reward.label, deque(maxlen=KEPT_DURATIONS))
            job = Job(reward.label, reward.timeout, reward.concurrency, is_async(reward.function), durations)
            return Batch(pool, job, many, state).run()
        full = [{**arguments, **copied(dict(reward.settings))} for arguments in many]
        hooks = reward.signature.hooks
        if is_async(reward.function):
            return call_all_async(reward.function, hooks, full, state, reward.timeout, reward.concurrency)
        return call_all(reward.function, hooks, full, state, reward.timeout, reward.concurrency or 1)

    def close(self) -> None:
        """Ends the worker processes; the next call of a reward that needs one starts new ones."""
        for pool in self._pools.values():
            pool.close()
        self._keeper.close()

    def _can_be_sent(self, reward: Reward, many: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a worker process would get the same arguments; if not, tells once that the calls are made here."""
        for name in {name for arguments in many for name in arguments}:
            if not all(_survives_json(arguments.get(name)) for arguments in many):
                if reward.label not in self._told:
                    self._told.add(reward.label)
                    why = f"`{name}` has values that JSON cannot represent"
                    what = f"reward `{reward.label}` runs in the training process, since {why}"
                    print(f"warning: {what} (told once)", file=sys.stderr, flush=True)
                return False
        return True


def _source(reward: Reward) -> tuple[Any, ...]:
    """What rewards have in common whose functions share the state of a module."""
    address = reward.address or {}
    return address["name"].rpartition(":")[0], address["base"], reward.spec.env


def _survives_json(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(_survives_json(each) for each in value)
    if kind is dict:
        return all(type(name) is str and _survives_json(each) for name, each in value.items())
    return kind in _SENT_AS_THEY_ARE

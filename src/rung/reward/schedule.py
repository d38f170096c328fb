"""Calls a reward in worker processes, within the deadline of each call, whatever the calls do.

Calls run one after another in one lane, or in as many as `concurrency` says, in the order of the rows. A call that
takes long no longer keeps the rows behind it waiting: these get further lanes, so that a step with any number of hung
calls ends shortly after the deadline. If such a call ends after all, the reward is slow rather than hung: what the
further lanes have begun is then called again, in order.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from rung.reward.call import LOOP_GRACE_S, Reply
from rung.reward.connection import WorkerFailure, wait_for
from rung.reward.deadline import START_TIMEOUT_S
from rung.reward.outcome import Outcome, timed_out
from rung.reward.pool import Lane, Pool
from rung.reward.reply import read_reply
from rung.reward.trainer_state import TrainerState

PATIENCE_S = 0.5  # after which a call no longer keeps others waiting, unless calls often take more than half of this
MAX_ROWS = 64  # sent at once to a lane that calls one row after another
MAX_LANES, MAX_LOADING_LANES = 64, 8  # forked ones, and ones that each load the file of the reward


@dataclass(frozen=True, slots=True)
class Job:
    """How a reward is called; `key` is its label, `timeout` its deadline in seconds.

    `concurrency` is the number of calls at the same time, None if it is not set. `durations` has the seconds that the
    last calls took; those of a batch are added.
    """

    key: str
    timeout: float
    concurrency: int | None
    is_async: bool
    durations: deque[float]


class Batch:
    """The calls of one reward for one batch; `run` returns the reply or outcome of each."""

    def __init__(self, pool: Pool, job: Job, many: Sequence[Mapping[str, Any]], state: TrainerState):
        self.pool, self.job, self.many, self.state = pool, job, many, asdict(state)
        self.results: list[Reply | Outcome | None] = [None] * len(many)
        self.waiting = deque(range(len(many)))
        self.running: list[Lane] = []
        self.usual = 1 if job.is_async else job.concurrency or 1
        usually = min(2 * max(job.durations, default=0.0), job.timeout)
        self.patience = max(min(PATIENCE_S, job.timeout / 2), usually)
        if job.concurrency:
            self.patience = job.timeout  # a limit that a user has set holds until a call has hung
        self.hung = 0
        self.ended = 0

    def run(self) -> list[Reply | Outcome]:
        """Makes the calls."""
        try:
            while self.waiting or self.running:
                self._start()
                self._receive()
                self._expire()
        finally:
            self.pool.end(self.running)
            self.pool.trim(self.usual)
        return [result if result is not None else timed_out(self.job.timeout) for result in self.results]

    def _start(self) -> None:
        """Sends waiting rows to lanes, of which there may be more than usual if calls are stuck."""
        stuck = self._free_those_behind() or self.hung
        widest = MAX_LANES if self.pool.can_fork else MAX_LOADING_LANES
        most = max(self.usual, widest) if stuck else self.usual
        if self.hung >= widest and not self.ended:
            self._fail(self.waiting, Outcome("timeout", note=f"not called, since all {self.hung} calls before it hung"))
            self.waiting.clear()
        while self.waiting and len(self.running) < most:
            try:
                lane = self.pool.lane(surplus=len(self.running) >= self.usual)
                self._send(lane)
            except WorkerFailure as error:
                if self.running:
                    return
                self._fail(self.waiting, self.pool.fault or Outcome("error", note=f"the worker died: {error}"))
                self.waiting.clear()

    def _send(self, lane: Lane) -> None:
        count = 1 if self.job.concurrency or lane.surplus or self.hung else MAX_ROWS
        rows = list(self.waiting if self.job.is_async else islice(self.waiting, count))
        request = {
            "op": "call",
            "key": self.job.key,
            "serial": (serial := self.pool.next_serial()),
            "many": {row: self.many[row] for row in rows},
            "state": self.state,
            "timeout": self.job.timeout,
            "concurrency": self.job.concurrency,
        }
        lane.rows, lane.serial, lane.began = rows, serial, time.monotonic()
        lane.heard = lane.began
        lane.connection.send(request)
        for _ in rows:
            self.waiting.popleft()
        self.running.append(lane)

    def _free_those_behind(self) -> bool:
        """Takes the rows behind a call that is stuck away from its lane; returns whether a call is stuck."""
        now = time.monotonic()
        stuck = [lane for lane in self.running if not (lane.is_loading or self.job.is_async)]
        stuck = [lane for lane in stuck if now - lane.heard > self.patience]
        for lane in stuck:
            behind = lane.rows[1:]
            if behind:
                lane.rows = lane.rows[:1]
                self.waiting.extendleft(reversed(behind))
                with contextlib.suppress(WorkerFailure):  # the next look at the lane finds this too
                    lane.connection.send({"op": "forget", "rows": behind})
        return bool(stuck)

    def _receive(self) -> None:
        """Waits for replies until the next time at which something is to be done."""
        if not self.running:
            return
        now = time.monotonic()
        events = [self._deadline(lane) for lane in self.running]
        if not self.job.is_async and (self.waiting or any(len(lane.rows) > 1 for lane in self.running)):
            events += [patient for lane in self.running if (patient := lane.heard + self.patience) > now]
        lanes = {lane.connection: lane for lane in self.running}
        for connection in wait_for(lanes, min(events) - now + 0.001):
            lane = lanes[connection]
            if lane not in self.running:  # ended meanwhile, to be called again
                continue
            try:
                for message in connection.receive():
                    self._take(lane, message)
            except WorkerFailure as error:
                how = self.pool.how_it_ended(lane) if str(error) == "it ended" else str(error)
                loading = self.pool.fault if lane.is_loading else None
                self._drop([lane], loading or Outcome("error", note=f"the worker died: {how}"))

    def _take(self, lane: Lane, message: dict[str, Any]) -> None:
        if lane.is_loading:
            self.pool.loaded(message)
            lane.is_loading, lane.began = False, time.monotonic()
            lane.heard = lane.began
            return
        row = message.get("row")
        if message.get("serial") != lane.serial or row not in lane.rows:  # taken away just before
            return
        lane.rows.remove(row)
        self.results[row] = read_reply(message)
        self.ended += 1
        took, lane.heard = time.monotonic() - lane.heard, time.monotonic()
        self.job.durations.append(took)
        if not lane.rows:
            self.running.remove(lane)
            self.pool.release(lane)
        if took > self.patience and not self.job.is_async:
            self._call_again(2 * took)

    def _call_again(self, patience: float) -> None:
        """Puts back the rows in surplus lanes, since the call that kept them waiting was slow rather than hung."""
        self.patience = min(patience, self.job.timeout)
        surplus = [lane for lane in self.running if lane.surplus]
        self.waiting.extendleft(sorted((row for lane in surplus for row in lane.rows), reverse=True))
        self.running = [lane for lane in self.running if not lane.surplus]
        self.pool.end(surplus)

    def _deadline(self, lane: Lane) -> float:
        if lane.is_loading:
            return lane.began + START_TIMEOUT_S
        if not self.job.is_async:
            return lane.heard + self.job.timeout
        turns = math.ceil(len(self.many) / min(self.job.concurrency or len(self.many), len(self.many)))
        return min(lane.began + turns * self.job.timeout, lane.heard + self.job.timeout) + LOOP_GRACE_S

    def _expire(self) -> None:
        """Ends the lanes whose calls have passed their deadline."""
        now = time.monotonic()
        late = [lane for lane in self.running if now >= self._deadline(lane)]
        if late:
            self.hung += len(late)
            self._drop(late, timed_out(self.job.timeout))

    def _drop(self, lanes: Sequence[Lane], outcome: Outcome) -> None:
        """Ends lanes whose calls failed; rows behind these calls are still to be called."""
        for lane in lanes:
            failed = lane.rows if self.job.is_async else lane.rows[:1]
            self._fail(failed, outcome)
            self.waiting.extendleft(reversed(lane.rows[len(failed) :]))
        self.running = [lane for lane in self.running if lane not in lanes]
        self.pool.end(lanes)

    def _fail(self, rows: Iterable[int], outcome: Outcome) -> None:
        for row in rows:
            self.results[row] = outcome

"""The batch source of online algorithms: samples rollouts from the current policy and splits them into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rung.algorithm import Algorithm, State
from rung.batch import Batch, concat, from_tree, to_tree
from rung.data.batches import order
from rung.data.records import Encoded
from rung.distributed.ranks import Ranks
from rung.errors import ConfigError, GenerationLimitError, NonFiniteError, UserError
from rung.forward.policy import Policy
from rung.metrics import Metric, Sum, decode, encode, merge
from rung.rollout.decode import NOT_FINITE
from rung.rollout.generate import Generated, Generator
from rung.rollout.unscored import truncated_rows

KEPT_REASONS = 8  # for the message of an error
MIN_KEEP_RATE = 0.25  # lowest assumed share of kept groups: a generation batch has at most 4 times the missing groups


class RolloutSource:
    """Yields one batch per optimizer step, from rollouts of the current policy.

    For each rollout, completions of `batch_size` prompts (over all ranks) are sampled and scored, the algorithm selects
    the groups to keep and computes advantages, and the result is trained on `epochs` times, in `minibatches` steps
    each time. The order of prompts depends only on the seed and the epoch; a prompt's visit is its position in this
    order, counted from the start of training. Groups that the algorithm rejects are replaced by groups of further
    prompts; if there are then too many, those with the latest visits are discarded. Raises GenerationLimitError if the
    algorithm's limit of generation batches is reached, and ConfigError if a rank would have no prompt.
    """

    def __init__(
        self,
        prompts: Sequence[Encoded],
        *,
        algorithm: Algorithm,
        policy: Policy,
        generator: Generator,
        batch_size: int,
        epochs: int,
        minibatches: int,
        seed: int,
        ranks: Ranks,
    ):
        if batch_size < ranks.world:
            raise ConfigError(
                f"`rollout.batch_size` {batch_size} is too few prompts for {ranks.world} ranks",
                "give at least one prompt per rank",
            )
        self.prompts, self.algorithm, self.policy, self.generator = prompts, algorithm, policy, generator
        self.batch_size, self.epochs, self.minibatches = batch_size, epochs, minibatches
        self.seed, self.ranks = seed, ranks
        self.drawn = 0  # prompts visited since the start
        self.rollouts = 0
        self.update = 0  # steps taken on the current rollout
        self.rollout: Batch | None = None
        self.place = torch.zeros(0, dtype=torch.long)  # (N,) the index of each row's group among those of all ranks
        self.state: State = algorithm.initial_state()
        self._unscored: list[str] = []
        self._metrics: dict[str, Metric] = {}
        self._table: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.rollout is None or self.update == self.epochs * self.minibatches:
                before = self.state_dict()
                try:
                    self.rollout, self.place = self._new_rollout()
                except UserError:
                    self.load_state_dict(before)  # so that the caller can save the state, and the run can go on from it
                    raise
                self.rollouts += 1
                self.update = 0
            epoch, minibatch = divmod(self.update, self.minibatches)
            self.update += 1
            turn = torch.tensor(self._group_order(epoch))
            yield self.rollout.select(turn[self.place] * self.minibatches // self.batch_size == minibatch)

    def pop_report(self) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
        """The metrics (over all ranks) and completions (of this rank) since the last call; all ranks must call it."""
        metrics = merge(decode(part) for part in self.ranks.gather(encode(self._metrics)))
        table, self._metrics, self._table = self._table, {}, []
        return metrics, table

    def unscored(self) -> list[str]:
        """Why rows of this rank had no reward or were truncated last, the newest first."""
        cut = [] if self.rollout is None else truncated_rows(self.rollout)
        return [*cut, *self._unscored]

    def close(self) -> None:
        """Ends the worker processes of rewards and tools, and closes environments."""
        self.generator.rewards.close()
        if self.generator.agent is not None:
            self.generator.agent.close()

    def state_dict(self) -> dict[str, Any]:
        """The state from which training can be resumed, including the current rollout."""
        return {
            "drawn": self.drawn,
            "rollouts": self.rollouts,
            "update": self.update,
            "rollout": None if self.rollout is None else to_tree(self.rollout),
            "place": self.place,
            "state": dict(self.state),
            "rewards": self.generator.rewards.state_dict(),
            "unscored": self._unscored,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.drawn, self.rollouts, self.update = state["drawn"], state["rollouts"], state["update"]
        self.rollout = None if state["rollout"] is None else from_tree(state["rollout"])
        self.place, self.state = state["place"], state["state"]
        self.generator.rewards.load_state_dict(state["rewards"])
        self._unscored = list(state.get("unscored", ()))  # absent in checkpoints of earlier versions

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restores the algorithm's state from one that `state_dict` returned, and keeps the position in the data.

        The current rollout is given up: the policy that sampled it is not the one that is trained from now on.
        """
        self.state = state["state"]
        self.rollout, self.update = None, 0
        self.place = torch.zeros(0, dtype=torch.long)

    def share(self, states: Sequence[Mapping[str, Any]], ranks: Ranks) -> Mapping[str, Any]:
        """This rank's state if a run is resumed with another number of ranks; `states` are those of all earlier ranks.

        The groups of the current rollout are distributed over the new ranks.
        """
        mine = {**states[0], "rewards": states[ranks.rank % len(states)]["rewards"]}
        if mine["rollout"] is None:
            return mine
        rollout = concat([from_tree(state["rollout"]) for state in states])
        place = torch.cat([state["place"] for state in states])
        dealt = place % ranks.world == ranks.rank
        return {**mine, "rollout": to_tree(rollout.select(dealt)), "place": place[dealt]}

    def _group_order(self, epoch: int) -> list[int]:
        """The position of each group in an epoch: the sampling order in the first epoch, then a random permutation."""
        if epoch == 0:
            return list(range(self.batch_size))
        return order(self.seed + self.rollouts, epoch, self.batch_size)

    def _new_rollout(self) -> tuple[Batch, Tensor]:
        """This rank's part of a new rollout, with advantages, and the index of each row's group over all ranks."""
        local, chosen = self._generate_groups()
        numbers = {visit: number for number, visit in enumerate(chosen)}
        with torch.no_grad():
            local = self.algorithm.prepare(self._with_known_logps(local), self.policy)
        shares = (
            [from_tree(_nested(share)) for share in self.ranks.gather_tensors(_flat(local))]
            if self.ranks.world > 1
            else [local]
        )
        state = self.state
        whole = replace(concat(shares), reward_weights=local.reward_weights)
        credited, updated = self.algorithm.credit(whole, state)
        self.state = updated if is_finite(updated) else state
        if self.ranks.rank == 0:
            self._add_metrics(self.algorithm.rollout_metrics(credited, state))
        before = sum(share.num_rows for share in shares[: self.ranks.rank])
        credited = credited.select(torch.arange(before, before + local.num_rows))
        credited = replace(credited, row_ids=local.row_ids)
        rewards = credited.rewards if self.algorithm.reads_rewards else None
        scored = credited if rewards is None else credited.select(~rewards.isnan())
        place = torch.tensor([numbers[visit] for visit in scored.extras["visit"].tolist()], dtype=torch.long)
        return scored, place

    def _generate_groups(self) -> tuple[Batch, list[int]]:
        """Samples until `batch_size` groups are kept; returns this rank's rows and the visits of all kept groups."""
        kept: list[Batch] = []
        chosen: list[int] = []
        sampled = generations = 0
        limit = self.algorithm.generation_limit()
        while len(chosen) < self.batch_size:
            if limit and generations == limit:
                raise self._too_few_groups(len(chosen), generations, sampled)
            rate = len(chosen) / sampled if sampled else 1.0
            wanted = math.ceil((self.batch_size - len(chosen)) / max(rate, MIN_KEEP_RATE))
            wanted = max(wanted, self.ranks.world)  # at least one prompt per rank
            visits = range(self.drawn, self.drawn + wanted)
            self.drawn += wanted
            generated = self._generate(visits)
            keep = self.algorithm.keep_groups(generated.batch)[generated.batch.group_of]
            kept.append(generated.batch.select(keep))
            found = sorted(visit for part in self.ranks.gather(_visits(kept[-1])) for visit in part)
            chosen += found
            sampled += wanted
            generations += 1
        surplus = len(chosen) - self.batch_size
        chosen = chosen[: self.batch_size]
        if self.ranks.rank == 0:
            counts = {"sampled": sampled, "dropped": sampled - len(chosen) - surplus, "discarded": surplus}
            self._add_metrics({f"filter/{name}_groups": Sum(float(count)) for name, count in counts.items()})
        local = concat(kept)
        return local.select(torch.isin(local.extras["visit"], torch.tensor(chosen))), chosen

    def _too_few_groups(self, kept: int, generations: int, sampled: int) -> GenerationLimitError:
        """The error for reaching the algorithm's limit of generation batches; a collective over all ranks."""
        found = f"only {kept} of {self.batch_size} groups were kept"
        reasons = [reason for share in self.ranks.gather(self._unscored) for reason in share][:3]
        what = f"{found} in {generations} generation batches with {sampled} prompts"
        bounds = " or ".join(f"`{name}`" for name in sorted(self.algorithm.bounds))
        more = f"raise {bounds} to go on" if bounds else "allow more generation batches"
        remedy = f"use prompts that the policy solves sometimes but not always, or {more}"
        return GenerationLimitError("; ".join([what, *reasons]), remedy)

    def _generate(self, visits: range) -> Generated:
        mine = self.ranks.share(visits)
        orders = {epoch: order(self.seed, epoch, len(self.prompts)) for epoch in {v // len(self.prompts) for v in mine}}
        prompts = [self.prompts[orders[visit // len(self.prompts)][visit % len(self.prompts)]] for visit in mine]
        try:
            generated = self.policy.with_weights(lambda: self._sample(prompts, list(mine)))
        except NonFiniteError:
            generated = None
        sampled = self.ranks.agree(generated is not None)
        if generated is None or not sampled:
            raise NonFiniteError(*NOT_FINITE)
        self._add_metrics(generated.metrics)
        self._table += generated.table
        self._unscored = list(dict.fromkeys([*generated.unscored, *self._unscored]))[:KEPT_REASONS]
        return generated

    def _sample(self, prompts: Sequence[Encoded], visits: Sequence[int]) -> Generated:
        """Loads the current weights into the sampler and samples completions."""
        steps = self.rollouts * self.epochs * self.minibatches
        weights = {name: p.detach() for name, p in self.policy.model.named_parameters() if p.requires_grad}
        self.generator.sampler.load(weights, version=steps)
        return self.generator(prompts, visits, steps)

    def _with_known_logps(self, sampled: Batch) -> Batch:
        """The rollout with log-probs of the policy in place of old log-probs that the sampler gave as NaN.

        In the first update their ratio is 1. A collective: with sharded weights, all ranks compute log-probs or none.
        """
        if sampled.old_logps is None or self.ranks.agree(not bool(sampled.old_logps.isnan().any())):
            return sampled
        known = torch.where(sampled.old_logps.isnan(), self.policy.logps(sampled), sampled.old_logps)
        return replace(sampled, old_logps=known)

    def _add_metrics(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = merge([self._metrics, metrics])


def is_finite(state: State) -> bool:
    """Whether all numbers in the state of an algorithm are finite.

    >>> is_finite({"beta": 0.1, "rewards": [1.0, 2.0]}), is_finite({"beta": float("nan")})
    (True, False)
    """
    numbers = (value if isinstance(value, list) else [value] for value in state.values())
    return all(math.isfinite(number) for several in numbers for number in several)


def _visits(batch: Batch) -> list[int]:
    return batch.extras["visit"].unique().tolist()


def _flat(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch by dotted names, without row ids, to be sent to other ranks."""
    tree = to_tree(batch)
    named = {
        f"{part}.{name}": tensor
        for part in ("rows", "prompts", "prompt_inputs", "extras")
        for name, tensor in tree[part].items()
    }
    return {**named, "limit": torch.tensor(batch.max_completion_length)}


def _nested(named: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `_flat`, with empty row ids."""
    tree: dict[str, Any] = {"rows": {}, "prompts": {}, "prompt_inputs": {}, "extras": {}}
    for name, tensor in named.items():
        part, _, field = name.partition(".")
        if field:
            tree[part][field] = tensor
    rows = len(tree["rows"]["prompt_of"])
    return {**tree, "row_ids": [""] * rows, "max_completion_length": int(named["limit"])}

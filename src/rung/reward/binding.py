"""Binds a reward function to the settings, columns, role and weight of its config entry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rung.errors import RewardError, UserError
from rung.registry import load_object
from rung.reward.call import is_async
from rung.reward.decorator import Goal, Role, declaration, name_of
from rung.reward.registry import reward_function
from rung.reward.sample import STANDARD_FIELDS, TRL_FIELDS, Sample
from rung.reward.signature import Signature, read_settings, read_signature
from rung.reward.spec import RewardPolicy, RewardSpec
from rung.utils.messages import did_you_mean, settings_error

RewardSource = RewardSpec | str | Mapping[str, Any] | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward function with everything needed to call it.

    `address` tells a worker process how to load the function; None if the function is called in this process.
    """

    label: str
    function: Callable[..., Any]
    spec: RewardSpec
    role: Role
    goal: Goal
    range: tuple[float, float] | None
    timeout: float | None
    signature: Signature
    settings: Mapping[str, Any]
    address: Mapping[str, Any] | None

    @property
    def credited(self) -> bool:
        """Whether the reward can change the total reward of a row."""
        return self.role == "gate" or (self.role != "metric" and self.spec.weight != 0)

    def passes(self, value: float) -> bool:
        """Whether a score passes the reward's threshold, for a reward with the role `gate`."""
        return value > 0 if self.spec.threshold is None else value >= self.spec.threshold

    def batches(self, samples: Sequence[Sample], rows: Sequence[int]) -> list[list[int]]:
        """`rows` divided into calls of the function: one row per call, one group per call, or all rows in one call."""
        if self.signature.style == "sample":
            return [[row] for row in rows]
        if self.signature.style == "trl":
            return [list(rows)] if rows else []
        groups: dict[int, list[int]] = {}
        for row in rows:
            groups.setdefault(samples[row].group, []).append(row)
        return list(groups.values())

    def arguments(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The data arguments of one call by parameter name: lists over the samples, or single values for one sample."""
        columns = {self._column(name): name for name in self.signature.reads if name not in self._fields}
        if self.signature.reads_all:
            renamed = {theirs: ours for ours, theirs in self.spec.columns.items()}
            columns |= {name: renamed.get(name, name) for sample in samples for name in sample.columns}
        present = {theirs for sample in samples for theirs in sample.columns}
        fields = self._fields if self.signature.reads_all else [n for n in self.signature.reads if n in self._fields]
        lists = {name: [self._fields[name](sample) for sample in samples] for name in fields}
        for theirs, ours in columns.items():
            if theirs in present:  # the parameter of an absent column has a default, as `check` made sure
                lists[ours] = [sample.columns.get(theirs) for sample in samples]
        return {name: values[0] for name, values in lists.items()} if self.signature.style == "sample" else lists

    def check(self, columns: Collection[str]) -> None:
        """Raises RewardError if the data lack a column that the reward requires.

        Also raised if a column has the same name as a standard field that the reward reads, such as `prompt`.
        """
        taken = set(self._fields) if self.signature.reads_all else set(self._fields) & set(self.signature.reads)
        for name in sorted(taken & set(columns)):
            what = f"reward `{self.label}` reads the field `{name}`, but the data have a column `{name}` too"
            raise RewardError(what, "rename the column: this name is reserved for a field of the sample")
        for name, required in self.signature.reads.items():
            needed = required or name in self.spec.columns
            if needed and name not in self._fields and self._column(name) not in columns:
                what = f"reward `{self.label}`: the data have no column `{self._column(name)}`"
                raise RewardError(what, f"write `columns: {{{name}: ...}}`; {did_you_mean(name, columns)}")

    def columns_read(self, columns: Collection[str]) -> set[str]:
        """Those of the data's columns that the function is given."""
        if self.signature.reads_all:
            return set(columns)
        return {self._column(name) for name in self.signature.reads if name not in self._fields} & set(columns)

    @property
    def _fields(self) -> Mapping[str, Callable[[Sample], Any]]:
        return TRL_FIELDS if self.signature.style == "trl" else STANDARD_FIELDS

    def _column(self, name: str) -> str:
        return self.spec.columns.get(name, name)


def bind(source: RewardSource, policy: RewardPolicy, base: Path | None) -> Reward:
    """Builds a reward from a config entry, a name or a function; file paths are relative to `base`.

    Raises RewardError or ConfigError if the function cannot be found, a setting is wrong, or an option has no effect.
    """
    spec, function = _resolve(source, base)
    label = spec.label or spec.name.rpartition(":")[2]
    declared = declaration(function)
    signature = read_signature(function, label, spec.args)
    settings = read_settings(signature, label, spec.args)
    role = spec.role or declared.role
    _check_options(spec, label, role, declared.goal, signature)
    timeout = declared.timeout or policy.timeout_s
    address = None
    if timeout is not None and not is_async(function):
        name = _address(source, spec, function, label)
        address = {"name": name, "base": str((base or Path()).resolve()), "args": dict(spec.args)}
    return Reward(
        label=label,
        function=function,
        spec=spec,
        role=role,
        goal=declared.goal,
        range=declared.range,
        timeout=timeout,
        signature=signature,
        settings=settings,
        address=address,
    )


def _resolve(source: RewardSource, base: Path | None) -> tuple[RewardSpec, Callable[..., Any]]:
    if isinstance(source, str):
        source = RewardSpec(name=source)
    elif isinstance(source, Mapping):
        try:
            source = RewardSpec.model_validate(source)
        except ValidationError as error:
            where = f"reward `{source.get('name', '?')}`"
            raise settings_error(where, error, RewardSpec.model_fields) from None
    if isinstance(source, RewardSpec):
        return source, reward_function(source.name, base)
    return RewardSpec(name=name_of(source)), source


def _check_options(spec: RewardSpec, label: str, role: Role, goal: Goal, signature: Signature) -> None:
    if role != "gate" and (spec.threshold is not None or spec.fail_value):
        what = f"reward `{label}` has `threshold` or `fail_value`, but it is not a gate"
        raise RewardError(what, "add `role: gate`, or leave them out")
    if role in ("metric", "gate") and spec.weight not in (0.0, 1.0):
        what = f"reward `{label}` is a {role}: its weight has no effect"
        raise RewardError(what, "leave `weight` out, or change `role`")
    if goal == "min" and (role == "gate" or (role == "reward" and spec.weight > 0)):
        remedy = "give it a negative weight, or `role: metric`"
        raise RewardError(f"reward `{label}` is better when lower, but this entry favours higher values", remedy)
    for ours in spec.columns:
        fields = TRL_FIELDS if signature.style == "trl" else STANDARD_FIELDS
        readable = [name for name in signature.reads if name not in fields]
        if ours not in readable and (not signature.reads_all or ours in fields):
            raise RewardError(f"reward `{label}` does not read a column `{ours}`", did_you_mean(ours, readable))


def _address(source: RewardSource, spec: RewardSpec, function: Callable[..., Any], label: str) -> str:
    """The name under which a worker process can import the function."""
    if isinstance(source, str | RewardSpec | Mapping):
        return spec.name
    address = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    with contextlib.suppress(UserError):
        if not address.startswith("__main__:") and load_object(address) is function:
            return address
    what = f"reward `{label}` has a timeout, so it runs in a worker process, which cannot import it"
    raise RewardError(
        what, "define it at the top level of a module and refer to it by name, as in `./my_rewards.py:score`"
    )

"""Binds a reward function to the settings, columns, role and weight of its config entry."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rung.errors import RewardError, UserError
from rung.registry import load_object
from rung.reward.deadline import imported
from rung.reward.decorator import Goal, Role, declaration, name_of
from rung.reward.environment import env_fault
from rung.reward.registry import reward_function
from rung.reward.returned import copied
from rung.reward.sample import (
    STANDARD_FIELDS,
    TRAJECTORY_FIELDS,
    TRL_FIELDS,
    TRL_TRAJECTORY_FIELDS,
    Sample,
)
from rung.reward.signature import HOOKS, Signature, read_settings, read_signature, returns_function
from rung.reward.spec import RewardPolicy, RewardSpec
from rung.utils.messages import did_you_mean, settings_error
from rung.utils.secrets import filled

SHIPPED = "rung.rewards"
RewardSource = RewardSpec | str | Mapping[str, Any] | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward function with everything needed to call it.

    `address` tells a worker process how to load the function; None if the function is called in this process.
    `timeout` is the deadline of a call in seconds, None for none.
    `concurrency` is the number of calls at the same time; None if neither the entry nor the function sets it.
    `trajectories`: whether the samples may be trajectories, whose fields the function can read.
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
    concurrency: int | None = None
    trajectories: bool = False

    @property
    def credited(self) -> bool:
        """Whether the reward can change the total reward of a row."""
        return self.role == "gate" or (self.role != "metric" and self.spec.weight != 0)

    def environment(self) -> dict[str, str]:
        """The variables named in the entry, which a worker process gets although they may be secret."""
        return {name: os.environ[name] for name in self.spec.env if name in os.environ}

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
        """The data arguments of one call by parameter name: lists over the samples, or single values for one sample.

        Each sample has its own copy of its values.
        """
        present = {column for sample in samples for column in sample.columns}
        read = {**dict.fromkeys(self.signature.reads), **dict.fromkeys(self.spec.columns)}
        if self.signature.reads_all:
            mapped = set(self.spec.columns.values())
            read |= dict.fromkeys(name for name in (*self._fields, *sorted(present)) if name not in mapped)
        lists: dict[str, list[Any]] = {}
        for name in read:
            source, field = self._column(name), self._field(name)
            if field is not None and not (source in present and self._yields(name)):
                lists[name] = [field(sample) for sample in samples]
            elif source in present:  # the parameter of an absent column has a default, as `check` made sure
                lists[name] = [copied(sample.columns.get(source)) for sample in samples]
        return {name: values[0] for name, values in lists.items()} if self.signature.style == "sample" else lists

    def named_columns(self) -> list[str]:
        """The columns of the data that parameters of the function name."""
        return [self._column(name) for name in self.signature.reads if self._field(name) is None]

    def check(self, columns: Collection[str], renamed: Mapping[str, str]) -> None:
        """Raises RewardError if the data lack a column that the reward requires, or have none of those it can read.

        `renamed` has the columns of the data that are read under another name, and that name. Also raised if a column
        has the same name as a standard field that the reward reads, such as `prompt`.
        """
        named = {**self.signature.reads, **dict.fromkeys(self.spec.columns, True)}
        taken = {self._column(name) for name in named if self._field(name) is not None}
        if self.signature.reads_all and self.signature.style == "trl":
            taken |= set(self._fields)
        for name in sorted(taken & set(columns)):
            what = f"reward `{self.label}` reads the field `{name}`, but the data have a column `{name}` too"
            raise RewardError(what, "rename the column: this name is reserved for a field of the sample")
        self._refuse_same_field(named)
        offered = {*columns, *self._fields, *HOOKS}
        for name, required in named.items():
            if required and self._field(name) is None and self._column(name) not in columns:
                source = self._column(name)
                what = f"reward `{self.label}`: the data have no column `{source}`"
                remedy = _remedy_for_renamed(name, source, columns, renamed)
                raise RewardError(what, remedy or f"write `columns: {{{name}: ...}}`; {did_you_mean(name, offered)}")
        if not taken and not self.signature.reads_all and not any(self._column(name) in columns for name in named):
            what = f"reward `{self.label}` reads neither the completion nor a column of the data"
            raise RewardError(what, f"if it makes a reward, {_name_result(self.spec.name)}")

    def _refuse_same_field(self, named: Iterable[str]) -> None:
        """Raises RewardError if two parameters read the same field: it would be compared with itself."""
        readers: dict[str, str] = {}
        for name in (name for name in named if self._field(name) is not None):
            field = self._column(name)
            if field in readers:
                what = f"reward `{self.label}` reads the field `{field}` both as `{readers[field]}` and as `{name}`"
                raise RewardError(what, "`completion` is the model's answer; the answer in the row is `ground_truth`")
            readers[field] = name

    def columns_read(self, columns: Collection[str]) -> set[str]:
        """Those of the data's columns that the function is given."""
        if self.signature.reads_all:
            return set(columns)
        return set(self.named_columns()) & set(columns)

    @property
    def _fields(self) -> Mapping[str, Callable[[Sample], Any]]:
        if self.signature.style == "trl":
            return {**TRL_FIELDS, **TRL_TRAJECTORY_FIELDS} if self.trajectories else TRL_FIELDS
        return {**STANDARD_FIELDS, **TRAJECTORY_FIELDS} if self.trajectories else STANDARD_FIELDS

    def _field(self, name: str) -> Callable[[Sample], Any] | None:
        """The standard field that a parameter reads; None if it reads a column.

        A function of the whole batch can also read the fields of a single sample, if `columns` names them.
        """
        source = self._column(name)
        others = STANDARD_FIELDS if name in self.spec.columns else {}
        return self._fields.get(source) or others.get(source)

    def _yields(self, name: str) -> bool:
        """Whether a column of the same name is passed in place of a field, which nothing names."""
        return name not in self.signature.reads and name not in self.spec.columns

    def _column(self, name: str) -> str:
        return self.spec.columns.get(name, name)


def bind(source: RewardSource, policy: RewardPolicy, base: Path | None, *, trajectories: bool = False) -> Reward:
    """Builds a reward from a config entry, a name or a function; file paths are relative to `base`.

    With `trajectories`, it can read the fields of trajectories.
    Raises RewardError or ConfigError if the function cannot be found, a setting is wrong, or an option has no effect.
    """
    spec, function = _resolve(source, base)
    label = spec.label or spec.name.rpartition(":")[2]
    if inspect.isclass(function) or returns_function(function):
        kind = "is a class" if inspect.isclass(function) else "returns a function"
        raise RewardError(f"reward `{label}` {kind} and cannot judge", f"name what it makes: {_name_result(spec.name)}")
    declared = declaration(function)
    args = filled(spec.args, f"reward `{label}`")
    signature = read_signature(function, label, args, spec.columns)
    settings = read_settings(signature, label, args)
    role = spec.role or declared.role
    _check_options(spec, label, role, declared.goal, signature)
    is_ours = is_shipped(function)
    timeout = declared.timeout or (None if is_ours else policy.timeout_s)
    name = spec.name if _given(source) is None else importable_name(function) if declared.timeout else None
    address = None
    acts = trajectories and not {"environment", "environments"}.isdisjoint(signature.reads)
    if timeout is not None and name is not None and not acts:  # an environment lives in this process
        folder = str((base or Path()).resolve())
        address = {"name": name, "base": folder, "args": args, "columns": dict(spec.columns)}
    if fault := env_fault(f"reward `{label}`", spec.env, in_worker=address is not None):
        raise RewardError(*fault)
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
        concurrency=spec.concurrency or declared.concurrency,
        trajectories=trajectories,
    )


def _resolve(source: RewardSource, base: Path | None) -> tuple[RewardSpec, Callable[..., Any]]:
    given = _given(source)
    if isinstance(source, str) or callable(source):
        source = {"name": source}
    if isinstance(source, Mapping):
        named = source if given is None else {**source, "name": name_of(given)}
        try:
            source = RewardSpec.model_validate(named)
        except ValidationError as error:
            raise settings_error(f"reward `{named.get('name', '?')}`", error, RewardSpec.model_fields) from None
    if not isinstance(source, RewardSpec):
        example = '`{"name": function, "weight": 0.5}`'
        raise RewardError(f"{source!r:.60} is not a reward", f"give a name, a function, or an entry such as {example}")
    return source, _loaded(source.name, base) if given is None else given


def _loaded(name: str, base: Path | None) -> Callable[..., Any]:
    """The function of this name. Raises RewardError or ConfigError if it cannot be loaded."""
    return imported(name, lambda: reward_function(name, base)) if ":" in name else reward_function(name, base)


def _given(source: RewardSource) -> Callable[..., Any] | None:
    """The function of a reward that a Python program passes, alone or as the `name` of an entry."""
    named = source.get("name") if isinstance(source, Mapping) else source
    return named if callable(named) else None


def _remedy_for_renamed(name: str, source: str, columns: Collection[str], renamed: Mapping[str, str]) -> str:
    """What the parameter `name` should read in place of `source`, if the data have it by another name; else empty."""
    ours = renamed.get(source)
    found = "ground_truth" if ours == "completion" and "ground_truth" in columns else ours
    if found is None or found not in {*columns, *STANDARD_FIELDS}:
        return ""
    return f"`{source}` is read as `{ours}`; use `{found}`: write `columns: {{{name}: {found}}}` in its entry"


def _name_result(name: str) -> str:
    """The advice to name what a class or a function that makes rewards returns."""
    maker = name.rpartition(":")[2]
    if not name.partition(":")[2]:
        return f"pass `{maker}(...)`"
    return f"write `my_reward = {maker}(...)` in its file, and name `my_reward`"


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
        if ours not in signature.reads and not signature.reads_all:
            raise RewardError(f"reward `{label}` does not read a column `{ours}`", did_you_mean(ours, signature.reads))
    if spec.concurrency is not None and signature.style == "trl":
        what = f"reward `{label}` is called once for the whole batch: its `concurrency` has no effect"
        raise RewardError(what, "leave `concurrency` out, or write a function of one completion")


def is_shipped(function: Callable[..., Any]) -> bool:
    """Whether the function is one of `rung.rewards`, of which none can hang, and one needs the process of training."""
    return f"{getattr(function, '__module__', '')}.".startswith(f"{SHIPPED}.")


def importable_name(function: Callable[..., Any]) -> str | None:
    """The name under which a worker process can import a function that a Python program passes; None if it cannot."""
    address = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    with contextlib.suppress(UserError):
        if not address.startswith("__main__:") and load_object(address) is function:
            return address
    return None

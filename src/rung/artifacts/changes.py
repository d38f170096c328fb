"""Which keys of a config may change while a run is under way, and the record of those that did.

A key may change if what was trained so far would be the same with its new value: it ends a stage later, bounds what is
tried before a run gives up, or only saves, logs and computes in another way. Any other change is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from rung.artifacts.folder import CHECKPOINTS, CONFIG, DONE, EVALUATIONS, LINEAGE
from rung.artifacts.lineage import Change, Lineage
from rung.config import PathConfig
from rung.config.algorithms import algorithm_class
from rung.config.migration import spelling
from rung.errors import ConfigError
from rung.training.checkpoint import newest_step
from rung.utils.files import file_errors
from rung.utils.yaml_file import as_yaml, read_yaml


class Rule(NamedTuple):
    """Why a key may change, and from which old values to which new ones."""

    why: str
    allows: Callable[[Any, Any], bool] = lambda old, new: True
    otherwise: str = ""  # what is said of other changes


def _grows(old: Any, new: Any) -> bool:
    return old is not None and new is not None and new > old


_LONGER = Rule("the steps so far are the first ones of a longer stage", _grows, "it can only be raised")
PATH_KEYS: Mapping[str, Rule] = {
    "trackers": Rule("they log what is trained"),
    "reward_policy.max_error_rate": Rule("it ends a run, and scores nothing"),
    "reward_policy.timeout_s": Rule("completions that were scored keep their scores"),
    "reward_policy.on_error": Rule(
        "no reward has failed so far", lambda old, new: old == "raise", "it can only change from `raise`"
    ),
}
STAGE_KEYS: Mapping[str, Rule] = {
    "max_steps": _LONGER,
    "num_train_epochs": _LONGER,
    "max_empty_steps": Rule("it ends a run, and trains nothing"),
    "token_budget": Rule("it splits a step into parts, whose sum is the same up to rounding"),
    "save_steps": Rule("it saves what is trained"),
    "eval_steps": Rule("it measures the loss on held-out rows, which early stopping reads from then on"),
}
BOUND = Rule("it bounds what is sampled to fill a rollout")  # for `Algorithm.bounds`


class _Difference(NamedTuple):
    stage: str  # empty for a key of the path
    key: str
    before: Any
    after: Any

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.key}" if self.stage else self.key


def date_of(config: PathConfig, folder: Path) -> date:
    """The date that chat templates write in a run: that of the config, else that with which the run began, else today.

    A run that began with a version of rung that recorded no date takes the date of today.
    """
    if config.date != "today":
        return config.date
    begun = read_yaml(folder / CONFIG).get("date") if (folder / CONFIG).exists() else None
    return date.fromisoformat(str(begun)) if begun not in (None, "today") else date.today()


def refuse_changes(config: PathConfig, folder: Path) -> list[Change]:
    """The changes of a config since the run in `folder` was started, all of which may be made while it is under way.

    Both configs are resolved (without `auto`). Keys that are missing in the earlier config are compared by their
    defaults, renamed keys under their new names. Raises ConfigError, naming the keys, if another key has changed, or a
    key of a stage that has finished.
    """
    if not (folder / CONFIG).exists():
        return []
    before = _current({"date": config.dump()["date"], **read_yaml(folder / CONFIG)})
    now = yaml.safe_load(as_yaml(config.dump()))
    found = sorted(_differences(before, now), key=lambda each: each.name)
    reasons = {each.name: _refused(each, config, folder) for each in found}
    refused = [f"{name} ({why})" if why else name for name, why in reasons.items() if why is not None]
    if refused:
        what = f"{folder} holds a run of another config; changed: {', '.join(refused)}"
        raise ConfigError(what, "restore these keys to resume it, or start a new run beside it with `--new`")
    return [Change(key=each.name, before=each.before, after=each.after) for each in found]


def record_changes(changes: Sequence[Change], config: PathConfig, folder: Path) -> list[str]:
    """Adds changes to the lineage of a run, with the stage and step from which they apply; returns them in words.

    A change that names its stage keeps it. Removes the evaluations of that stage, whose model may be trained further.
    """
    lineage = Lineage.load(folder / LINEAGE)
    stage = next((stage.name for stage in config.stages if not (folder / stage.name / DONE).exists()), "")
    step = newest_step(folder / stage / CHECKPOINTS) if stage else 0
    placed = [each if each.stage else each.model_copy(update={"stage": stage, "step": step}) for each in changes]
    lineage.with_changes(placed).save(folder / LINEAGE)
    with file_errors(folder):
        for file in (folder / stage).glob(f"{EVALUATIONS}*") if stage else ():
            file.unlink()
    return [change.words for change in placed]


def _refused(change: _Difference, config: PathConfig, folder: Path) -> str | None:
    """Why a change is refused, which may be empty text; None if it is accepted."""
    rule = _rule(change, config)
    if rule is None:
        return ""
    if (folder / DONE).exists():
        return "the run has finished"
    if change.stage and (folder / change.stage / DONE).exists():
        return "its stage has finished"
    return None if rule.allows(change.before, change.after) else rule.otherwise


def _rule(change: _Difference, config: PathConfig) -> Rule | None:
    if not change.stage:
        return PATH_KEYS.get(change.key)
    algorithm = next(stage.algorithm for stage in config.stages if stage.name == change.stage)
    bounds = algorithm_class(algorithm["name"], config.base).bounds
    return STAGE_KEYS.get(change.key) or (BOUND if change.key in {f"algorithm.{name}" for name in bounds} else None)


def _current(written: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an earlier version of rung wrote, with today's keys; only renamed if it is no longer valid."""
    renamed = spelling().renamed

    def translated(value: object) -> object:
        if isinstance(value, Mapping):
            return {renamed.get(key, key): translated(child) for key, child in value.items()}
        return [translated(child) for child in value] if isinstance(value, list) else value

    plain = {key: translated(value) for key, value in written.items()}
    try:
        return yaml.safe_load(as_yaml(PathConfig.model_validate(plain).dump()))
    except ValidationError:
        return plain


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[_Difference]:
    """The keys whose values differ, those of stages by the names of the stages; `output` is ignored."""
    for key, old, new in _changed(before, now):
        earlier, later = _by_name(old), _by_name(new)
        if key == "stages" and isinstance(earlier, Mapping) and isinstance(later, Mapping) and [*earlier] == [*later]:
            for stage in later:
                yield from (_Difference(stage, *inner) for inner in _changed(earlier[stage], later[stage]))
        else:
            yield _Difference("", key, old, new)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with these values; lists of named entries are compared by name."""
    for key in {*before, *now} - {"output"}:
        plain = before.get(key), now.get(key)
        old, new = map(_by_name, plain)
        if key != "stages" and isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from ((f"{key}.{inner}", *values) for inner, *values in _changed(old, new))
        elif plain[0] != plain[1]:
            yield key, *plain


def _by_name(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item for item in value}
    return value

"""The models that rewards judge with: a setting `model` of a reward says where one is, as `model` does elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.config import PathConfig
from rung.errors import ConfigError
from rung.locate import locate
from rung.names import inside
from rung.registry import algorithm
from rung.reward import RewardSpec

STAGE = "stage:"
Source = RewardSpec | str | Mapping[str, Any] | Callable[..., Any]


def located(sources: Sequence[Source], path: PathConfig, stage: str | None) -> list[Source]:
    """The rewards of a stage with a setting `model` as what can be loaded: an absolute folder, or a hub id.

    `stage:NAME` is the model of an earlier stage, which need not be there yet; `run:NAME/stage` and folders are those
    of `rung.locate`. `stage` None stands for the metrics of an evaluation. Raises ConfigError for a stage that does not
    come before, or makes no reward model, and for a folder without a model.
    """
    return [_located(source, path, stage) for source in sources]


def waits(source: Source) -> bool:
    """Whether a located reward judges with a model that a stage has yet to make."""
    model = _model(source)
    return model is not None and Path(model).is_absolute() and not Path(model).exists()


def _located(source: Source, path: PathConfig, stage: str | None) -> Source:
    model = _model(source)
    if model is None:
        return source
    model = _of_stage(model.removeprefix(STAGE), path, stage) if model.startswith(STAGE) else _found(model, path)
    if isinstance(source, RewardSpec):
        return source.model_copy(update={"args": {**source.args, "model": model}})
    assert isinstance(source, Mapping), "only an entry of a config has settings"
    return {**source, "args": {**source["args"], "model": model}}


def _found(model: str, path: PathConfig) -> str:
    return locate(model, base=path.base, runs=Path(path.output))


def _of_stage(name: str, path: PathConfig, stage: str | None) -> str:
    names = [each.name for each in path.stages]
    if stage is None:
        what = f"`evaluate.metrics`: the model `{STAGE}{name}`, and the stages before `{name}` are measured too"
        raise ConfigError(what, f"train it first, and name it `run:NAME/{name}`, or a folder")
    earlier = path.stages[: names.index(stage)] if stage in names else ()
    found = next((each for each in earlier if each.name == name), None)
    if found is None:
        what = f"stage `{stage}`: a reward's model is `{STAGE}{name}`, which is no stage before it"
        known = ", ".join(each.name for each in earlier) or "none"
        raise ConfigError(what, f"name an earlier stage ({known}), `run:NAME/stage`, a folder or a hub id")
    if "final" not in algorithm(found.algorithm, path.base).requires():
        what = f"stage `{stage}`: a reward's model is `{STAGE}{name}`, and that stage trains no reward model"
        raise ConfigError(what, "name one that does")
    return str((inside(Path(path.output), path.name, name) / "model").absolute())


def _model(source: Source) -> str | None:
    args = source.args if isinstance(source, RewardSpec) else source.get("args") if isinstance(source, Mapping) else {}
    model = args.get("model") if isinstance(args, Mapping) else None
    return model if isinstance(model, str) else None

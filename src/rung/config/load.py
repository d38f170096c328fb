"""Loads a config from a file, or a config that comes with rung by its name, and applies `extends` and overrides.

Configs are merged recursively: mappings are merged; any other value, also a list, is replaced. A mapping that is
merged into a list of named entries (`stages`, `rewards`, `metrics`) changes the entries with those names: in a config
with `extends`, `stages: {NAME: {num_train_epochs: 16}}` changes one value of one stage. A config with `algorithm` in
place of `stages` is a path of one stage, whose keys are written at the top level together with those of the path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

import rung
from rung.config.algorithms import algorithm_class
from rung.config.blocks import RolloutConfig, UpdatesConfig, as_named
from rung.config.migration import STAGE_KEYS, method_advice, successor
from rung.config.schema import PathConfig, StageConfig
from rung.errors import ConfigError, Faults, UserError
from rung.utils.allowed_code import allowed_code, only_allowed
from rung.utils.messages import as_requirement, did_you_mean
from rung.utils.yaml_file import parse_yaml, read_yaml

MAX_EXTENDS, MAX_KEYS = 20, 20
FOLDERS = ("paths", "algorithms", "tiny")  # of configs/, in the order of search
_EXCLUSIVE = {"max_steps": "num_train_epochs", "num_train_epochs": "max_steps"}


def load_config(
    name_or_file: str | Path, overrides: Sequence[str] = (), *, allow_code: Sequence[str] | None = None
) -> PathConfig:
    """Loads a YAML file or a config that comes with rung, and applies overrides: `key.sub=value`, `<stage>.key=value`.

    Override values are YAML. Relative paths are resolved against the folder of the file, or against the working folder
    for a config that comes with rung. If `allow_code` is given, the config may come from anybody: it may only name
    code of the working folder and what `allow_code` lists (see `rung.utils.allowed_code`), and no `output` outside of
    the working folder; None trusts the config. Raises ConfigError, naming file and key, for an unreadable file, an
    unknown key, or a value out of range.
    """
    file = find_config(name_or_file)
    raw, files = _extended(file, ())
    own = [each for each in files if not _is_shipped(each)]
    code = None if allow_code is None else allowed_code(allow_code, own)
    for text in overrides:
        raw = merge(raw, _override(text, raw), f"override `{text}`")
    shipped = _is_shipped(file)
    keys = [text.partition("=")[0].strip() for text in overrides]
    evaluates = any(key.partition(".")[0] == "evaluate" for key in keys)
    if shipped and "stages" not in raw and "data" in keys and not evaluates:
        raw = {**raw, "evaluate": None}  # the shipped evaluation is about the shipped data
    with only_allowed(code):
        parsed = parse_config(raw, source=str(name_or_file), base=Path.cwd() if shipped else file.parent)
    if code is not None and "output" in raw and "output" not in keys:
        _check_output(parsed.output, str(name_or_file))
    return parsed.with_code(code)


def _check_output(output: str, source: str) -> None:
    """Raises ConfigError for an `output` outside of the working folder, which only a command line may name."""
    if not Path(output).resolve().is_relative_to(Path.cwd().resolve()):
        what = f"{source}: `output` is {output!r}, which leads out of the working folder"
        raise ConfigError(what, f"leave it out, and name the folder on the command line: `output={output}`")


def parse_config(raw: Mapping[str, Any], *, source: str, base: Path) -> PathConfig:
    """Validates the content of a config; `source` is its name in errors, and relative paths are relative to `base`."""
    single = "algorithm" in raw and "stages" not in raw
    raw = _single_stage_path(raw) if single else dict(raw)
    try:
        return PathConfig.model_validate(raw).at(base)
    except ValidationError as error:
        raise _config_error(error, raw, source, single) from None


def shipped_configs() -> dict[str, Path]:
    """The files of the configs that come with rung, by their names, such as `paths/pharmacy`."""
    files = (file for root in _roots() for folder in FOLDERS for file in sorted((root / folder).glob("*.yaml")))
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def find_config(name_or_file: str | Path) -> Path:
    """The file of a config: the given .yaml file, or that of the config with this name that comes with rung.

    The folder may be left out: `pharmacy` is `paths/pharmacy`. Raises ConfigError if there is no such file or name.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(
                f"{path}: the file does not exist", "check the path, or give a name from `rung list configs`"
            )
        return path.resolve()
    shipped = shipped_configs()
    for full in (str(name_or_file), *(f"{folder}/{name_or_file}" for folder in FOLDERS)):
        if full in shipped:
            return shipped[full]
    known = {full.split("/")[1] for full in shipped}
    raise ConfigError(
        f"there is no config `{name_or_file}`",
        f"give a .yaml file, or the name of a shipped config; {did_you_mean(str(path), known)}",
    )


def merge(base: Mapping[str, Any], over: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of `base` with `over` merged into it, as described at the top of this module.

    `source` is the name of `over` in errors.

    >>> merge({"rollout": {"top_p": 1, "top_k": 5}}, {"rollout": {"top_k": 0}}, "an example")
    {'rollout': {'top_p': 1, 'top_k': 0}}
    """
    merged = {key: value for key, value in base.items() if not (key in _EXCLUSIVE and over.get(_EXCLUSIVE[key]))}
    for key, value in over.items():
        merged[key] = _merged(key, merged.get(key), value, source)
    return merged


def _merged(key: str, old: Any, value: Any, source: str) -> Any:
    if key == "algorithm":
        old, value = as_named(old), as_named(value)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", old.get("name")) != old.get("name")
        ):
            return value
    if isinstance(value, Mapping) and isinstance(old, Mapping):
        return merge(old, value, source)
    entries = [as_named(entry) for entry in old] if isinstance(old, list) else []
    names = [entry.get("name") if isinstance(entry, Mapping) else None for entry in entries]
    if not isinstance(value, Mapping) or not names or None in names:
        return value
    for name in value:
        if name not in names:
            raise ConfigError(f"{source}: `{key}` has no `{name}`", did_you_mean(str(name), map(str, names)))
    return [merge(entry, as_named(value.get(name, {})), source) for name, entry in zip(names, entries, strict=True)]


def _is_shipped(file: Path) -> bool:
    return any(file.is_relative_to(root) for root in _roots())


def _extended(file: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The content of a config with that of the configs that it extends, and the files of all of them."""
    if file in above:
        raise ConfigError(
            f"{file}: the config extends itself",
            "remove one `extends` of this cycle: " + " -> ".join(str(each) for each in (*above, file)),
        )
    raw, files = read_yaml(file), (*above, file)
    if len(files) > MAX_EXTENDS:
        raise ConfigError(f"{file}: more than {MAX_EXTENDS} configs extend each other", "merge some of them")
    if "extends" not in raw:
        return raw, files
    extended = raw.pop("extends")
    if not isinstance(extended, str):
        raise ConfigError(
            f"{file}: `extends` is {extended!r}",
            "name one config: a file relative to this one's folder, or a shipped name",
        )
    beside = file.parent / extended
    inherited, files = _extended(find_config(beside if beside.is_file() else extended), files)
    return merge(inherited, raw, str(file)), files


def _override(text: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Parses the override `a.b=value` to {a: {b: value}}; if `a` is the name of a stage, it applies to that stage."""
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"override `{text}` is not `key=value`", "write `seed=1`, or `<stage>.learning_rate=1e-5` for one stage"
        )
    if len(keys) > MAX_KEYS:
        raise ConfigError(f"override `{text[:60]}...` has {len(keys)} keys", "write at most 20, with dots between them")
    nested: Any = parse_yaml(value, f"override `{text}`: the value", "quote the value")
    stages = raw.get("stages")
    if isinstance(stages, list) and keys[0] in [stage.get("name") for stage in stages if isinstance(stage, Mapping)]:
        keys = ["stages", *keys]
    elif stages is None and len(keys) > 1 and keys[0] == _single_stage_name(raw):
        keys = keys[1:]
    for key in reversed(keys):
        nested = {key: nested}
    return nested


def _single_stage_name(raw: Mapping[str, Any]) -> str:
    """The name of the stage of a one-stage path: that of its algorithm, or `stage` for a class in a module or file."""
    algorithm = as_named(raw.get("algorithm"))
    name = str(algorithm.get("name")) if isinstance(algorithm, Mapping) else ""
    return name if name.isidentifier() else "stage"


def _single_stage_path(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a one-stage path with `data` and all keys that only a stage has moved into `stages`."""
    own = StageConfig.model_fields.keys() - PathConfig.model_fields.keys() | {"from"}
    stage = {"name": _single_stage_name(raw), **{key: raw[key] for key in raw if key in own}}
    path = {key: value for key, value in raw.items() if key not in own}
    if "data" in path:
        stage["data"] = path.pop("data")
    return {**path, "stages": [stage]}


def _config_error(error: ValidationError, raw: Mapping[str, Any], source: str, single: bool) -> UserError:
    """The faults of a ValidationError as errors for the user, one per key; unknown keys come before invalid values.

    `single`: the config is a one-stage path, with the keys of the stage at the top level.
    """
    faults, found = Faults(), error.errors()
    # A list is also called too short if one of its entries is wrong.
    inner = [fault for fault in found if not any(_contains(fault["loc"], other["loc"]) for other in found)]
    for fault in sorted(inner, key=lambda fault: fault["type"] != "extra_forbidden"):
        with faults.collect():
            raise _key_error(fault, found, raw, source, single)
    try:
        faults.raise_found()
    except UserError as several:
        return several
    raise AssertionError("a validation error has at least one fault")


def _contains(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(other) > len(place) and other[: len(place)] == place


def _key_error(
    fault: ErrorDetails, faults: Sequence[ErrorDetails], raw: Mapping[str, Any], source: str, single: bool
) -> UserError:
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return ConfigError(f"{source}: {cause.what}", cause.remedy)
    loc = fault["loc"]
    key = _dotted(loc, raw)
    if fault["type"] == "extra_forbidden":
        return ConfigError(f"{source}: unknown key `{key}`", _key_advice(loc, raw, single, fault["input"]))
    if fault["type"] == "missing":
        return ConfigError(f"{source}: `{key}` is missing", "add it; `rung list configs` lists example configs")
    reasons = dict.fromkeys(as_requirement(other["msg"]) for other in faults if _dotted(other["loc"], raw) == key)
    first, *others = reasons
    remedy = ", or ".join([first, *(other.removeprefix("it must be ") for other in others)])
    return ConfigError(f"{source}: `{key}` is {fault['input']!r}", remedy)


def _key_advice(loc: tuple[int | str, ...], raw: Mapping[str, Any], single: bool, value: object) -> str:
    either = single and len(loc) == 1  # the key may be meant for the path or for its stage
    loc = ("stages", 0, *loc) if either else loc
    key, owner = str(loc[-1]), _model_at(loc[:-1])
    fields = [*owner.model_fields.items(), *(PathConfig.model_fields.items() if either else ())]
    known = {field.alias or name for name, field in fields}
    if owner is PathConfig and key in StageConfig.model_fields:
        return f"it is a key of a stage: write it in the stage, or give the override `<stage>.{key}=...`"
    if owner is StageConfig and key in PathConfig.model_fields:
        return "it is a key of the path: write it at the top level"
    in_stage = owner in (StageConfig, RolloutConfig, UpdatesConfig)
    if in_stage and not method_advice(key, value) and key in _settings(loc, raw):
        return f"it is a setting of the algorithm: write `algorithm: {{name: ..., {key}: ...}}`"
    if in_stage and key in STAGE_KEYS:
        return "it is a key of the stage: write it directly in the stage"
    return successor(key, known, value)


def _settings(loc: tuple[int | str, ...], raw: Mapping[str, Any]) -> set[str]:
    """The names of the settings of the algorithm of the stage at `loc`; empty if the algorithm is unknown."""
    try:
        return set(algorithm_class(as_named(raw["stages"][loc[1]]["algorithm"])["name"]).model_fields)
    except (UserError, LookupError, TypeError):
        return set()


def _dotted(loc: tuple[int | str, ...], raw: Any) -> str:
    """A pydantic error location as a dotted key, with names of stages and rewards instead of indices.

    The labels that pydantic adds for members of a union are left out.
    """
    words: list[str] = []
    for step in loc:
        if isinstance(raw, Mapping):
            raw = raw.get(step)
            words.append(str(step))
        elif isinstance(raw, list | tuple) and isinstance(step, int) and step < len(raw):
            raw = raw[step]
            name = raw.get("name", step) if isinstance(raw, Mapping) else step
            words = [str(name)] if words == ["stages"] else [*words, str(name)]
    return ".".join(words)


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The config model that a pydantic location leads to."""
    model: type[BaseModel] = PathConfig
    for step in loc:
        field = next((field for name, field in model.model_fields.items() if step in (name, field.alias)), None)
        model = (_model_in(field.annotation) if field else None) or model
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _roots() -> list[Path]:
    return [root.resolve() for root in (Path(each) / "configs" for each in rung.__path__) if root.is_dir()][:1]

"""Checks the files of a model before libraries read them, and turns what the libraries raise into errors for users.

A model may come from anybody. Pickled weights can run code, a config can ask for kernels from the hub or for 10^12
layers, and a library answers a damaged file with whatever exception it happens to meet.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rung.errors import ConfigError, UserError
from rung.models.names import MODEL, REMEDY
from rung.utils.allowed_code import FLAG, allows_pickle

os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # transformers would ask a service to convert a hub model
MAX_BYTES = 2**28  # of a JSON file; the longest tokenizer.json has about 2**25
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# The highest values of keys, by their names: each layer and expert is an object that takes time to make.
_HIGHEST = (
    (re.compile(r"(layers?|blocks?|depth)$"), 1_000),
    (re.compile(r"experts?$"), 4_096),
    (re.compile(r"heads$|groups$|labels$"), 100_000),
    (re.compile(r"size|dim$|width|rank$|vocab"), 10_000_000),
)
_MAX_OBJECTS = 50_000  # layers times experts
_KERNELS = ("use_kernels", "kernel_config", "allow_all_kernels")


@contextmanager
def readable(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """A context manager in which every exception of a library becomes a ConfigError that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # the Rust libraries of Hugging Face raise it, and it is no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "trust_remote_code" in str(error):
            reason, remedy = (
                "it needs code that comes with it, which rung never runs",
                "use a model that libraries know",
            )
        raise ConfigError(f"{what}: {reason[:300]}", remedy) from None


def check_files(location: str) -> None:
    """Raises ConfigError for a model folder with only pickled weights, or with a config that nobody should build.

    Nothing is checked for a hub id. Code in the folder, which `auto_map` names, is never run and needs no check.
    """
    folder = Path(location)
    if not folder.is_dir():
        return
    for file in folder.glob("*.json"):
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file} has {file.stat().st_size} bytes", f"a JSON file has at most {MAX_BYTES}")
    for file in folder.glob("*.index.json"):
        _check_index(file)
    if (folder / MODEL).is_file():
        _check_values(read_json(folder / MODEL), folder / MODEL)
    _ = uses_safetensors(location)


def uses_safetensors(location: str) -> bool:
    """Whether weights are to be read from safetensors; False if they are pickled and the user allows it by the flag.

    Raises ConfigError for a folder with only pickled weights that are not allowed.
    """
    if allows_pickle(location):
        return any(Path(location).glob("*.safetensors"))
    pickled = [file.name for pattern in _PICKLED for file in Path(location).glob(pattern)]
    if pickled and not any(Path(location).glob("*.safetensors")):
        raise pickle_error(location, pickled[0])
    return True


def pickle_error(location: str, file: str) -> ConfigError:
    """The error for a model whose weights are pickled."""
    what = f"model `{location}` has only pickled weights ({file}), which can run code when they are read"
    return ConfigError(what, f"save it with safetensors, or allow it by `{FLAG} {location}`")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError if it cannot be read or is something else."""
    with readable(f"{file} cannot be read"):
        found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ConfigError(f"{file} is not a JSON object", REMEDY)
    return found


def _check_index(file: Path) -> None:
    """Raises ConfigError if the shards of a model are not safetensors beside the index."""
    shards = read_json(file).get("weight_map")
    for name in set(map(str, shards.values())) if isinstance(shards, Mapping) else ():
        pickled = not name.endswith(".safetensors") and not allows_pickle(str(file.parent))
        if Path(name).name != name or name.startswith(".") or pickled:
            raise ConfigError(f"{file} names {name!r:.100} as weights", "name safetensors files beside it")


def _check_values(config: Mapping[str, Any], file: Path) -> None:
    """Raises ConfigError for sizes beyond any model, and for kernels, which are code from the hub; also nested ones."""
    counts = {"layers": 1.0, "experts": 1.0}
    for key, value in config.items():
        if isinstance(value, Mapping):
            _check_values(value, file)
        if (key in _KERNELS and value) or ("implementation" in key and "/" in str(value)):
            what = f"{file}: `{key}` is {str(value)!r:.60}, code that would be fetched from the hub"
            raise ConfigError(what, f"remove `{key}`: rung runs no code that comes with a model")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        highest = next((highest for name, highest in _HIGHEST if name.search(key)), None)
        if highest is not None and abs(value) > highest:
            raise ConfigError(f"{file}: `{key}` is {value:.6g}, more than {highest}", "correct the file")
        for word in counts:
            if key.endswith(word) or key.endswith(word.removesuffix("s")):
                counts[word] = max(counts[word], value)
    if counts["layers"] * counts["experts"] > _MAX_OBJECTS:
        what = f"{file}: {counts['layers']:g} layers with {counts['experts']:g} experts each"
        raise ConfigError(what, "correct the file")

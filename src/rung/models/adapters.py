"""Adapters on disk: which model an adapter was trained on, and merging an adapter into this model."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError
from rung.models.names import ADAPTER, MODEL
from rung.utils.files import write_text
from rung.utils.limits import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FINGERPRINT = "base.json"  # next to the files of peft
WEIGHTS = "adapter_model.safetensors"
SETS = ("target_modules", "exclude_modules")  # keys of peft's config that are sets
MERGED = "name the merged model, which a stage saves next to its adapter"
MATCHING = Limits(5.0, 2**30)  # of one regular expression with the names of all modules
_VALUES = 64  # number of values per weight in the fingerprint
_NAME = "base_model_name_or_path"


def is_adapter(location: str) -> bool:
    """Whether a location is a folder that contains an adapter but no model."""
    folder = Path(location)
    return (folder / ADAPTER).is_file() and not (folder / MODEL).is_file()


def base_of(location: str) -> str:
    """The model that an adapter was trained on, as recorded in its folder; any other location is returned unchanged.

    Raises ConfigError if the folder does not record it, or records another adapter or a missing folder.
    """
    if not is_adapter(location):
        return location
    base = _read(Path(location) / ADAPTER).get(_NAME)
    if not isinstance(base, str) or not base:
        what = f"adapter `{location}` does not say which model it was trained on"
        raise ConfigError(what, f"write it as `{_NAME}` into its {ADAPTER}, or {MERGED}")
    if is_adapter(base) or (Path(base).is_absolute() and not Path(base).is_dir()):
        what = f"adapter `{location}` was trained on `{base}`, where there is no model"
        raise ConfigError(what, f"correct `{_NAME}` in its {ADAPTER}, or {MERGED}")
    return base


def check_base(location: str, model: str) -> None:
    """Raises ConfigError if an adapter was trained on another model than `model`; both are locations."""
    base = base_of(location)
    if base not in (location, model) and Path(base).resolve() != Path(model).resolve():
        raise ConfigError(f"adapter `{location}` was trained on `{base}`, not on `{model}`", MERGED)


def fingerprint(model: PreTrainedModel) -> str | None:
    """A hash over name, shape and some values of each weight, 64 hex digits; None on the device `meta`.

    Merging an adapter into the weights, or training them, changes the hash: either changes all values of a matrix.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if weight.is_meta:
            return None
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // _VALUES)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def write_fingerprint(folder: Path, digest: str) -> None:
    """Saves the fingerprint of the model that an adapter was trained on."""
    write_text(folder / FINGERPRINT, json.dumps({"fingerprint": digest}) + "\n")


def sort_names(folder: Path) -> None:
    """Sorts the names of modules in adapter_config.json, which peft holds as a set and writes in a random order."""
    config = _read(folder / ADAPTER)
    ordered = {key: sorted(names) for key in SETS if isinstance(names := config.get(key), list)}
    write_text(folder / ADAPTER, json.dumps(config | ordered, indent=2, sort_keys=True))


def load_merged(base: PreTrainedModel, location: str) -> PreTrainedModel:
    """The base model with an adapter merged into its weights.

    Raises ConfigError if the adapter was trained on other weights, does not fit, or belongs to a reward model.
    """
    from peft import PeftModel

    folder = Path(location)
    if _read(folder / ADAPTER).get("task_type") == "SEQ_CLS":
        what = f"adapter `{location}` belongs to a reward model, which scores answers and does not generate"
        raise ConfigError(what, "name a policy; a reward model can be a `critic`, or part of a reward")
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"adapter `{location}` has no {WEIGHTS}", "save it with `safe_serialization`")
    known = _read(folder / FINGERPRINT).get("fingerprint") if (folder / FINGERPRINT).is_file() else None
    if known not in (None, fingerprint(base)):
        what = f"adapter `{location}` was trained on other weights than `{base_of(location)}` has now"
        raise ConfigError(what, MERGED)
    try:
        _check_config(folder, base)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")  # peft would leave them randomly initialised
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)  # peft uses names that transformers deprecated
            merged = PeftModel.from_pretrained(base, location).merge_and_unload()  # type: ignore[operator]
    except Exception as error:  # peft has no class for a mismatch: RuntimeError, ValueError, KeyError, ...
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"adapter `{location}` does not fit `{base_of(location)}`: {reason}", MERGED) from None
    return merged.requires_grad_(True)


def _check_config(folder: Path, base: PreTrainedModel) -> None:
    """Raises ValueError for an adapter whose ranks are not those of its weights, or that names modules very slowly."""
    from safetensors import safe_open

    config = _read(folder / ADAPTER)
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        names = weights.keys()
        longest = max((size for key in names for size in weights.get_slice(key).get_shape()), default=0)
    patterns = {key: config.get(key) for key in ("rank_pattern", "alpha_pattern")}
    ranks = [config.get("r", 0), *(patterns["rank_pattern"] or {}).values()]
    if not all(isinstance(rank, int) and rank <= longest for rank in ranks):
        raise ValueError(f"its ranks {ranks} are not those of its weights")
    given = [config.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern")]
    expressions = [one for one in given if isinstance(one, str)]
    expressions += [key for pattern in patterns.values() for key in pattern or {}]
    for expression in expressions:
        MATCHING.run(lambda text=expression: [re.fullmatch(text, name) for name, _ in base.named_modules()])


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", "save the adapter again, or name a model") from None
    return read if isinstance(read, dict) else {}

"""The chat templates that TRL ships for well-known models, and its training template for each."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_TRAINING = "_training"  # TRL stores the training template of `NAME.jinja` in `NAME_training.jinja`


def training_of(text: str) -> tuple[str, str] | None:
    """The training template for the chat template `text`, and its name; None if TRL has none."""
    file = _files().get(text)
    training = None if file is None else file.with_stem(file.stem + _TRAINING)
    return (training.read_text(encoding="utf-8"), file.stem) if file and training and training.exists() else None


def is_training(text: str) -> bool:
    """Whether a chat template is one of TRL's training templates."""
    file = _files().get(text)
    return file is not None and file.stem.endswith(_TRAINING)


def original_of(text: str) -> str | None:
    """The chat template of the model for which TRL ships `text`, itself or as training template; None for others."""
    file = _files().get(text)
    if file is None:
        return None
    original = file.with_stem(file.stem.removesuffix(_TRAINING))
    return original.read_text(encoding="utf-8") if original.exists() else text


@lru_cache(maxsize=1)
def _files() -> dict[str, Path]:
    """The files by their contents; read in place, since importing `trl.chat_template_utils` takes seconds."""
    spec = find_spec("trl")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(next(iter(spec.submodule_search_locations))) / "chat_templates"
    return {file.read_text(encoding="utf-8"): file for file in sorted(folder.glob("*.jinja"))}

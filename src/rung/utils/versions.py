"""The versions of the libraries on which the bits of a run depend."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from types import MappingProxyType

from rung import __version__

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "datasets", "safetensors", "numpy", "scipy")


@cache
def versions() -> Mapping[str, str]:
    """The versions of rung, Python and the libraries that compute, read or write something in a run."""
    ours = {"rung": __version__, "python": platform.python_version()}
    return MappingProxyType(ours | {name: version(name) for name in PACKAGES})

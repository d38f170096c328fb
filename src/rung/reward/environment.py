"""The environment of worker processes: that of the trainer, without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_WORDS = frozenset(
    {"token", "key", "secret", "password", "authorization", "passwd", "credential", "credentials", "pat", "apikey"}
)
_LOGIN_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable may hold a secret: by a word of its name, or because its value is a URL with a password.

    >>> is_secret("HF_TOKEN"), is_secret("TOKENIZERS_PARALLELISM"), is_secret("DB", "postgres://me:pw@host/db")
    (True, False, True)
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    singular = {word.lower().removesuffix("s") for word in words} | {word.lower() for word in words}
    return not _SECRET_WORDS.isdisjoint(singular) or _LOGIN_IN_URL.search(value) is not None


def worker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables (default: those of this process) that a worker process gets.

    The order of sets of strings is fixed, so that a run can be repeated. OpenBLAS starts no threads, since a process
    with threads cannot fork.
    """
    kept = {name: value for name, value in (environment or os.environ).items() if not is_secret(name, value)}
    return {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", **kept}

"""The environment of worker processes: that of the trainer, without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

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


def env_fault(place: str, env: Sequence[str], *, in_worker: bool) -> tuple[str, str] | None:
    """What is wrong with the key `env` of an entry, which errors call `place`, and what to do; None if nothing is."""
    if env and not in_worker:
        return f"{place} has `env`, but it runs in the training process, which has every variable", "leave `env` out"
    missing = next((name for name in env if name not in os.environ), None)
    if missing is None:
        return None
    remedy = f"set it, or take it out of `env: [{', '.join(env)}]`"
    return f"{place} needs the environment variable `{missing}`, which is not set", remedy

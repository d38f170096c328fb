"""Keeps keys and passwords out of everything that is written or printed.

A value is secret by its name (`api_key`, `HF_TOKEN`, `password`), in a config and in the environment. In a config that
is written it is replaced by `<redacted>`; in logs and messages, its text is. `${ENV:NAME}` in a config stands for the
value of an environment variable, so that no secret needs to be written into a config at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rung.errors import ConfigError

REDACTED = "<redacted>"
_REFERENCE = re.compile(r"\$\{ENV:([A-Za-z_][A-Za-z0-9_]*)\}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = frozenset(
    {"password", "passwords", "passwd", "passphrase", "secret", "secrets", "authorization", "credential", "credentials"}
    | {"apikey", "bearer"}
)
# Before `token` and `key`, words that make them part of a vocabulary, a count, or the name of a field.
_HARMLESS = {
    "token": re.compile(
        "eos|bos|pad|unk|sep|cls|mask|stop|start|end|eot|eom|sot|begin|image|audio|video|think|special|decoder|forced|"
        "first|last|max|min|per|num|answer|tool|prompt|completion|role"
    ),
    "key": re.compile(
        "sort|group|answer|column|label|row|dict|json|primary|foreign|cache|reward|score|prompt|completion|field|lookup|"
        "id|data|dataset|text|target|gold|partition|join|index|metric|messages?"
    ),
}
_SHORTEST = 8  # characters of a value that is looked for in texts, or that a bare `key` or `token` may hide
_remembered: set[str] = set()


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value of this name is secret, by its whole words.

    >>> [name for name in ("api_key", "eos_token", "max_new_tokens", "HF_TOKEN", "keys") if is_secret_name(name)]
    ['api_key', 'HF_TOKEN']
    """
    words = _words(name)
    if _ALWAYS & set(words):
        return True
    return bool(words) and words[-1] in _HARMLESS and not any(map(_HARMLESS[words[-1]].fullmatch, words[:-1]))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def redacted(value: Any, name: str = "") -> Any:
    """A copy of plain values with `<redacted>` in place of secrets; `name` is the key under which the value stands.

    >>> redacted({"api_key": "sk-1", "token_budget": 5, "judge": {"key": "answer", "password": 1}})
    {'api_key': '<redacted>', 'token_budget': 5, 'judge': {'key': 'answer', 'password': '<redacted>'}}
    """
    if isinstance(value, Mapping):
        inherited = name if _ALWAYS & set(_words(name)) else ""
        return {key: redacted(child, inherited or str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(child, name) for child in value]
    if _is_secret(value, name):
        return REDACTED
    return without_secrets(value) if isinstance(value, str) else value


def _is_secret(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool) or not is_secret_name(name):
        return False
    if isinstance(value, str) and (_REFERENCE.fullmatch(value) or not value):
        return False
    if name.lower() in _HARMLESS:
        return isinstance(value, str) and len(value) >= _SHORTEST
    return isinstance(value, str) or bool(_ALWAYS & set(_words(name)))


def filled(value: Any, place: str, name: str = "") -> Any:
    """A copy of plain values with the environment variable in place of each `${ENV:NAME}`; remembers what is secret.

    Raises ConfigError, naming `place`, for a variable that is not set, and for a secret that was redacted.
    """
    if isinstance(value, Mapping):
        return {key: filled(child, place, str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [filled(child, place, name) for child in value]
    if not isinstance(value, str):
        return value
    if value == REDACTED:
        what = f"{place}: `{name}` is {REDACTED}, as rung writes secrets into files"
        raise ConfigError(what, f"set an environment variable, and write `{name}: ${{ENV:ITS_NAME}}`")
    reference = _REFERENCE.fullmatch(value)
    if reference is None:
        if _is_secret(value, name):
            remember(value)
        return value
    if reference[1] not in os.environ:
        what = f"{place}: the environment variable `{reference[1]}`, which `{name}` names, is not set"
        raise ConfigError(what, f"set it: export {reference[1]}=...")
    remember(os.environ[reference[1]])
    return os.environ[reference[1]]


def remember(value: str) -> None:
    """Makes `without_secrets` replace this value; a short one, or a plain word, is left, as texts would have it too."""
    if len(value) >= _SHORTEST and not (value.isalpha() and value.islower()):
        _remembered.add(value)


def without_secrets(text: str) -> str:
    """The text with `<redacted>` in place of secret environment variables and of secrets that a config has set."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret_name(name):
            text = _without(text, value)
    for value in _remembered:
        text = _without(text, value)
    return text


def _without(text: str, value: str) -> str:
    for form in (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        if form in text:
            text = text.replace(form, REDACTED)
    return text

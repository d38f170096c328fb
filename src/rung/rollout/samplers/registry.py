"""Looks up samplers by name."""

from __future__ import annotations

import inspect

from rung.registry import OpenKind

METHODS = ("sample", "load", "exact")


def _is_sampler(value: object) -> bool:
    return inspect.isclass(value) and all(callable(getattr(value, method, None)) for method in METHODS)


SAMPLERS = OpenKind(
    "samplers", "rung.rollout.samplers", _is_sampler, f"a class with a `name` and the methods {', '.join(METHODS)}"
)

"""The settings of sampling: what is in range, exactly at the ends, and what leaves the distribution as it is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rung.errors import ConfigError
from rung.sampling import Sampling


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("max_completion_length", [1, 2], [0, -1]),
        ("temperature", [0.0, 0.1, 1.0, 9.0], [-0.1, math.inf, math.nan]),
        ("top_p", [1e-6, 0.5, 1.0], [0.0, -0.5, -1.0, 1.01, math.nan]),
        ("top_k", [0, 1, 50], [-1]),
        ("min_p", [0.0, 0.5, 1.0], [-0.1, 1.1, math.nan]),
        ("stop", [(), ("a",), ("a", "b")], [("",), ("a", "")]),
    ],
)
def test_a_setting_has_a_range_and_its_ends_belong_to_it(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        settings = {"max_completion_length": 1, name: value}
        assert getattr(Sampling(**settings), name) == value
    for value in refused:
        settings = {"max_completion_length": 1, name: value}
        with pytest.raises(ConfigError, match=rf"`{name}`: .* is out of range\n.*`{name}` must be") as caught:
            Sampling(**settings)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({}, True),
        ({"temperature": 0.5}, True),
        ({"temperature": 2.0, "stop": ("a",)}, True),
        ({"temperature": 0.0}, False),
        ({"top_p": 0.99}, False),
        ({"top_k": 1}, False),
        ({"min_p": 0.01}, False),
    ],
)
def test_only_greedy_and_truncated_sampling_change_the_distribution(settings: dict[str, Any], whole: bool) -> None:
    assert Sampling(max_completion_length=1, **settings).untruncated is whole


def test_without_settings_everything_may_be_sampled() -> None:
    found = Sampling(max_completion_length=3)
    assert (found.temperature, found.top_p, found.top_k, found.min_p, found.stop) == (1.0, 1.0, 0, 0.0, ())

"""The defaults of stages with an adapter."""

from pathlib import Path
from typing import Any

import pytest

from rung.config import parse_config, resolve
from rung.models.lora import with_adapter
from rung.tiny.models import load_spec


def learning_rate(size: str, **stage: Any) -> object:
    raw = {"name": "a", "model": "tiny:llama", "stages": [{"name": "s", "algorithm": "sft", "data": "x.csv", **stage}]}
    return resolve(parse_config(raw, source="test", base=Path()), size).stages[0].learning_rate


@pytest.mark.parametrize("size", ["tiny", "small", "large"])
def test_an_adapter_learns_ten_times_as_fast_unless_a_rate_is_set(size) -> None:
    adapter = {"lora": {"r": 4}}
    assert learning_rate(size, adapter=adapter) == pytest.approx(10 * float(str(learning_rate(size))))
    assert learning_rate(size, adapter=adapter, learning_rate=1e-3) == 1e-3


@pytest.mark.parametrize(("lora", "alpha"), [({}, 16), ({"r": 4}, 8), ({"r": 64}, 128), ({"r": 4, "lora_alpha": 3}, 3)])
def test_alpha_is_twice_the_rank_unless_it_is_set(lora, alpha) -> None:
    adapted = with_adapter(load_spec("llama")[0], lora)
    assert adapted.peft_config["default"].lora_alpha == alpha  # type: ignore[index,union-attr]

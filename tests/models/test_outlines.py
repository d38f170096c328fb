"""An outline of a model has its shape and no weights; adapters are checked on it."""

from pathlib import Path
from typing import Any

import pytest

from rung.errors import ConfigError
from rung.models.load import load_meta_model, meta_model, num_positions
from rung.models.lora import check_adapter
from rung.tiny.models import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as a folder."""
    where = tmp_path_factory.mktemp("model")
    for part in build("llama"):
        part.save_pretrained(where)
    return where


def test_an_outline_has_the_shape_and_the_tokenizer_and_no_weights(folder: Path) -> None:
    model, tokenizer = load_meta_model(folder)
    assert model.device.type == "meta"
    assert num_positions(model) == 512
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("lora", [{}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"r": 2}])
def test_an_adapter_is_checked_without_weights(folder: Path, lora: dict[str, Any]) -> None:
    check_adapter(meta_model(str(folder)), lora)


@pytest.mark.parametrize("lora", [{"r": 0}, {"target_modules": ["none"]}, {"init_lora_weights": "pisa"}, {"bias": "x"}])
def test_an_adapter_that_peft_refuses_is_refused_without_weights(folder: Path, lora: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.lora"):
        check_adapter(meta_model(str(folder)), lora)

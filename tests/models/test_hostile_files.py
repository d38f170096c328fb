"""A model folder from anybody: nothing in it runs, and what cannot be read is told in two lines."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # to write what must never be read
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rung.errors import ConfigError, UserError
from rung.models.heads import load_critic
from rung.models.load import load_model, load_tokenizer, meta_model, save_adapter, save_model
from rung.models.lora import with_adapter
from rung.models.reward_model import load_reward_model
from rung.tiny.models import build
from rung.utils.allowed_code import allowed_code, only_allowed


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_model(*build("llama"), folder)
    return folder / "model"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def pickled(folder: Path, weights: Any) -> None:
    """Replaces the safetensors of a model by a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


@pytest.mark.parametrize("reader", [load_model, meta_model, load_critic, load_reward_model])
def test_pickled_weights_need_the_flag(folder: Path, reader: Callable[[str], object]) -> None:
    pickled(folder, {})
    said = refused(lambda: reader(str(folder)))
    assert "has only pickled weights (pytorch_model.bin)" in said
    assert f"--allow-code {folder}" in said


def test_with_the_flag_weights_are_read_and_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    weights = load_model(folder)[0].state_dict()
    pickled(folder, dict(weights))
    with only_allowed(allowed_code((str(folder),), [])):
        model, _ = load_model(folder)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Evil(tmp_path / "ran")}))
    with only_allowed(allowed_code((str(folder),), [])):
        refused(lambda: load_model(folder))
    torch.save({"lm_head.weight": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with only_allowed(allowed_code((str(folder),), [])):
        refused(lambda: load_model(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../other.safetensors", "/etc/passwd", ".x.safetensors"])
def test_an_index_only_names_safetensors_beside_it(folder: Path, shard: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))
    assert f"names {shard!r} as weights" in refused(lambda: load_model(folder))


def test_code_that_a_config_or_a_tokenizer_names_does_not_run(folder: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
        (folder / name).write_text(code)
    named = {
        "AutoConfig": "configuration_evil.C",
        "AutoModelForCausalLM": "modeling_evil.M",
        "AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"],
    }
    edit(folder / "config.json", auto_map=named, trust_remote_code=True)
    load_model(folder)
    edit(folder / "tokenizer_config.json", auto_map=named, tokenizer_class="EvilTokenizer", trust_remote_code=True)
    assert "which rung never runs" in refused(lambda: load_model(folder))
    edit(folder / "config.json", model_type="evil")
    assert "which rung never runs" in refused(lambda: load_model(folder))
    assert not (tmp_path / "ran").exists()


SIZES = {
    "num_hidden_layers": 10**12,
    "hidden_size": 10**12,
    "vocab_size": 10**12,
    "num_attention_heads": 10**12,
    "num_labels": 10**12,
    "intermediate_size": 1e15,
    "head_dim": -(10**12),
}


@pytest.mark.parametrize("key", SIZES)
def test_wild_sizes_are_refused_at_once(folder: Path, key: str) -> None:
    edit(folder / "config.json", **{key: SIZES[key]})
    assert f"`{key}` is " in refused(lambda: meta_model(str(folder)))


WRONG: dict[str, dict[str, Any]] = {
    "text as a size": {"hidden_size": "64"},
    "no size": {"hidden_size": None},
    "zero heads": {"num_attention_heads": 0},
    "heads that do not divide": {"num_attention_heads": 7},
    "another activation": {"hidden_act": "os.system"},
    "rope": {"rope_scaling": {"rope_type": "evil", "factor": "x"}},
    "a list": {"num_hidden_layers": [1]},
    "kernels": {"_attn_implementation": "evil/kernel"},
    "kernels of a part": {"attn_implementation": {"": "evil/kernel@main:x"}},
    "use of kernels": {"use_kernels": True},
    "experts": {"experts_implementation": "evil/kernel"},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "fp8": {"quantization_config": {"quant_method": "fp8"}},
    "type": {"model_type": 3},
    "dtype": {"dtype": "evil"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_no_model_can_have_is_told(folder: Path, case: str) -> None:
    edit(folder / "config.json", **WRONG[case])
    refused(lambda: load_model(folder))


DAMAGED = [b"", b"[]", b"null", b"{" * 90000, b"[" * 90000, b"\xff\xfe", b'{"a": NaN', b"1" * 9999]


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
)
def test_damaged_files_are_told(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    said = ""
    try:
        load_model(folder)
        meta_model(str(folder))
    except ConfigError as error:
        said = str(error)
    assert len(said.splitlines()) in (0, 2), "it is read, or told in two lines"


def test_half_a_file_of_weights_is_told(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:100], b"\xff" * 8 + whole[8:], (10**12).to_bytes(8, "little") + whole[8:]):
        file.write_bytes(content)
        refused(lambda: load_model(folder))
        refused(lambda: load_model(folder))


ADAPTERS: dict[str, dict[str, Any]] = {
    "rank": {"r": 10**9},
    "rank of some": {"rank_pattern": {"q_proj": 10**9}},
    "slow expression": {"target_modules": r"(.*.*.*.*.*.*.*.*.*.*)*!"},
    "type": {"peft_type": "EVIL"},
    "no expression": {"target_modules": "("},
    "modules": {"target_modules": ["none"]},
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_a_config_of_an_adapter_is_not_trusted_either(tmp_path: Path, case: str) -> None:
    model, _ = load_model("tiny:llama")
    save_adapter(with_adapter(model, {"r": 2}), tmp_path)
    edit(tmp_path / "adapter_config.json", **ADAPTERS[case])
    assert "does not fit" in refused(lambda: load_model(tmp_path))


def test_the_code_that_an_adapter_names_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_library.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    model, _ = load_model("tiny:llama")
    save_adapter(with_adapter(model, {"r": 2}), tmp_path / "adapter")
    named = {"base_model_class": "Evil", "parent_library": "evil_library"}
    edit(tmp_path / "adapter/adapter_config.json", auto_mapping=named, megatron_config={}, megatron_core="evil_library")
    load_model(tmp_path / "adapter")
    load_tokenizer(str(tmp_path / "adapter"))
    assert not (tmp_path / "ran").exists()


def test_links_and_pipes_in_a_model_folder_do_not_hang(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    refused(lambda: load_model(folder))

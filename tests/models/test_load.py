"""Loading: padding tokens, locations that cannot be read, adapters and what is saved of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from torch import nn
from transformers import AutoTokenizer, BloomConfig, ByT5Tokenizer, LlamaConfig, PreTrainedTokenizerBase

from rung.errors import ConfigError
from rung.models.adapters import fingerprint
from rung.models.load import (
    HEAD,
    check_same_tokenizer,
    load_model,
    load_tokenizer,
    merge_adapter,
    meta_model,
    num_positions,
    read_config,
    save_adapter,
    save_model,
    tokenizer_fingerprint,
)
from rung.models.lora import with_adapter
from rung.models.stops import stop_ids
from rung.tiny.models import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and its tokenizer as a folder."""
    save_model(*build("llama"), tmp_path)
    return tmp_path / "model"


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def test_eos_pads_where_the_tokenizer_has_no_padding_token_and_only_there(tmp_path: Path) -> None:
    own, without = build("llama")[1], build("llama")[1]
    assert own.pad_token_id != own.eos_token_id
    without.pad_token = None
    assert load_tokenizer(saved(own, tmp_path / "a")).pad_token_id == own.pad_token_id
    assert AutoTokenizer.from_pretrained(saved(without, tmp_path / "b")).pad_token_id is None
    assert load_tokenizer(str(tmp_path / "b")).pad_token_id == own.eos_token_id


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = build("llama")[1]
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="has no EOS token"):
        load_tokenizer(saved(tokenizer, tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"the tokenizer of .* cannot be read"):
        load_tokenizer(str(tmp_path))


def test_an_adapter_has_its_own_tokenizer_or_that_of_its_base(tmp_path: Path) -> None:
    model, tokenizer = load_model("tiny:llama")
    save_adapter(with_adapter(model, {"r": 2}), tmp_path)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    tokenizer.chat_template = "own"
    saved(tokenizer, tmp_path)
    assert load_tokenizer(str(tmp_path)).chat_template == "own"
    assert load_model(tmp_path)[1].chat_template == "own"


def test_a_folder_without_a_config_and_one_with_another_model_type_are_refused(tmp_path: Path) -> None:
    for reader in (load_model, read_config, meta_model):
        with pytest.raises(ConfigError, match="cannot be read"):
            reader(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    with pytest.raises(ConfigError, match="is of type `t5`, for which transformers has no causal LM"):
        meta_model(str(tmp_path))


def test_a_model_that_lacks_weights_names_the_first_three(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    gone = sorted(weights)[:4]
    save_file({name: weight for name, weight in weights.items() if name not in gone}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks weights, among them ") as caught:
        load_model(folder)
    said = str(caught.value)
    assert [name in said for name in gone] == [True, True, True, False]


def test_damaged_weights_are_told_in_one_line(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot be loaded: ") as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 2, "what, and what to do"


@pytest.mark.parametrize(
    ("stored", "refused"), [({"quant_method": "bitsandbytes"}, True), ({"quant_method": "other"}, False), (None, False)]
)
def test_only_weights_of_bitsandbytes_are_refused_as_quantised(
    folder: Path, stored: dict[str, str] | None, refused: bool
) -> None:
    edit(folder / "config.json", quantization_config=stored)
    if refused:
        with pytest.raises(ConfigError, match="is quantised"):
            read_config(str(folder))
    else:
        assert isinstance(read_config(str(folder)), LlamaConfig)


def test_models_are_loaded_in_fp32_and_drawn_by_their_seed(folder: Path) -> None:
    edit(folder / "config.json", dtype="bfloat16")
    assert {weight.dtype for weight in load_model(folder)[0].parameters()} == {torch.float32}
    first, second = (load_model(location="tiny:llama", seed=seed)[0] for seed in (0, 1))
    assert fingerprint(first) == fingerprint(build("llama")[0]) != fingerprint(second)
    assert first.name_or_path == "tiny:llama"
    assert (num_positions(first), num_positions(build("gpt2")[0])) == (512, 512)
    first.config = BloomConfig()  # type: ignore[assignment]
    assert num_positions(first) is None


def test_another_vocabulary_end_or_template_is_another_tokenizer(folder: Path) -> None:
    def changed(**values: Any) -> PreTrainedTokenizerBase:
        tokenizer = build("llama")[1]
        for name, value in values.items():
            setattr(tokenizer, name, value)
        return tokenizer

    check_same_tokenizer(str(folder), changed(), "critic")
    larger = changed()
    larger.add_tokens(["<new>"])
    for other in (larger, changed(eos_token=changed().bos_token)):
        with pytest.raises(ConfigError, match="has another tokenizer than the policy"):
            check_same_tokenizer(str(folder), other, "critic")
    with pytest.raises(ConfigError, match="another chat template than the policy"):
        check_same_tokenizer(str(folder), changed(chat_template="{{ messages }}"), "critic")


def test_a_tokenizer_is_known_by_all_that_determines_its_ids() -> None:
    start = tokenizer_fingerprint(build("llama")[1])
    assert len(start) == 64
    assert start == tokenizer_fingerprint(build("llama")[1])
    other = build("llama")[1]
    other.chat_template = "x"
    ended = build("llama")[1]
    ended.eos_token = ended.bos_token
    larger = build("llama")[1]
    larger.add_tokens(["<new>"])
    lower = build("llama")[1]
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert lower.get_vocab() == build("llama")[1].get_vocab()
    found = {start, *map(tokenizer_fingerprint, (other, ended, larger, lower))}
    assert len(found) == 5


def test_a_tokenizer_in_python_is_known_by_its_vocabulary() -> None:
    few, more = ByT5Tokenizer(extra_ids=1), ByT5Tokenizer(extra_ids=2)
    assert tokenizer_fingerprint(few) == tokenizer_fingerprint(ByT5Tokenizer(extra_ids=1))
    assert tokenizer_fingerprint(few) != tokenizer_fingerprint(more)


def test_a_completion_ends_at_eos_and_at_the_ends_of_the_generation_config() -> None:
    model, tokenizer = build("llama")
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    assert model.generation_config is not None
    for configured, expected in ((None, {eos}), (7, {eos, 7}), ([9, eos, 3], {3, 9, eos})):
        model.generation_config.eos_token_id = configured
        assert stop_ids(model, tokenizer) == tuple(sorted(expected))


def test_an_adapter_on_a_model_leaves_the_other_weights_frozen() -> None:
    adapted = with_adapter(build("llama")[0], {"r": 2, "target_modules": ["q_proj"]})
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(trained) == 4, "two matrices in each of two layers"
    assert all("q_proj.lora_" in name for name in trained)
    assert adapted.base_fingerprint == fingerprint(build("llama")[0])
    every = {n for n, w in with_adapter(build("llama")[0], {"r": 2}).named_parameters() if w.requires_grad}
    assert len(every) == 2 * 2 * 7


@pytest.mark.parametrize(("size", "stride"), [(5, 1), (127, 1), (128, 2), (189, 2), (192, 3), (6400, 100)])
def test_a_fingerprint_that_was_written_once_is_found_again(size: int, stride: int) -> None:
    """Adapters on disk are compared with it: of each weight every n-th value, n so that about 64 are taken."""
    layer = nn.Linear(size, 1)
    expected = hashlib.sha256()
    for name, weight in (("bias", layer.bias), ("weight", layer.weight)):
        values = weight.detach().flatten()[:: stride if name == "weight" else 1]
        expected.update(f"{name} {tuple(weight.shape)} ".encode() + values.numpy().tobytes())
    assert fingerprint(layer) == expected.hexdigest()  # type: ignore[arg-type]


def test_dropout_of_0_is_no_dropout() -> None:
    with_adapter(build("llama")[0], {"r": 2, "lora_dropout": 0.0})


def test_merging_copies_and_a_model_without_an_adapter_is_itself() -> None:
    model = build("llama")[0]
    assert merge_adapter(model) is model
    adapted = with_adapter(build("llama")[0], {"r": 2, "init_lora_weights": False})
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    merged = merge_adapter(adapted)
    assert fingerprint(merged) != fingerprint(model)
    assert set(merged.state_dict()) == set(model.state_dict())
    assert all(torch.equal(weight, before[name]) for name, weight in adapted.state_dict().items())


def test_an_adapter_with_a_head_is_one_of_a_sequence_classifier(tmp_path: Path) -> None:
    model = with_adapter(build("llama")[0], {"r": 2, "modules_to_save": ["o_proj"]})
    head = nn.Linear(32, 1, bias=False)
    save_adapter(model, tmp_path, head)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["o_proj", "score"]
    assert torch.equal(load_file(tmp_path / "adapter_model.safetensors")[HEAD], head.weight)
    assert json.loads((tmp_path / "base.json").read_text()) == {"fingerprint": fingerprint(build("llama")[0])}
    save_adapter(build("llama")[0], tmp_path / "none")
    assert not (tmp_path / "none").exists()

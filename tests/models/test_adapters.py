"""Adapters as models: what they and their base make together, and refusal of any other base."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from helpers.commands import Command, Refusal
from rung.errors import ConfigError
from rung.models.adapters import base_of, check_base, fingerprint
from rung.models.load import load_meta_model, load_model, save_adapter
from rung.models.lora import with_adapter
from rung.tiny.models import build


def trained(model: PreTrainedModel, folder: Path) -> Path:
    """An adapter on a model, random in both of its matrices."""
    torch.manual_seed(1)
    save_adapter(with_adapter(model, {"r": 4, "init_lora_weights": False}), folder)
    return folder


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return trained(load_model("tiny:llama")[0], tmp_path / "adapter")


def test_an_adapter_is_its_base_with_the_adapter_in_its_weights(adapter: Path):
    torch.manual_seed(1)
    expected = with_adapter(load_model("tiny:llama")[0], {"r": 4, "init_lora_weights": False})
    model, tokenizer = load_model(adapter)
    ids = torch.arange(5, 15)[None]
    torch.testing.assert_close(model(ids).logits, expected(ids).logits)
    assert all(weight.requires_grad for weight in model.parameters())
    assert len(tokenizer) == model.config.vocab_size
    assert load_meta_model(adapter)[0].config == model.config


def test_a_fingerprint_tells_trained_and_merged_weights_apart():
    one, other = build("llama")[0], build("llama")[0]
    assert fingerprint(one) == fingerprint(other) != fingerprint(build("llama", seed=1)[0])
    torch.manual_seed(1)
    merged = with_adapter(other, {"r": 1, "init_lora_weights": False}).merge_and_unload()  # type: ignore[operator]
    assert fingerprint(one) != fingerprint(merged)


def test_other_weights_under_the_same_name_are_refused(adapter: Path):
    with pytest.raises(ConfigError, match="other weights than `tiny:llama` has now"):
        load_model(adapter, seed=1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"base_model_name_or_path": None}, "does not say which model"),
        ({"base_model_name_or_path": "/nowhere"}, "`/nowhere`, where there is no model"),
        ({"base_model_name_or_path": "tiny:gpt2"}, "does not fit `tiny:gpt2`|other weights"),
        ({"task_type": "SEQ_CLS"}, "belongs to a reward model"),
        ({"peft_type": "NONE"}, "does not fit"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["fingerprint", "from elsewhere"])
def test_what_cannot_be_put_together_is_refused(adapter: Path, change: dict[str, object], what: str, known: bool):
    edit(adapter / "adapter_config.json", **change)
    if not known:
        (adapter / "base.json").unlink()
    with pytest.raises(ConfigError, match=what):
        load_model(adapter)


def test_an_adapter_without_a_weight_of_its_own_is_refused(adapter: Path):
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="missing adapter keys"):
        load_model(adapter)
    file.unlink()
    with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors"):
        load_model(adapter)


def test_a_base_is_the_same_by_any_of_its_paths(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "base").mkdir()
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    assert base_of("org/model") == "org/model"
    monkeypatch.chdir(tmp_path)
    check_base(str(adapter), "base")
    with pytest.raises(ConfigError, match="not on `tiny:llama`"):
        check_base(str(adapter), "tiny:llama")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("run", "small.yaml", "model=tiny:qwen3", "sft.from=./adapter"), "not on `tiny:qwen3`"),
        (("run", "small.yaml", "seed=7", "sft.from=./adapter"), "other weights"),
        (("evaluate", "small.yaml", "./broken"), "does not say"),
        (("generate", "./broken", "1+1?"), "does not say"),
    ],
    ids=["another model in a config", "other weights in a config", "evaluate", "generate"],
)
def test_another_base_is_two_lines_and_exit_code_2(
    small_path: Path, refusal: Refusal, arguments: tuple[str, ...], what: str
):
    trained(load_model("tiny:llama", seed=42)[0], small_path / "adapter")
    broken = trained(load_model("tiny:llama")[0], small_path / "broken")
    edit(broken / "adapter_config.json", base_model_name_or_path="")
    assert what in refusal(*arguments)[0]
    assert not (small_path / "runs").exists()


def test_a_stage_goes_on_from_an_adapter_on_the_models_of_its_path(small_path: Path, command: Command):
    trained(load_model("tiny:llama", seed=42)[0], small_path / "adapter")
    only = "stages=[{name: sft, from: ./adapter, algorithm: sft, data: train, max_steps: 1, batch_size: 4}]"
    assert command("run", "small.yaml", only, "evaluate=null", "gate=null") == 0
    assert (small_path / "runs" / "small" / "sft" / "model" / "model.safetensors").is_file()

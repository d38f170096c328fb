"""LoRA on a base in 4 bits: what it trains on, what it is held against, what it hands over, and what it refuses.

What quantises runs where bitsandbytes is installed (`pip install rung[qlora]`), on CPU.
"""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from climb import write_climb
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

import rung
from rung.config import StageConfig, load_config
from rung.errors import ConfigError
from rung.models import load_model, merged, read_config, with_adapter
from rung.path import Run, run_path
from rung.quantized import check_4bit, quantized
from rung.tiny.models import build

installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
QLORA = {"adapter": {"lora": {"r": 4}, "load_in_4bit": True}}
PAIRS = {"data": {"path": "pairs.jsonl", "limit": 6}, "batch_size": 6, "max_steps": 3, "learning_rate": 1e-2}
STAGES: list[dict[str, Any]] = [
    {"name": "sft", "algorithm": "sft", "data": "train", "max_steps": 10, "learning_rate": 1e-2, **QLORA},
    {"name": "dpo", "algorithm": "dpo", **PAIRS, **QLORA},
    {"name": "rm", "algorithm": "reward_model", "from": "sft", **PAIRS, **QLORA},
    {
        "name": "grpo",
        "from": "dpo",
        "algorithm": {"name": "grpo", "num_generations": 2},
        "data": "prompts",
        "max_steps": 2,
        "learning_rate": 1e-2,
        "rollout": {"batch_size": 4, "max_completion_length": 4},
        "updates": {"epochs": 1},
        **QLORA,
    },
]
IDS = torch.arange(5, 45).view(2, 20)
ROWS = [{"prompt": "a", "completion": "b"}]


def stage_of(lora: dict[str, Any], **keys: Any) -> StageConfig:
    adapter = {"lora": lora, "load_in_4bit": True}
    return StageConfig.model_validate({"name": "one", "algorithm": "dpo", "adapter": adapter, **keys})


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model with an adapter that is not at its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def as_quantised(family: str) -> PreTrainedModel:
    """A whole model whose matrices have the values that 4 bits left of them."""
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

    whole, model = build(family)[0], quantized(build(family)[0], stage_of({}), start=f"tiny:{family}", seed=0)
    for name, layer in model.named_modules():
        if hasattr(layer, "compute_dtype"):
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # type: ignore[attr-defined]
            target = whole.get_parameter(f"{name}.weight")
            target.data = weight.T if family == "gpt2" else weight
    return whole


@installed
@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_passes_and_gradients_are_those_of_the_values_that_are_left(family: str, dora: bool) -> None:
    """In eval mode, and after a pass without a gradient, such as a sampler's: there bitsandbytes may repack weights."""
    lora = {"r": 4, "use_dora": dora}
    torch.manual_seed(0)
    model = moved(with_adapter(quantized(build(family)[0], stage_of(lora), start=f"tiny:{family}", seed=0), lora))
    expected = moved(with_adapter(as_quantised(family), lora))
    expected.load_state_dict({n: p for n, p in model.named_parameters() if p.requires_grad}, strict=False)
    torch.testing.assert_close(logits(model.eval()), logits(expected), atol=2e-5, rtol=0)
    assert (logits(expected) - logits(build(family)[0])).abs().max() > 1e-2
    for each in (model, expected):
        each(IDS).logits.square().mean().backward()
    gradients = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-6, rtol=1e-4)


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("llama", {"use_dora": True}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["o_proj", "lm_head"]}),
        ("gpt2", {"use_rslora": True}),
    ],
)
def test_the_adapter_is_merged_into_whole_weights(family: str, lora: dict[str, Any]) -> None:
    lora = {"r": 4, **lora}
    model = moved(with_adapter(quantized(build(family)[0], stage_of(lora), start=f"tiny:{family}", seed=0), lora))
    whole = moved(with_adapter(build(family)[0], lora))
    whole.load_state_dict({n: p for n, p in model.named_parameters() if p.requires_grad}, strict=False)
    torch.testing.assert_close(logits(merged(model)), logits(whole), atol=2e-5, rtol=0)
    assert (logits(model) - logits(whole)).abs().max() > 1e-3, "which is not what was trained"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, trained once."""
    folder = tmp_path_factory.mktemp("qlora")
    overrides = ["evaluate=null", "gate=null", f"output={folder / 'runs'}", f"stages={json.dumps(STAGES)}"]
    return run_path(load_config(write_climb(folder), overrides))


def metrics(run: Run, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.folder / stage / "metrics.jsonl").read_text().splitlines()]


@installed
@pytest.mark.slow
def test_a_path_learns_in_4_bits_from_where_each_stage_starts(run: Run) -> None:
    sft, dpo = ([step["loss"] for step in metrics(run, stage)] for stage in ("sft", "dpo"))
    assert sft[-1] < sft[0] - 1
    assert dpo[0] == pytest.approx(math.log(2), abs=1e-5)
    assert dpo[-1] < dpo[0] - 1e-2
    first, second = (step["kl"] for step in metrics(run, "grpo"))
    assert abs(first) < 1e-6 < second


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "start"), [("sft", "tiny:llama"), ("dpo", "sft"), ("grpo", "dpo")])
def test_a_stage_hands_over_its_start_with_the_adapter_beside_it(run: Run, stage: str, start: str) -> None:
    location = start if start.startswith("tiny:") else run.folder / start / "model"
    whole = load_model(location, seed=42)[0]
    handed = AutoModelForCausalLM.from_pretrained(run.folder / stage / "model")
    assert {parameter.dtype for parameter in handed.parameters()} == {torch.float32}
    assert (logits(whole) - logits(handed)).abs().max() > 1e-3
    adapted = PeftModel.from_pretrained(whole, str(run.folder / stage / "adapter"))
    torch.testing.assert_close(logits(adapted), logits(handed), atol=2e-5, rtol=0)


@installed
@pytest.mark.slow
def test_a_reward_model_is_handed_over_whole_too(run: Run) -> None:
    losses = [step["loss"] for step in metrics(run, "rm")]
    assert losses[-1] < losses[0] - 1e-2
    judge, info = AutoModelForSequenceClassification.from_pretrained(
        run.folder / "rm" / "model", num_labels=1, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert {parameter.dtype for parameter in judge.parameters()} == {torch.float32}


def test_shards_of_a_base_in_4_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="with `--fully-shard`") as caught:
        check_4bit(stage_of({}), sharded=True)
    assert "`--nproc` alone" in caught.value.remedy


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed") as caught:
        rung.train("sft", model="tiny:llama", data=ROWS, **QLORA)
    assert caught.value.remedy == "pip install 'rung[qlora]'"


def test_a_model_that_could_not_be_loaded_again_is_refused() -> None:
    with pytest.raises(ConfigError, match="given in memory"):
        rung.train("sft", model=build("llama"), data=ROWS, **QLORA)


def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path) -> None:
    model = build("llama")[0]
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    file.write_text(json.dumps(json.loads(file.read_text()) | stored))
    with pytest.raises(ConfigError, match="kept in few bits") as caught:
        read_config(str(tmp_path))
    assert "load_in_4bit" in caught.value.remedy

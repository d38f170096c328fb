"""Heads, adapters and reward models by hand: scales, fingerprints, parts of like length, and what is trained."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rung.errors import ConfigError
from rung.forward.policy import Policy
from rung.forward.supported import layouts
from rung.models.adapters import base_of, check_base, fingerprint, is_adapter
from rung.models.architecture import base_model, hidden_matrices, zero_dropout
from rung.models.heads import fresh_head, load_critic, zero_head
from rung.models.load import check_same_tokenizer, freeze, is_reward_model, load_model, num_positions, save_model
from rung.models.lora import keeps_base_weights, with_adapter
from rung.models.reward_model import (
    check_can_be_reward_model,
    length_sorted,
    load_reward_model,
    save_reward_model,
    score_rows,
)
from rung.tiny.models import build


@pytest.mark.parametrize(
    ("lengths", "budget", "parts"),
    [
        ([], 9, []),
        ([5], 1, [[0]]),
        ([3, 3, 3], 9, [[0, 1, 2]]),
        ([3, 3, 3], 8, [[0, 1], [2]]),
        ([1, 4, 2, 3], 8, [[1, 3], [2, 0]]),
        ([4, 1, 1, 1], 12, [[0, 1, 2], [3]]),
    ],
)
def test_rows_of_like_length_share_a_budget_of_padded_tokens(
    lengths: list[int], budget: int, parts: list[list[int]]
) -> None:
    assert length_sorted(lengths, budget) == parts


def judge(folder: Path, scores: list[float]) -> Policy:
    model, tokenizer = build("llama")
    torch.manual_seed(0)
    head = fresh_head(model)
    save_reward_model(model, head, tokenizer, folder, torch.tensor(scores))
    return Policy(model, score_head=head)


@torch.no_grad()
def test_scores_are_told_over_the_scale_of_the_reference(tmp_path: Path) -> None:
    """1 and 5 have mean 3 and deviation 2; the head reads the last token, whatever the padding."""
    policy = judge(tmp_path, [1.0, 5.0])
    model, _ = load_reward_model(str(tmp_path / "model"))
    rows = [(7, 8, 9), (10,), (11, 12, 13, 14)]
    assert isinstance(policy.score_head, nn.Linear)
    trunk, head = policy.causal_lm.base_model, policy.score_head
    raw = [float(head(trunk(torch.tensor([row])).last_hidden_state[0, -1])) for row in rows]
    for budget in (1, 8, 100):
        assert score_rows(model, rows, token_budget=budget) == pytest.approx([(one - 3) / 2 for one in raw], abs=1e-5)
    critic, own = load_critic(str(tmp_path / "model"))
    assert own is not None
    hidden = critic.base_model(torch.tensor([rows[0]])).last_hidden_state[0, -1]
    assert float(own(hidden)) == pytest.approx((raw[0] - 3) / 2, abs=1e-5)
    assert all(not p.requires_grad for p in critic.score.parameters())  # type: ignore[union-attr]
    assert all(p.requires_grad for p in critic.base_model.parameters())
    assert all(not p.requires_grad for p in model.parameters())


def test_equal_reference_scores_have_a_spread_of_1(tmp_path: Path) -> None:
    judge(tmp_path, [2.0, 2.0])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["reward_mean"], config["reward_std"]) == (2.0, 1.0)
    with pytest.raises(ConfigError, match="is a reward model"):
        load_model(tmp_path / "model")


def test_a_causal_model_brings_no_head_of_a_critic() -> None:
    critic, head = load_critic("tiny:llama")
    assert head is None
    assert critic.get_output_embeddings() is not None


def test_a_head_begins_at_0_or_at_its_spread() -> None:
    """1 / sqrt(32 + 1) = .174; one width in, one number out."""
    model = build("llama")[0]
    zero = zero_head(model)
    assert (zero.weight.shape, zero.weight.abs().sum().item(), zero.bias.tolist()) == ((1, 32), 0.0, [0.0])
    torch.manual_seed(1)
    drawn = torch.cat([fresh_head(model).weight for _ in range(200)])
    assert drawn.std().item() == pytest.approx(33**-0.5, rel=0.03)
    assert fresh_head(model).bias is None


def test_padding_with_the_end_cannot_be_judged() -> None:
    model, tokenizer = build("llama")
    check_can_be_reward_model(model.config, tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ConfigError, match="pads with EOS"):
        check_can_be_reward_model(model.config, tokenizer)


def test_a_fingerprint_sees_a_value_in_every_matrix() -> None:
    model = build("llama")[0]
    before = fingerprint(model)
    assert before == fingerprint(build("llama")[0])
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1
        changed = fingerprint(model)
        with torch.no_grad():
            parameter.view(-1)[0] -= 1
        assert changed != before
    assert fingerprint(model.to("meta")) is None  # type: ignore[arg-type]


def test_an_adapter_says_what_it_was_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    file = folder / "adapter_config.json"
    for written, said in (({}, "does not say"), ({"base_model_name_or_path": ""}, "does not say")):
        file.write_text(json.dumps(written))
        with pytest.raises(ConfigError, match=said):
            base_of(str(folder))
    file.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match="where there is no model"):
        base_of(str(folder))
    file.write_text(json.dumps({"base_model_name_or_path": "tiny:llama"}))
    assert base_of(str(folder)) == "tiny:llama"
    assert base_of("tiny:gpt2") == "tiny:gpt2"
    check_base(str(folder), "tiny:llama")
    check_base("tiny:gpt2", "tiny:llama")
    with pytest.raises(ConfigError, match="not on `tiny:gpt2`"):
        check_base(str(folder), "tiny:gpt2")
    assert is_adapter(str(folder))
    (folder / "config.json").write_text("{}")
    assert not is_adapter(str(folder))
    file.write_text("{")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        base_of(str(folder))


@pytest.mark.parametrize(
    ("lora", "equal"),
    [
        ({}, True),
        ({"init_lora_weights": "gaussian"}, True),
        ({"init_lora_weights": False}, False),
        ({"init_lora_weights": "pissa"}, False),
        ({"bias": "all"}, False),
        ({"bias": "none"}, True),
    ],
)
def test_some_adapters_start_as_the_model_before_them(lora: dict, equal: bool) -> None:
    assert keeps_base_weights(lora) is equal


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"lora_dropout": 0.1}, "dropout is off"),
        ({"rank": 4}, "unknown key `adapter.lora.rank`"),
        ({"task_type": "CAUSAL_LM"}, "`adapter.lora.task_type` is a key of peft that a stage does not support"),
        ({"init_lora_weights": "eva"}, "`init_lora_weights` is 'eva'"),
        ({"r": 0}, "adapter.lora"),
    ],
)
def test_an_adapter_that_cannot_be_handed_over_is_refused(lora: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_adapter(build("llama")[0], lora)


def test_matrices_between_embeddings_and_head() -> None:
    """Seven a layer of Llama; of GPT-2 four, whose head is its embedding."""
    llama, gpt2 = build("llama")[0], build("gpt2")[0]
    assert len(hidden_matrices(llama)) == 14
    assert not any("embed" in name or "lm_head" in name or "norm" in name for name in hidden_matrices(llama))
    assert len(hidden_matrices(gpt2)) == 8
    freeze(llama)
    assert hidden_matrices(llama) == set()
    adapted = with_adapter(build("llama")[0], {"r": 2})
    assert len(hidden_matrices(adapted)) == 28
    assert base_model(adapted) is not adapted
    assert base_model(gpt2) is gpt2


def test_layouts_of_a_family() -> None:
    model = build("llama")[0]
    assert layouts(model) == ("plain", "shared", "masked")
    model.config._attn_implementation = "eager"
    assert layouts(model) == ("plain", "shared")
    model.config.model_type = "other"  # type: ignore[misc]
    assert layouts(model) == ("plain",)
    recurrent = build("gemma3")[0]
    recurrent.config.layer_types = ["linear_attention", "full_attention"]  # type: ignore[attr-defined]
    assert layouts(recurrent) == ("plain",)


def test_dropout_goes_everywhere() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))
    module.attention_dropout = 0.25  # type: ignore[assignment]
    module.p = 3  # type: ignore[assignment]
    zero_dropout(module)
    assert (module[0].p, module.attention_dropout, module.p) == (0.0, 0.0, 3)


def test_a_model_is_saved_with_its_tokenizer_and_comes_back(tmp_path: Path) -> None:
    model, tokenizer = build("llama")
    save_model(model, tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again, other = load_model(tmp_path / "model")
    assert fingerprint(again) == fingerprint(model)
    assert other.get_vocab() == tokenizer.get_vocab()
    assert num_positions(again) == 512
    assert not is_reward_model(again.config)
    check_same_tokenizer(str(tmp_path / "model"), tokenizer, "teacher")
    other.chat_template = "x"
    with pytest.raises(ConfigError, match=r"the teacher .* has another chat template"):
        check_same_tokenizer(str(tmp_path / "model"), other, "teacher")
    tokenizer.eos_token = tokenizer.bos_token
    with pytest.raises(ConfigError, match=r"the critic .* has another tokenizer"):
        check_same_tokenizer(str(tmp_path / "model"), tokenizer, "critic")

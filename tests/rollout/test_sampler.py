"""The local sampler: exact log-probs, keyed tokens whatever the batch, shared prompts, endings, modes."""

from dataclasses import astuple
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.sampling import KEY, ending_often, lora, plain_logps, prompts_of
from rung.batch import Completion
from rung.errors import ConfigError, NonFiniteError
from rung.models.stops import stop_ids
from rung.rollout.samplers import LocalSampler, Prompt
from rung.sampling import Sampling
from rung.tiny.models import FAMILIES, build


def sample(
    sampler: LocalSampler, prompts: list[Prompt], k: int, visits: list[int] | None = None, **changes: Any
) -> list[list[Completion]]:
    settings: dict[str, Any] = {"max_completion_length": 24} | changes
    sampling = Sampling(**settings)
    return sampler.sample(prompts, k, visits=visits or range(len(prompts)), key=KEY, sampling=sampling)


def tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.ids for completion in group] for group in groups]


@pytest.mark.oracle
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_equal_a_plain_forward(name: str, adapter: bool):
    model, tokenizer = build(name)
    model = lora(model) if adapter else model
    sampler = LocalSampler(ending_often(model), tokenizer)
    prompts = prompts_of()
    for temperature in (1.0, 0.7):
        groups = sample(sampler, prompts, 4, temperature=temperature)
        assert len({len(row.ids) for group in groups for row in group}) > 3  # compaction was at work
        for prompt, group in zip(prompts, groups, strict=True):
            for row in group:
                expected = plain_logps(model, prompt, row.ids, temperature)
                torch.testing.assert_close(torch.tensor(row.logps), expected, atol=1e-5, rtol=0)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_generate(name: str):
    model: Any
    model, tokenizer = build(name)
    prompts = prompts_of()
    groups = sample(LocalSampler(model, tokenizer), prompts, 1, temperature=0)
    for prompt, [row] in zip(prompts, groups, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert row.ids == tuple(out[0, len(prompt) :].tolist())
        torch.testing.assert_close(torch.tensor(row.logps), plain_logps(model, prompt, row.ids, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_batch_order_waves_and_repetition_change_no_token(name: str):
    model, tokenizer = build(name)
    ending_often(model)
    prompts = prompts_of()
    whole = tokens(sample(LocalSampler(model, tokenizer), prompts, 4))
    order = [3, 0, 5, 1, 4, 2]
    shuffled = tokens(sample(LocalSampler(model, tokenizer), [prompts[i] for i in order], 4, visits=order))
    assert shuffled == [whole[i] for i in order]
    narrow = LocalSampler(model, tokenizer, max_rows=3, prefill_tokens=1)
    assert tokens(sample(narrow, prompts, 4)) == whole
    alone = [
        tokens(sample(LocalSampler(model, tokenizer), [prompts[i]], 4, visits=[i]))[0] for i in range(len(prompts))
    ]
    assert alone == whole
    assert tokens(sample(LocalSampler(model, tokenizer), prompts, 2)) == [group[:2] for group in whole]


def test_the_same_call_gives_the_same_bits():
    model, tokenizer = build("llama")
    sampler = LocalSampler(ending_often(model), tokenizer)
    first, second = (sample(sampler, prompts_of(), 3) for _ in range(2))
    assert [[astuple(row) for row in group] for group in first] == [[astuple(row) for row in group] for group in second]


def test_a_longer_limit_only_continues_unfinished_rows():
    """Beyond 128 tokens as well, where the next block of uniforms is made."""
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    short, long = (sample(sampler, prompts_of((3, 9)), 2, max_completion_length=n)[0] for n in (100, 140))
    for a, b in zip(short, long, strict=True):
        assert b.ids[:100] == a.ids
        assert len(a.ids) == 100 or a.finish_reason == "eos"
    assert any(len(row.ids) > 128 for row in long)


def test_a_prompt_met_again_is_computed_once_and_draws_anew():
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    [prompt, other] = prompts_of((9, 4))
    groups = tokens(sample(sampler, [prompt, other, prompt], 4, visits=[0, 1, 2]))
    assert sampler.prefills == 2
    assert len({row for group in (groups[0], groups[2]) for row in group}) == 8


@pytest.mark.maths
def test_the_work_done_is_counted():
    """Two prompts in one block of width 9, five rows each; nobody ends early: 18 + 10 rows x 23 positions."""
    model, tokenizer = build("llama")
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    sampler = LocalSampler(model, tokenizer)
    groups = sample(sampler, prompts_of((9, 4)), 5)
    assert (sampler.prefills, sampler.decode_calls, sampler.positions) == (2, 23, 18 + 10 * 23)
    assert {(len(row.ids), row.finish_reason) for group in groups for row in group} == {(24, "length")}


def test_finished_rows_leave_the_batch():
    """Positions stay near the tokens drawn: a row is carried on only until a fifth of its batch has ended."""
    model, tokenizer = build("llama")
    sampler = LocalSampler(ending_often(model), tokenizer)
    groups = sample(sampler, prompts_of((5,)), 64)
    drawn = sum(len(row.ids) for row in groups[0])
    assert sampler.positions - 5 <= 1.25 * drawn
    assert drawn < 0.6 * 64 * 24


def test_eos_is_kept_and_named_and_several_end_a_row():
    model, tokenizer = build("llama")
    sampler = LocalSampler(ending_often(model), tokenizer)
    assert stop_ids(sampler.model, tokenizer) == (1, *range(30, 60))
    rows = sample(sampler, prompts_of((5,)), 64)[0]
    assert {row.finish_reason for row in rows} == {"eos", "length"}
    for row in rows:
        assert not set(row.ids[:-1]) & set(stop_ids(sampler.model, tokenizer))
        assert (row.ids[-1] in stop_ids(sampler.model, tokenizer)) == (row.finish_reason == "eos")
        assert len(row.ids) == len(row.logps)
        assert len(row.ids) == 24 or row.finish_reason == "eos"


def test_an_eos_as_the_last_allowed_token_is_an_eos():
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    model.generation_config.eos_token_id = list(range(263))
    assert {row.finish_reason for row in sample(sampler, prompts_of((5,)), 4, max_completion_length=1)[0]} == {"eos"}


def test_a_stop_text_ends_a_row_and_stays_in_it():
    """The stop text is two characters of an unstopped run, and the stopped run is that run cut behind them."""
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    free = sample(sampler, prompts_of((5,)), 16)[0]
    unfinished = [row.ids for row in free if len(row.ids) == 24]
    pairs = [str(tokenizer.decode(list(ids[i : i + 2]))) for ids in unfinished for i in range(4, 20)]
    stop = next(pair for pair in pairs if len(pair) == 2 and pair.isascii() and pair.isprintable())
    rows = sample(sampler, prompts_of((5,)), 16, stop=("no such text", stop))[0]
    assert "stop" in {row.finish_reason for row in rows}
    for row, unstopped in zip(rows, free, strict=True):
        assert row.ids == unstopped.ids[: len(row.ids)]
        text = str(tokenizer.decode(list(row.ids)))
        assert text.endswith(stop) == (row.finish_reason == "stop")
        assert stop not in text[:-1]
        if row.finish_reason != "stop":
            assert row.ids == unstopped.ids


def test_a_training_model_is_sampled_in_eval_mode_and_put_back():
    model, tokenizer = build("llama")
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    config = LoraConfig(lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    adapted: Any = get_peft_model(model, config)
    expected = tokens(sample(LocalSampler(adapted.eval(), tokenizer), prompts_of(), 2))
    adapted.train()
    adapted.base_model.model.lm_head.eval()
    before = [module.training for module in adapted.modules()]
    assert tokens(sample(LocalSampler(adapted, tokenizer), prompts_of(), 2)) == expected
    assert [module.training for module in adapted.modules()] == before


def test_gradient_checkpointing_does_not_empty_the_cache():
    model, tokenizer = build("llama")
    expected = tokens(sample(LocalSampler(model, tokenizer), prompts_of(), 2))
    model.activation_checkpointing_enable()
    model.train()
    assert tokens(sample(LocalSampler(model, tokenizer), prompts_of(), 2)) == expected


def test_training_goes_on_after_sampling():
    """Weights, gradients and grad mode are as before: a backward works and nothing was accumulated."""
    model, tokenizer = build("llama")
    sample(LocalSampler(model, tokenizer), prompts_of(), 2)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.tensor(prompts_of()[:1])).logits.sum().backward()


def test_log_probs_are_exact_only_untruncated_in_the_training_dtype():
    model, tokenizer = build("llama")
    sampler = LocalSampler(model, tokenizer)
    assert sampler.exact(Sampling(max_completion_length=4, temperature=0.7, stop=("x",)))
    cuts: list[dict[str, Any]] = [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"temperature": 0}]
    for truncated in cuts:
        assert not sampler.exact(Sampling(max_completion_length=4, **truncated))
    plain = Sampling(max_completion_length=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not sampler.exact(plain)
    assert not LocalSampler(model, tokenizer, training_dtype=torch.bfloat16).exact(plain)


def test_no_prompt_gives_no_completion():
    model, tokenizer = build("llama")
    assert sample(LocalSampler(model, tokenizer), [], 2) == []


def test_what_cannot_be_sampled_is_refused_before_any_compute():
    model, tokenizer = build("gpt2")
    sampler = LocalSampler(model, tokenizer)
    for prompts in ([(7, 8), (7,) * 489], [()]):
        with pytest.raises(ConfigError, match="prompt"):
            sample(sampler, prompts, 2)
    assert sampler.positions == 0


def test_a_broken_policy_is_named():
    model, tokenizer = build("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    for temperature in (0, 1):
        with pytest.raises(NonFiniteError, match="non-finite"):
            sample(LocalSampler(model, tokenizer), prompts_of(), 2, temperature=temperature)

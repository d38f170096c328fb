"""Sampling from models whose state cannot be shared between rows."""

from typing import Any

import pytest
import torch

import rung
from helpers.families import RECURRENT, family
from rung.models.stops import stop_ids
from rung.rollout.decode import StopCriteria
from rung.rollout.generate_rows import generate_rows, shares_state
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling

QUICK = {"Mamba2", "Qwen3Next", "Lfm2"}
KEY = Key(0, "stage", "purpose")
FREE = Sampling(max_completion_length=12, temperature=1.0)


def families() -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECURRENT]


@pytest.mark.parametrize("name", families())
def test_recurrent_models_are_sampled_with_their_own_log_probs(name) -> None:
    model, tokenizer = family(name)
    assert not shares_state(model)
    sampler = LocalSampler(model, tokenizer)
    assert not sampler.exact(FREE)
    prompts = [(5, 6, 7), (9, 8, 7, 6, 5)]
    rows = sampler.sample(prompts, 4, visits=[0, 1], key=KEY, sampling=FREE)
    for prompt, completions in zip(prompts, rows, strict=True):
        for one in completions:
            with torch.no_grad():
                logps = model(input_ids=torch.tensor([[*prompt, *one.ids]])).logits[0].log_softmax(-1)
            expected = logps[len(prompt) - 1 : -1].gather(1, torch.tensor(one.ids)[:, None])[:, 0]
            assert torch.tensor(one.logps) == pytest.approx(expected, abs=1e-4)
            assert one.finish_reason == ("eos" if one.ids[-1] in stop_ids(model, tokenizer) else "length")
    assert len({one.ids for one in rows[0]}) == 4


def test_draws_depend_on_the_visit_and_number_alone() -> None:
    model, tokenizer = family("Mamba2")
    sampler = LocalSampler(model, tokenizer, max_rows=3)
    together = sampler.sample([(5, 6), (7, 8), (5, 6)], 4, visits=[0, 1, 2], key=KEY, sampling=FREE)
    alone = LocalSampler(model, tokenizer).sample([(5, 6)], 4, visits=[2], key=KEY, sampling=FREE)
    assert [one.ids for one in together[2]] == [one.ids for one in alone[0]]
    assert [one.ids for one in together[0]] != [one.ids for one in alone[0]]


def test_an_attention_model_draws_the_same_with_both_samplers() -> None:
    model, tokenizer = family("Llama")
    assert shares_state(model)
    for sampling in (FREE, Sampling(max_completion_length=12, temperature=0.7, top_k=20, top_p=0.9)):
        (expected,) = LocalSampler(model, tokenizer).sample([(5, 6, 7)], 6, visits=[3], key=KEY, sampling=sampling)
        criteria = StopCriteria(tokenizer, stop_ids(model, tokenizer), sampling.stop)
        found = generate_rows(
            model, (5, 6, 7), [(3, j) for j in range(6)], stop_criteria=criteria, key=KEY, sampling=sampling
        )
        assert [one.ids for one in found] == [one.ids for one in expected]
        assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=1e-5)


def test_the_models_own_generation_config_changes_no_draw() -> None:
    model, tokenizer = family("Mamba2")
    before = LocalSampler(model, tokenizer).sample([(5, 6)], 2, visits=[0], key=KEY, sampling=FREE)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 12
    assert LocalSampler(model, tokenizer).sample([(5, 6)], 2, visits=[0], key=KEY, sampling=FREE) == before
    assert model.generation_config.repetition_penalty == 5.0


def test_stop_texts_and_stop_tokens_end_a_row() -> None:
    model, tokenizer = family("Mamba2")
    (free,) = LocalSampler(model, tokenizer).sample([(5, 6)], 8, visits=[0], key=KEY, sampling=FREE)
    text = str(tokenizer.decode(list(free[0].ids[3:5])))
    stopping = Sampling(max_completion_length=12, temperature=1.0, stop=(text,))
    (rows,) = LocalSampler(model, tokenizer).sample([(5, 6)], 8, visits=[0], key=KEY, sampling=stopping)
    assert rows[0].finish_reason == "stop"
    assert rows[0].ids == free[0].ids[: len(rows[0].ids)]
    assert text in tokenizer.decode(list(rows[0].ids))
    model.generation_config.eos_token_id = [1, free[1].ids[2]]
    (rows,) = LocalSampler(model, tokenizer).sample([(5, 6)], 8, visits=[0], key=KEY, sampling=FREE)
    ends = {1, free[1].ids[2]}
    for row, one in zip(rows, free, strict=True):
        first = next((i for i, token in enumerate(one.ids) if token in ends), len(one.ids) - 1)
        assert row.ids == one.ids[: first + 1]


def test_a_recurrent_model_learns_from_its_samples() -> None:
    model, tokenizer = family("Mamba2")

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        return [float(sum(token % 2 for token in ids)) for ids in completion_ids]

    stage = rung.train(
        "grpo",
        model=(model, tokenizer),
        data=[{"prompt": "1+1"}, {"prompt": "2+1"}],
        rewards=[reward],
        max_steps=2,
        rollout={"batch_size": 2, "max_completion_length": 6},
    )
    steps = list(stage)
    assert len(steps) == 2
    assert any(step.stepped for step in steps)

"""Heads and embeddings that are wider or narrower than the tokenizer."""

from typing import Any, cast

import pytest
import torch

import rung
from rung.errors import UserError
from rung.forward.logprobs import target_logps
from rung.models.vocabulary import first_without_embedding, ignore_unused_rows, num_embeddings, without_unused
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler
from rung.sampling import Sampling
from rung.tiny.models import load_spec


@pytest.fixture
def padded():
    """A tiny model whose embeddings and head have 64 rows more than there are tokens; unused ids are the likeliest."""
    model, tokenizer = load_spec("llama")
    size = num_embeddings(model)
    model.resize_token_embeddings(size + 64, mean_resizing=False)
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[size:] = 50 * head.weight[:64]
    ignore_unused_rows(model, tokenizer)
    return model, tokenizer, size


def test_ids_that_are_no_tokens_are_never_drawn(padded) -> None:
    model, tokenizer, size = padded
    sampling = Sampling(max_completion_length=16, temperature=1.0)
    rows = LocalSampler(model, tokenizer).sample([(5, 6)], 16, visits=[0], key=Key(0, "s", "p"), sampling=sampling)[0]
    assert all(token < size for row in rows for token in row.ids)


def test_log_probs_are_normalised_over_the_tokens_alone(padded) -> None:
    model, _, size = padded
    hidden, targets = torch.randn(3, model.config.hidden_size), torch.tensor([4, 5, 6])
    (logps,) = target_logps(model, hidden, targets, 1.0, ())
    expected = model.get_output_embeddings()(hidden)[:, :size].log_softmax(-1)
    assert torch.equal(logps, expected[torch.arange(3), targets])
    (read,) = target_logps(model, hidden, targets, 1.0, (lambda logits: torch.full((3,), logits.shape[-1]),))[1:]
    assert read.tolist() == [size] * 3


def test_a_head_of_the_tokenizers_size_is_left_as_it_is() -> None:
    model, tokenizer = load_spec("llama")
    logits = torch.randn(2, num_embeddings(model))
    assert without_unused(model, logits) is logits
    ignore_unused_rows(model, tokenizer)
    assert without_unused(model, logits) is logits


def test_training_draws_no_unused_id(padded) -> None:
    model, tokenizer, size = padded
    seen: list[int] = []

    def probe(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        seen.extend(token for ids in completion_ids for token in ids)
        return [float(len(ids)) for ids in completion_ids]

    rows = [{"prompt": "1+1"}, {"prompt": "2+1"}]
    rollout = {"batch_size": 2, "max_completion_length": 8}
    for _ in rung.train("grpo", model=(model, tokenizer), data=rows, rewards=[probe], max_steps=1, rollout=rollout):
        pass
    assert seen
    assert max(seen) < size


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "a <|new|>", "completion": "b"},
            "rows, row 1: the id {n} (`<|new|>`) is beyond the {n} embeddings",
        ),
        (
            {"prompt": "a", "completion": "b <|new|>"},
            "rows, row 1: the id {n} (`<|new|>`) is beyond the {n} embeddings",
        ),
    ],
)
def test_a_token_without_an_embedding_is_named_before_training(row, said) -> None:
    model, tokenizer = load_spec("llama")
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    with pytest.raises(UserError) as caught:
        rung.train("sft", model=(model, tokenizer), data=[row], max_steps=1, batch_size=1)
    assert caught.value.what == said.format(n=num_embeddings(model))
    assert "resize_token_embeddings" in caught.value.remedy


def test_a_padding_token_without_an_embedding_is_named() -> None:
    model, tokenizer = load_spec("llama")
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(UserError, match=r"`pad_token` <\|padding\|> has the id \d+, but the model has \d+ embeddings"):
        rung.train("reward_model", model=(model, tokenizer), data=rows, max_steps=1)


def test_the_check_reads_the_stop_tokens_of_the_generation_config(tmp_path) -> None:
    from rung.models.load import load_meta_model
    from rung.models.stops import stop_ids

    model, tokenizer = load_spec("llama")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]  # type: ignore[union-attr]
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    assert stop_ids(*load_meta_model(tmp_path)) == tuple(sorted({cast(int, tokenizer.eos_token_id), 7}))


def test_the_first_id_without_an_embedding() -> None:
    assert first_without_embedding([3, 7, 8, 9], 8) == 8
    assert first_without_embedding([3, 7], 8) is None

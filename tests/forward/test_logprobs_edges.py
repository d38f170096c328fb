"""Logits by hand: the scalings and the soft cap of a few families, the temperature, and the chunks."""

import pytest
import torch

from rung.forward import logprobs as scoring
from rung.forward.logprobs import TeacherInputs, head_logits, target_logps
from rung.maths.tensors import entropy
from rung.tiny.models import build

HIDDEN = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))


def raw(model) -> torch.Tensor:
    return HIDDEN @ model.get_output_embeddings().weight.T


@torch.no_grad()
def test_a_soft_cap_bends_what_is_divided_by_it() -> None:
    model = build("gemma3")[0]
    model.config.final_logit_softcapping = 2.0  # type: ignore[attr-defined]
    found = head_logits(model, HIDDEN)
    torch.testing.assert_close(found, 2 * torch.tanh(raw(model) / 2))
    assert float(found.abs().max()) <= 2


@torch.no_grad()
def test_one_family_divides_its_logits_and_another_multiplies_them() -> None:
    model = build("llama")[0]
    torch.testing.assert_close(head_logits(model, HIDDEN), raw(model))
    model.config.logits_scaling = 4.0  # type: ignore[attr-defined]
    torch.testing.assert_close(head_logits(model, HIDDEN), raw(model) / 4)
    model.config.logit_scale = 0.5  # type: ignore[attr-defined]
    torch.testing.assert_close(head_logits(model, HIDDEN), raw(model) / 8)


@torch.no_grad()
def test_the_temperature_divides_before_log_probs_and_readouts() -> None:
    model, targets = build("llama")[0], torch.tensor([1, 2, 3, 4, 5])
    logps, found = target_logps(model, HIDDEN, targets, 0.5, (entropy,))
    expected = (raw(model) * 2).log_softmax(-1)
    torch.testing.assert_close(logps, expected[torch.arange(5), targets])
    torch.testing.assert_close(found, -(expected.exp() * expected).sum(-1))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_chunks_of_any_size_say_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, targets = build("llama")[0], torch.tensor([1, 2, 3, 4, 5])
    whole = target_logps(model, HIDDEN, targets, 1.0, (entropy,))
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * model.config.vocab_size * rows)
    for one, other in zip(target_logps(model, HIDDEN, targets, 1.0, (entropy,)), whole, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (2.9, [2, 2, 1]), (5, [5]), (0.5, [1] * 5)])
def test_logits_take_no_more_than_their_bytes_but_one_row(
    rows: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, targets, seen = build("llama")[0], torch.tensor([1, 2, 3, 4, 5]), []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(len(out)))  # type: ignore[union-attr]
    monkeypatch.setattr(scoring, "LOGITS_BYTES", int(4 * model.config.vocab_size * rows))
    target_logps(model, HIDDEN, targets, 1.0, ())
    assert seen == sizes


@torch.no_grad()
def test_the_logits_of_a_teacher_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, targets, seen = build("llama")[0], torch.tensor([1, 2, 3, 4, 5]), []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(len(out)))  # type: ignore[union-attr]
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * model.config.vocab_size * 4)
    teacher = TeacherInputs(build("llama", seed=1)[0], HIDDEN, (lambda own, other: (own - other).sum(-1),))
    _, read = target_logps(model, HIDDEN, targets, 1.0, (), teacher)
    assert seen == [2, 2, 1]
    assert read.shape == (5,)


def test_logits_of_256_mebibytes_are_kept() -> None:
    assert scoring.LOGITS_BYTES == 2**28

"""Losses and gradients of many model families against a plain forward pass of each row by itself."""

from copy import deepcopy
from typing import Any

import pytest
import torch

import rung
from helpers.families import FAMILIES, family
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport

QUICK = {"Llama", "Gemma2", "Phi3", "Cohere2", "GptOss", "DeepseekV3", "Mpt", "Mamba2", "Qwen3Next", "Gemma3", "OPT"}
ROWS = [{"prompt": f"{i}+{i}=" + "x" * i, "completion": f" {2 * i} yes" + " ab" * (i % 4)} for i in range(6)]
TOLERANCE = {"Qwen3Next": 1e-4, "Qwen3_5Text": 1e-4}  # chunks of linear attention are summed in another order


def plain_gradients(model: Any, tokenizer: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss of the trained tokens and its gradients, row by row, without padding."""
    rows = encode(load_examples(ROWS)[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    total, count = torch.zeros(()), 0
    for row in rows:
        answer = row.answers[0].ids
        ids = torch.tensor([[*row.prompt_ids, *answer]])
        logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
        total = total - logps[len(row.prompt_ids) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
        count += len(answer)
    (total / count).backward()
    return float(total.detach() / count), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.oracle
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_a_batch_has_the_loss_and_gradient_of_its_rows(name: str) -> None:
    model, tokenizer = family(name)
    loss, expected = plain_gradients(deepcopy(model), tokenizer)
    stage = rung.train("sft", model=(model, tokenizer), data=ROWS, max_steps=1, batch_size=6, max_grad_norm=1e9)
    found: dict[str, torch.Tensor] = {}

    def remember(*_: Any) -> None:
        found.update({n: p.grad.clone() for n, p in stage.policy.model.named_parameters() if p.grad is not None})

    stage.optimizer.register_step_pre_hook(remember)
    (done,) = stage
    assert done.loss == pytest.approx(loss, abs=1e-5)
    assert found.keys() >= expected.keys()
    unused = found.keys() - expected.keys()  # such as those of a vision tower
    assert not any(found[parameter].any() for parameter in unused)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for parameter, gradient in expected.items():
        bound = TOLERANCE.get(name, 1e-5) * max(float(gradient.abs().max()), 1e-3 * scale)
        assert float((found[parameter] - gradient).abs().max()) <= bound, parameter

"""The three layouts give the same log-probs and gradients as one row at a time, on ragged batches of every family."""

from collections.abc import Iterator
from typing import cast

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from helpers.batches import random_batch, with_random_weights
from helpers.policies import WeightedSum, gradient, relative_error, tiny_policy
from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.errors import ConfigError
from rung.forward.planner import Layout
from rung.forward.policy import Policy
from rung.forward.supported import layouts
from rung.models.load import load_model
from rung.sampling import Sampling
from rung.tiny.models import build

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3")
SHAPES_EACH = 25  # x 4 families x full and LoRA = 200 random ragged batches


def gradient_in(policy: Policy, batch: Batch, layout: Layout, token_budget: int) -> torch.Tensor:
    """The gradient of `WeightedSum` in one layout alone."""
    policy.model.zero_grad()
    for head in (policy.value_head, policy.score_head):
        if head is not None:
            head.zero_grad()
    policy.token_budget = token_budget
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign]
    algorithm: Algorithm = WeightedSum()
    one = torch.tensor(1.0, dtype=torch.float64)
    for part, outputs in policy.parts(batch, algorithm):
        algorithm.loss(part, outputs).over({"all": one}).backward()
    return gradient(policy)


def logps_and_gradient(
    policy: Policy, batch: Batch, layout: Layout, token_budget: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (N, T) and the same gradient."""
    found = gradient_in(policy, batch, layout, token_budget)
    return policy.logps(batch), found


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree(family: str, lora: bool) -> None:
    generator = torch.Generator().manual_seed(sum(map(ord, family)) + lora)
    policy = tiny_policy(family, lora=lora, heads=True)
    for number in range(SHAPES_EACH):
        batch = random_batch(generator, prompts=1 + number % 5, prompt_length=(1, 20), length=(1, 20))
        batch = with_random_weights(batch, generator)
        expected, wanted = logps_and_gradient(policy, batch, "plain", 1)  # one row at a time, without any padding
        for layout in ("plain", "shared", "masked"):
            budget = (30, 90, 10_000)[number % 3]
            logps, found = logps_and_gradient(policy, batch, cast(Layout, layout), budget)
            assert (logps - expected).abs().max() < 1e-5, (layout, number)
            assert relative_error(found, wanted) < 1e-5, (layout, number)


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_a_plain_transformers_forward(family: str) -> None:
    policy = tiny_policy(family)
    batch = random_batch(torch.Generator().manual_seed(1))
    logps = policy.logps(batch)
    for row in range(batch.num_rows):
        prompt = batch.prompt_ids[batch.prompt_of[row]][batch.prompt_mask[batch.prompt_of[row]]]
        answer = batch.completion_ids[row][batch.completion_mask[row]]
        with torch.no_grad():
            logits = policy.model(input_ids=torch.cat([prompt, answer])[None]).logits[0].float()
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, answer[:, None])[:, 0]
        trained = batch.loss_mask[row][: len(answer)]
        torch.testing.assert_close(logps[row][: len(answer)], expected * trained, atol=1e-5, rtol=0)


@pytest.mark.oracle
def test_temperature_divides_the_logits() -> None:
    policy = tiny_policy("llama")
    batch = random_batch(torch.Generator().manual_seed(2))
    policy.sampling = Sampling(max_completion_length=1, temperature=2.0)
    with torch.no_grad():
        ids = torch.cat([batch.prompt_ids[0][batch.prompt_mask[0]], batch.completion_ids[0][:1]])
        logits = policy.model(input_ids=ids[None]).logits[0, -2].float()
    expected = (logits / 2).log_softmax(-1)[batch.completion_ids[0, 0]]
    torch.testing.assert_close(policy.logps(batch)[0, 0], expected, atol=1e-5, rtol=0)


def test_chunked_head_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy("gemma3")
    generator = torch.Generator().manual_seed(3)
    batch = with_random_weights(random_batch(generator), generator)
    expected = logps_and_gradient(policy, batch, "shared", 10_000)
    monkeypatch.setattr("rung.forward.logprobs.LOGITS_BYTES", 4 * policy.model.config.vocab_size * 3)
    logps, found = logps_and_gradient(policy, batch, "shared", 10_000)
    torch.testing.assert_close(logps, expected[0], atol=1e-6, rtol=0)
    assert relative_error(found, expected[1]) < 1e-6


def test_activation_checkpointing_keeps_the_gradient_and_gives_up_the_shared_layout() -> None:
    """In training mode transformers drops the cache under checkpointing: completions would lose their prompt."""
    policy = tiny_policy("llama")
    generator = torch.Generator().manual_seed(4)
    batch = with_random_weights(random_batch(generator), generator)
    expected = logps_and_gradient(policy, batch, "plain", 10_000)
    model = policy.model
    model.activation_checkpointing_enable({"use_reentrant": False})
    checkpointed = Policy(model)
    assert checkpointed.layouts() == ("plain", "masked")
    for layout in checkpointed.layouts():
        logps, found = logps_and_gradient(Policy(model), batch, layout, 10_000)
        torch.testing.assert_close(logps, expected[0], atol=1e-5, rtol=0)
        assert relative_error(found, expected[1]) < 1e-5


def test_an_empty_cache_is_noticed() -> None:
    policy = tiny_policy("llama")
    policy.model.activation_checkpointing_enable({"use_reentrant": False})
    batch = random_batch(torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    policy.model.train()
    with pytest.raises(AssertionError, match="did not fill the KV cache"):
        logps_and_gradient(policy, with_random_weights(batch, generator), "shared", 10_000)


def test_dropout_is_off_for_good() -> None:
    policy = tiny_policy("gpt2")
    config = policy.model.config
    assert all(module.p == 0 for module in policy.model.modules() if isinstance(module, torch.nn.Dropout)), config
    batch = random_batch(torch.Generator().manual_seed(6))
    policy.model.train()
    first = policy.logps(batch)
    assert torch.equal(first, policy.logps(batch))


def test_an_unknown_family_runs_row_by_row() -> None:
    policy = tiny_policy("llama")
    policy.model.config.model_type = "never-seen"  # type: ignore[misc]
    assert policy.layouts() == ("plain",)


def test_prompt_adapters_are_refused() -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model

    model = tiny_policy("llama").model
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    with pytest.raises(ConfigError, match="adds tokens to the prompt"):
        Policy(get_peft_model(model, config))  # type: ignore[arg-type]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("layout", ["plain", "shared", "masked"])
def test_a_gradient_is_the_same_to_the_bit_in_every_run(layout: Layout) -> None:
    """Many completions of one prompt meet in its gradient: threads must not add them up in the order they come."""
    generator = torch.Generator().manual_seed(8)
    policy = Policy(load_model("tiny:base")[0])  # large enough for its work to be shared out
    batch = random_batch(generator, prompts=2, rows=(32, 32), prompt_length=(40, 40), length=(10, 20))
    batch = with_random_weights(batch, generator)
    first = gradient_in(policy, batch, layout, 100_000)
    assert all(torch.equal(gradient_in(policy, batch, layout, 100_000), first) for _ in range(4))


def test_a_mistral_with_a_sliding_window_takes_no_masks() -> None:
    """It builds one mask for all layers itself; a prompt may be shared."""
    config = MistralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        sliding_window=8,
    )
    assert layouts(MistralForCausalLM(config)) == ("plain", "shared")
    assert layouts(build("llama")[0]) == ("plain", "shared", "masked")

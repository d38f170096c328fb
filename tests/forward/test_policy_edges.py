"""A policy by hand: what it reads and where, how its reference moves, and what is trained by which name."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.edges import batch_of, tiny_policy
from rung.algorithms.distill import Distill
from rung.algorithms.sft import SFT
from rung.errors import ConfigError
from rung.forward.layouts import block_mask, index_rows, joined_rows, masked_rows, pack_offsets, plain, prompt_positions
from rung.forward.planner import Cost
from rung.forward.policy import Policy, ReferenceUpdate, scatter_to_mask
from rung.maths.tensors import entropy
from rung.models.load import freeze
from rung.models.lora import with_adapter
from rung.sampling import Sampling
from rung.tiny.models import build

ROWS = batch_of([([7, 8, 9], [10, 11]), ([12], [13, 14, 15])], trained=[[True, False], [True, False, True]])


@torch.no_grad()
def logits(policy: Policy, ids: list[int]) -> torch.Tensor:
    return policy.model(torch.tensor([ids])).logits[0]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_and_readouts_stand_where_tokens_are_trained(temperature: float) -> None:
    """Token t of a completion is predicted one position before it."""
    policy = tiny_policy(sampling=Sampling(max_completion_length=1, temperature=temperature))
    one = (logits(policy, [7, 8, 9, 10, 11]) / temperature).log_softmax(-1)
    two = (logits(policy, [12, 13, 14, 15]) / temperature).log_softmax(-1)
    expected = torch.tensor([[one[2, 10], 0, 0], [two[0, 13], 0, two[2, 15]]])
    torch.testing.assert_close(policy.logps(ROWS), expected, atol=1e-5, rtol=1e-5)
    read = policy.readout(ROWS, entropy)
    torch.testing.assert_close(read[1, 2], -(two[2].exp() * two[2]).sum(), atol=1e-5, rtol=1e-5)
    assert read[~ROWS.loss_mask].tolist() == [0, 0, 0]


@torch.no_grad()
def test_values_are_those_of_the_state_before_a_token_and_of_the_end() -> None:
    policy = tiny_policy()
    torch.manual_seed(0)
    policy.value_head = nn.Linear(32, 1)
    hidden = policy.causal_lm.base_model(torch.tensor([[12, 13, 14, 15]])).last_hidden_state[0]
    value = policy.value_head(hidden)[:, 0]
    before, after = policy.values(ROWS)
    torch.testing.assert_close(before[1], torch.stack([value[0], torch.tensor(0.0), value[2]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[1], value[3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_critic_reads_the_values_and_the_policy_the_rest() -> None:
    """The values of a part are those of the critic's states before the trained tokens."""
    torch.manual_seed(0)
    policy = tiny_policy(value_head=nn.Linear(32, 1), score_head=nn.Linear(32, 1, bias=False))
    alone = tiny_policy(value_head=policy.value_head, score_head=policy.score_head)
    policy.critic = build("llama", seed=1)[0]
    ((_, outputs),) = policy.parts(ROWS, SFT())
    ((_, plainly),) = alone.parts(ROWS, SFT())
    torch.testing.assert_close(outputs.values, policy.values(ROWS)[0])
    assert not torch.allclose(outputs.values, plainly.values, atol=1e-3)  # type: ignore[arg-type]
    torch.testing.assert_close(outputs.logps, plainly.logps)
    torch.testing.assert_close(outputs.scores, plainly.scores)


@torch.no_grad()
def test_a_teacher_reads_its_own_states() -> None:
    """KL(teacher || policy) of the distributions before the second trained token of the second row."""
    teacher = build("llama", seed=1)[0]
    ((_, outputs),) = tiny_policy(teacher=teacher).parts(ROWS, Distill(beta=0.0))
    ours, theirs = (logits(each, [12, 13, 14, 15])[2].log_softmax(-1) for each in (tiny_policy(), Policy(teacher)))
    expected = (theirs.exp() * (theirs - ours)).sum()
    torch.testing.assert_close(outputs.readouts["divergence"][1, 2], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.readouts["teacher_entropy"][1, 2], -(theirs.exp() * theirs).sum())


def test_what_is_trained_goes_by_its_module() -> None:
    policy = tiny_policy(value_head=nn.Linear(32, 1), score_head=nn.Linear(32, 1, bias=False))
    policy.critic, policy.reference, policy.teacher = build("gpt2")[0], build("llama")[0], build("llama")[0]
    names = set(policy.named_parameters())  # the score head keeps the name that checkpoints have for it
    assert {"value_head.weight", "value_head.bias", "final_head.weight", "lm_head.weight"} <= names
    assert any(name.startswith("critic.transformer") for name in names)
    assert not any(name.startswith(("reference", "teacher")) for name in names)
    assert set(policy.modules()) == {"model", "value_head", "score_head", "critic", "reference", "teacher"}
    assert len(policy.parameters) == len(names)
    freeze(policy.model)
    assert not any(name.startswith("model.") for name in policy.named_parameters())
    assert any(name.startswith("critic.") for name in policy.hidden_matrices())


def moved(policy: Policy) -> float:
    """How far the first weight of the reference is from where it began, 0; that of the policy is 1."""
    assert policy.reference is not None
    return next(policy.reference.parameters()).view(-1)[0].item()


def following(every: int, share: float) -> Policy:
    policy = tiny_policy()
    policy.reference, policy.reference_update = policy.snapshot(), ReferenceUpdate(every, share)
    with torch.no_grad():
        next(policy.model.parameters()).view(-1)[0] = 1.0
        next(policy.reference.parameters()).view(-1)[0] = 0.0
    return policy


def test_a_reference_moves_at_its_steps_by_its_share() -> None:
    """.25, then .25 + .25 x .75."""
    policy, seen_ = following(2, 0.25), []
    for step in range(1, 6):
        policy.update_reference(step)
        seen_.append(moved(policy))
    assert seen_ == [0.0, 0.25, 0.25, 0.4375, 0.4375]
    sync = following(3, 1.0)
    sync.update_reference(3)
    assert moved(sync) == 1.0


def test_a_reference_that_stays_has_nothing_that_moves() -> None:
    policy = tiny_policy()
    assert policy.moving_reference() == {}
    policy.update_reference(1)
    assert set(following(1, 1.0).moving_reference()) == {name for name, _ in policy.model.named_parameters()}


def test_a_snapshot_is_a_frozen_copy() -> None:
    policy = tiny_policy()
    copied = policy.snapshot()
    with torch.no_grad():
        next(policy.model.parameters()).add_(1)
    assert not torch.equal(next(copied.parameters()), next(policy.model.parameters()))
    assert all(not parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


def test_the_first_pass_of_a_reference_sees_that_nothing_was_trained() -> None:
    policy = tiny_policy()
    policy.reference, policy.reference_is_start = policy.snapshot(), True
    torch.testing.assert_close(policy.reference_logps(ROWS), policy.logps(ROWS))
    assert policy.reference_is_start is False
    with torch.no_grad():
        next(policy.model.parameters()).mul_(2)
    policy.reference_logps(ROWS)
    policy.reference_is_start = True
    with pytest.raises(AssertionError, match="differs from the start of the stage"):
        policy.reference_logps(ROWS)


def test_without_a_reference_the_adapter_is_off() -> None:
    policy = Policy(with_adapter(build("llama")[0], {"r": 2, "init_lora_weights": False}))
    torch.testing.assert_close(policy.reference_logps(ROWS), tiny_policy().logps(ROWS), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(policy.logps(ROWS), tiny_policy().logps(ROWS), atol=1e-3)
    with pytest.raises(AssertionError, match="needs a separate reference model"):
        tiny_policy().reference_logps(ROWS)


def test_a_prompt_adapter_is_refused() -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="adds tokens to the prompt"):
        Policy(get_peft_model(build("llama")[0], config))  # type: ignore[arg-type]


def test_the_dtype_of_a_pass_and_the_layouts_of_all_its_models() -> None:
    assert tiny_policy().dtype == torch.float32
    assert tiny_policy(precision="bf16").dtype == torch.bfloat16
    policy = tiny_policy()
    assert policy.layouts() == ("plain", "shared", "masked")
    policy.teacher = build("llama")[0]
    policy.teacher.config.model_type = "other"  # type: ignore[misc]
    assert policy.layouts() == ("plain",)


def test_values_are_spread_over_the_mask() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    assert scatter_to_mask(torch.tensor([1.0, 2.0, 3.0]), mask).tolist() == [[1, 0], [2, 3]]


def test_rows_are_joined_without_a_gap() -> None:
    found = joined_rows(ROWS, torch.tensor([3, 1]))
    assert found.tolist() == [[7, 8, 9, 10, 11], [12, 13, 14, 15, 12]]


def test_places_in_packs() -> None:
    """Pack 0: prompt of 2, rows of 4 and 6, prompt of 3, row of 7; pack 1: the first prompt once more."""
    first, start = pack_offsets(
        torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 2, 3]), torch.tensor([4, 5, 6, 7])
    )
    assert (first.tolist(), start.tolist()) == ([0, 0, 0, 12], [2, 2, 6, 15])


def test_cells_of_prompts_and_who_sees_whom() -> None:
    row, column = prompt_positions(torch.tensor([[False, True, True], [True, True, True]]))
    assert (row.tolist(), column.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])
    begin, end, own = (torch.tensor([each]) for each in ([0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 3]))
    assert block_mask(begin, end, own)[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]
    assert index_rows(torch.tensor([5, 6]), torch.tensor([1, 1, 0])).tolist() == [6, 6, 5]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_pack_has_the_states_of_its_rows_alone(family: str) -> None:
    policy = tiny_policy(family)
    backbone, config = policy.causal_lm.base_model, policy.causal_lm.config
    alone, packed = plain(backbone, ROWS), masked_rows(backbone, config, ROWS, torch.tensor([0, 0]))
    torch.testing.assert_close(packed.predicting, alone.predicting, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed.last, alone.last, atol=1e-5, rtol=1e-5)
    assert (alone.positions, packed.positions) == (10, 9)


def test_plans_are_made_for_the_parameters_outside_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of 4 x 256 x 256 + 3 x 256 x 1024 and two norms, a last norm, and a head of 256 x 1000."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    seen: list[tuple[int, int, int]] = []

    class Seen(Cost):
        @staticmethod
        def of(trunk: int, hidden: int, layers: int) -> Cost:
            seen.append((trunk, hidden, layers))
            return Cost.of(trunk, hidden, layers)

    monkeypatch.setattr("rung.forward.policy.Cost", Seen)
    batch = batch_of([([5, 6], [7, 8]), ([5], [9])])
    (block,) = Policy(LlamaForCausalLM(config)).plan(batch, "row")
    assert sorted(row for part in block.parts for row in part.rows) == [0, 1]
    layer = 4 * 256 * 256 + 3 * 256 * 1024 + 2 * 256
    assert seen == [(2 * layer + 256 + 256 * 1000, 256, 2)]

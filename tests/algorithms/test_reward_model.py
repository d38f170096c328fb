"""The loss of a reward model: by hand, against TRL, and that it learns pairs and rankings."""

import doctest
import importlib
import math
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.policies import gradient, tiny_policy
from rung.algorithms.dpo import DPO
from rung.algorithms.reward_model import RewardModel
from rung.batch import Batch, Outputs, count_denominators
from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.forward.policy import Policy
from rung.metrics import merge, values
from rung.tiny.models import build
from rung.tiny.tokenizers import EOS_ID


def groups_of(*sizes: int, **extras: Tensor) -> Batch:
    """Rows of one token each, in groups of these sizes."""
    rows = sum(sizes)
    group_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ones = torch.ones(rows, 1, dtype=torch.bool)
    return Batch(
        prompt_ids=torch.full((len(sizes), 1), 9),
        prompt_mask=torch.ones(len(sizes), 1, dtype=torch.bool),
        prompt_of=group_of,
        group_of=group_of,
        completion_ids=torch.arange(rows)[:, None] + 10,
        completion_mask=ones,
        loss_mask=ones,
        row_ids=tuple(map(str, range(rows))),
        extras=extras,
    )


def loss_of(algorithm: RewardModel, batch: Batch, scores: Tensor) -> Tensor:
    """The loss of a step: over denominators that are counted from the batch."""
    outputs = Outputs(logps=torch.zeros(batch.completion_ids.shape), scores=scores)
    return algorithm.loss(batch, outputs).over(count_denominators(algorithm.terms(), batch))


def placed_policy(table: dict[int, float]) -> Policy:
    """A model whose hidden state is a number that depends on the token alone, 100 where none is given."""
    model = build("llama")[0]
    numbers = torch.full((model.config.vocab_size,), 100.0)
    numbers[list(table)] = torch.tensor(list(table.values()))

    def place(module: object, args: object, kwargs: dict[str, Any], output: Any) -> None:
        output.last_hidden_state = torch.zeros_like(output.last_hidden_state)
        output.last_hidden_state[..., 0] = numbers[kwargs["input_ids"]]

    model.base_model.register_forward_hook(place, with_kwargs=True)
    head = torch.nn.Linear(model.config.hidden_size, 1, bias=False)
    torch.nn.init.ones_(head.weight)
    return Policy(model, score_head=head)


@pytest.mark.parametrize("module", ["rung.algorithms.reward_model", "rung.models.reward_model"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0


@pytest.mark.maths
@pytest.mark.parametrize(
    ("settings", "margin", "expected"),
    [({}, 0.0, 0.313262), ({}, 0.5, 0.474077), ({"center_rewards_coefficient": 0.01}, 0.0, 0.353262)],
    ids=["plain", "margin", "centering"],
)
def test_the_loss_of_a_pair_with_verdicts_placed_at_the_last_attended_token(
    settings, margin, expected, certify: Certify
) -> None:
    """s = (1.5, .5): -log sigma(1); with margin .5: -log sigma(.5); with c = .01: + .01 x 2^2. EOS (1) holds .5."""
    example = {"prompt": "ab", "chosen": "cd", "rejected": "ef", "margin": margin}
    tokenizer = build("llama")[1]
    encoded = encode(
        load_examples([example])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport()
    )
    batch = collate(encoded, pad_id=0)
    batch.completion_ids[0, -1] = 2  # the chosen row ends in another token than the rejected one
    algorithm = RewardModel(**settings)
    policy = placed_policy({2: 1.5, EOS_ID: 0.5})
    total = sum(
        algorithm.loss(part, outputs).over(count_denominators(algorithm.terms(), batch)).item()
        for part, outputs in policy.parts(batch, algorithm)
    )
    assert total == pytest.approx(expected, abs=1e-5)
    certify("reward_model", "golden", total, expected)


@pytest.mark.maths
def test_a_ranking_counts_each_of_its_pairs_with_one_over_their_number(certify: Certify) -> None:
    """s = 2, 1, 0: (.313262 + .126928 + .313262) / 3 = .251151; with a pair of .313262 beside it .282207."""
    scores = torch.tensor([2.0, 1.0, 0.0, 1.5, 0.5])
    assert loss_of(RewardModel(), groups_of(3), scores[:3]).item() == pytest.approx(0.251151, abs=1e-6)
    both = loss_of(RewardModel(), groups_of(3, 2), scores)
    assert both.item() == pytest.approx(0.282207, abs=1e-6)
    certify("reward_model", "golden", both, 0.282207)


@pytest.mark.maths
def test_a_pair_is_a_ranking_of_two() -> None:
    rows = [{"prompt": "ab", "chosen": "c", "rejected": "dd", "margin": 0.25}]
    ranked = [{"prompt": "ab", "completions": ["c", "dd"], "margin": 0.25}]
    tokenizer = build("llama")[1]
    batches = [
        collate(
            encode(load_examples(given)[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport()),
            pad_id=0,
        )
        for given in (rows, ranked)
    ]
    assert torch.equal(batches[0].completion_ids, batches[1].completion_ids)
    scores = torch.tensor([0.3, -0.2])
    first, second = (loss_of(RewardModel(), batch, scores).item() for batch in batches)
    assert first == second == pytest.approx(math.log(1 + math.exp(-0.25)))


@pytest.mark.maths
def test_metrics_of_two_parts_are_those_of_the_whole() -> None:
    """Chosen 2, 2, 1 | 1.5 and rejected 1, 0, 0 | 2: three of four in order; spreads over all four pairs."""
    scores = torch.tensor([2.0, 1.0, 0.0, 1.5, 2.0])
    parts = [groups_of(3), groups_of(2)]
    losses = [
        RewardModel().loss(part, Outputs(logps=torch.zeros(part.num_rows, 1), scores=final))
        for part, final in zip(parts, (scores[:3], scores[3:]), strict=True)
    ]
    seen = values(merge(loss.metrics for loss in losses))
    chosen, rejected = torch.tensor([2.0, 2.0, 1.0, 1.5]), torch.tensor([1.0, 0.0, 0.0, 2.0])
    assert seen["accuracy"] == 0.75
    assert seen["margin"] == pytest.approx((chosen - rejected).mean().item())
    assert seen["rewards/chosen"] == pytest.approx(chosen.mean().item())
    assert seen["rewards/chosen_std"] == pytest.approx(chosen.std().item())
    assert seen["rewards/rejected_std"] == pytest.approx(rejected.std().item())


@pytest.mark.oracle
@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("margin", [False, True])
def test_loss_and_gradient_equal_trl(center: float, margin: bool, certify: Certify) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, generator=generator, dtype=torch.float64)
    margins = torch.rand(6, generator=generator, dtype=torch.float64)
    extras = {"margin": margins.repeat_interleave(2)} if margin else {}
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    expected = loss_of(RewardModel(center_rewards_coefficient=center), groups_of(*[2] * 6, **extras), ours)
    expected.backward()

    def gather(tensor: Tensor) -> Tensor:
        return tensor

    me = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=SimpleNamespace(gather=gather, gather_for_metrics=gather),
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": {name: [] for name in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}},
    )
    logits = torch.cat([theirs[::2], theirs[1::2]])[:, None]
    inputs = {"attention_mask": torch.ones(1, 1), **({"margin": margins} if margin else {})}
    trl: Any = RewardTrainer.compute_loss
    loss = trl(me, lambda **_: SimpleNamespace(logits=logits), inputs)
    loss.backward()
    torch.testing.assert_close(expected, loss, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)
    certify("reward_model", "oracle", [expected, ours.grad], [loss, theirs.grad])


def test_no_token_of_a_reward_model_meets_the_lm_head() -> None:
    """The gradient is, to the bit, that of a forward pass that makes log-probs which nothing reads."""

    class Reading(RewardModel):
        name: ClassVar = "reading"
        reads_logps: ClassVar = True

    batch = random_batch(torch.Generator().manual_seed(1), group=2, vocab=50)
    found: dict[str, Tensor] = {}
    for algorithm, rows in ((RewardModel(), 0), (Reading(), int(batch.loss_mask.sum()))):
        policy = tiny_policy("llama", heads=True)
        for part, outputs in policy.parts(batch, algorithm):
            assert bool(outputs.logps.isnan().all()) == (rows == 0), "what was not computed is no number"
            algorithm.loss(part, outputs).over(count_denominators(algorithm.terms(), batch)).backward()
        assert policy.work.head_rows == rows
        assert policy.work.positions > 0
        found[algorithm.name] = gradient(policy)
    assert found["reward_model"].any()
    assert torch.equal(found["reward_model"], found["reading"])


def test_under_lora_the_head_is_trained_and_pairs_are_learnt() -> None:
    rows = [{"prompt": f"number {i}", "chosen": "yes" * (i % 3 + 1), "rejected": "no" * (i % 3 + 1)} for i in range(8)]
    stage = rung.train(
        "reward_model",
        model="tiny:llama",
        data=rows,
        adapter={"lora": {"r": 4}},
        batch_size=8,
        learning_rate=1e-2,
        max_steps=12,
    )
    assert isinstance(stage.policy.score_head, torch.nn.Linear)
    before = stage.policy.score_head.weight.detach().clone()
    steps = list(stage)
    assert not torch.equal(before, stage.policy.score_head.weight)
    assert values(steps[-1].metrics)["accuracy"] == 1.0


RANKED = [{"prompt": "a", "completions": ["b", "c"]}, {"prompt": "a", "completions": ["b", "c", "d"]}]


def test_dpo_takes_rankings_of_two() -> None:
    stage = rung.train(DPO(), model="tiny:llama", data=RANKED[:1], max_steps=1)
    assert next(iter(stage)).loss == pytest.approx(math.log(2), abs=1e-5)

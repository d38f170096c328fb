"""The reward model: its loss by hand and against TRL, its saved form, and paths that train and use one."""

import doctest
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from certificate import Certify
from support import gradient, random_batch, tiny_policy
from torch import Tensor

import rung
from rung.algorithms.dpo import DPO
from rung.algorithms.reward_model import RewardModel
from rung.batch import Batch, Outputs, count
from rung.cli import main
from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import Report
from rung.errors import UserError
from rung.heads import fresh_head
from rung.metrics import merge, values
from rung.models import with_adapter
from rung.policy import Policy
from rung.reward_models import check_judge, load_reward_model, reference_scores, save_reward_model, score_rows
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
    outputs = Outputs(logps=torch.zeros(batch.completion_ids.shape), final=scores)
    return algorithm.loss(batch, outputs).over(count(algorithm.units(), batch))


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
    return Policy(model, final_head=head)


@pytest.mark.parametrize("module", ["algorithms.reward_model", "reward_models"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"rung.{module}"))
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
    encoded = encode(load_examples([example])[0], tokenizer, max_prompt_length=None, max_length=None, report=Report())
    batch = collate(encoded, pad_id=0)
    batch.completion_ids[0, -1] = 2  # the chosen row ends in another token than the rejected one
    algorithm = RewardModel(**settings)
    policy = placed_policy({2: 1.5, EOS_ID: 0.5})
    total = sum(
        algorithm.loss(part, outputs).over(count(algorithm.units(), batch)).item()
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
            encode(load_examples(given)[0], tokenizer, max_prompt_length=None, max_length=None, report=Report()),
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
        RewardModel().loss(part, Outputs(logps=torch.zeros(part.num_rows, 1), final=final))
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


def judge(family: str, *, lora: bool = False) -> Policy:
    policy = tiny_policy(family, lora=lora)
    policy.final_head = fresh_head(policy.causal_lm)
    return policy


def rows_of(batch: Batch) -> list[list[int]]:
    prompts = [ids[mask].tolist() for ids, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    answers = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    return [prompts[p] + answer for p, answer in zip(batch.prompt_of.tolist(), answers, strict=True)]


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "lora"), [("llama", False), ("qwen3", True), ("gpt2", False), ("gemma3", True)])
def test_a_saved_reward_model_gives_the_scores_of_the_policy_over_their_scale(tmp_path, family, lora) -> None:
    from transformers import AutoModelForSequenceClassification

    policy, tokenizer = judge(family, lora=lora), build(family)[1]
    batch = random_batch(torch.Generator().manual_seed(1), group=2)
    expected = torch.zeros(batch.num_rows)
    for i in range(0, batch.num_rows, 2):
        expected[i : i + 2] = reference_scores(policy, RewardModel(), [batch.select(torch.tensor([i, i + 1]))])
    save_reward_model(policy, tokenizer, tmp_path, reference_scores(policy, RewardModel(), [batch]))
    assert (tmp_path / "adapter").exists() == lora

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=1)
    with torch.no_grad():
        raw = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows_of(batch)])
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=0)

    scaled = torch.tensor(score_rows(load_reward_model(str(tmp_path / "model"))[0], rows_of(batch), token_budget=64))
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scaled, (expected - expected.mean()) / expected.std(correction=0), atol=1e-4, rtol=0)


def test_scores_do_not_depend_on_the_parts(tmp_path) -> None:
    policy, tokenizer = judge("qwen3"), build("qwen3")[1]
    batch = random_batch(torch.Generator().manual_seed(2), group=2, prompts=6)
    save_reward_model(policy, tokenizer, tmp_path, torch.tensor([0.0, 2.0]))
    model, rows = load_reward_model(str(tmp_path / "model"))[0], rows_of(batch)
    alone = [score_rows(model, [row], token_budget=1)[0] for row in rows]
    for budget in (1, 60, 10_000):
        assert score_rows(model, rows, token_budget=budget) == pytest.approx(alone, abs=1e-5)


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
            algorithm.loss(part, outputs).over(count(algorithm.units(), batch)).backward()
        assert policy.counted.head_rows == rows
        assert policy.counted.positions > 0
        found[algorithm.name] = gradient(policy)
    assert found["reward_model"].any()
    assert torch.equal(found["reward_model"], found["reading"])


def test_a_tokenizer_that_pads_with_eos_and_an_unknown_family_are_refused() -> None:
    from transformers import CLIPConfig

    model, tokenizer = build("llama")
    check_judge(model.config, tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UserError, match=r"pads with EOS.*\n.*pad_token"):
        check_judge(model.config, tokenizer)
    with pytest.raises(UserError, match="no sequence classifier for a model of type `clip`"):
        check_judge(CLIPConfig(), build("llama")[1])


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
    assert isinstance(stage.policy.final_head, torch.nn.Linear)
    before = stage.policy.final_head.weight.detach().clone()
    steps = list(stage)
    assert not torch.equal(before, stage.policy.final_head.weight)
    assert values(steps[-1].metrics)["accuracy"] == 1.0


PAIRS = [{"prompt": f"number {i}", "chosen": "yes" * (i % 3 + 1), "rejected": "no"} for i in range(8)]
RANKED = [{"prompt": "a", "completions": ["b", "c"]}, {"prompt": "a", "completions": ["b", "c", "d"]}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, rows in {"pairs": PAIRS, "ranked": RANKED, "prompts": [{"prompt": f"{i}"} for i in range(4)]}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def rung_exits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The real command; its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rung", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        return int(exit.value.code or 0)

    return run


RM = {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl", "max_steps": 2}


def grpo(model: str) -> dict[str, Any]:
    return {
        "name": "grpo",
        "algorithm": {"name": "grpo", "num_generations": 2},
        "data": "prompts.jsonl",
        "rewards": [{"name": "reward_model", "args": {"model": model}}],
        "rollout": {"batch_size": 2, "max_completion_length": 4},
        "max_steps": 1,
    }


def write(config: dict[str, Any]) -> str:
    Path("path.yaml").write_text(json.dumps({"name": "path", "model": "tiny:llama", **config}))
    return "path.yaml"


def test_a_path_trains_a_reward_model_and_a_later_stage_is_judged_by_it(
    home: Path, rung_exits: Callable[..., int]
) -> None:
    assert rung_exits("run", write({"stages": [RM, grpo("stage:rm")]})) == 0
    from transformers import AutoModelForSequenceClassification

    config = AutoModelForSequenceClassification.from_pretrained("runs/path/rm/model", num_labels=1).config
    assert config.reward_std > 0
    logged = json.loads((home / "runs/path/grpo/metrics.jsonl").read_text().splitlines()[-1])
    assert logged["rewards/reward_model/errors"] == 0
    assert "rewards/reward_model/mean" in logged


def saved_judge(folder: Path, template: str | None = None, tokens: str = "") -> str:
    policy, tokenizer = judge("llama"), build("llama")[1]
    tokenizer.chat_template = template or tokenizer.chat_template
    if tokens:
        tokenizer.add_tokens([tokens])
    save_reward_model(policy, tokenizer, folder, torch.tensor([0.0, 2.0]))
    return "./judge/model"


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"stages": [grpo("stage:rm"), RM]}, "`stage:rm`, which is no stage before it", id="later stage"),
        pytest.param(
            {"stages": [{**RM, "name": "dpo", "algorithm": "dpo"}, grpo("stage:dpo")]},
            "trains no reward model",
            id="a stage that makes a policy",
        ),
        pytest.param({"stages": [grpo("tiny:llama")]}, "`tiny:llama` is no reward model", id="a policy"),
        pytest.param({"stages": [grpo("./nowhere")]}, "there is no model in", id="no such folder"),
        pytest.param(
            {"stages": [{**RM, "algorithm": "dpo", "data": "ranked.jsonl"}]},
            "ranked.jsonl:2: 3 answers to a prompt, and `dpo` takes 2",
            id="a ranking for DPO",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_two_lines_before_anything_is_written(
    home: Path,
    rung_exits: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    command: str,
    config: dict[str, Any],
    message: str,
) -> None:
    assert rung_exits(command, write(config)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert message in said[0]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "message"), [({"template": "{{ 1 }}"}, "chat template"), ({"tokens": "new"}, "tokenizer")]
)
def test_a_reward_model_with_another_template_or_tokenizer_is_refused(
    home: Path, rung_exits: Callable[..., int], capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    model = saved_judge(home / "judge")
    assert rung_exits("check", write({"stages": [grpo(model)]})) == 0
    capsys.readouterr()
    saved_judge(home / "judge", **change)
    assert rung_exits("check", write({"stages": [grpo(model)]})) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert f"has another {message} than the policy" in said[0]


def test_metrics_cannot_name_a_model_that_the_path_has_yet_to_train(
    home: Path, rung_exits: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = [{"name": "reward_model", "args": {"model": "stage:rm"}}]
    evaluate = {"validation": "prompts.jsonl", "metrics": metrics}
    assert rung_exits("check", write({"stages": [RM], "evaluate": evaluate})) == 2
    assert "`evaluate.metrics`" in capsys.readouterr().err


def test_dpo_takes_rankings_of_two() -> None:
    stage = rung.train(DPO(), model="tiny:llama", data=RANKED[:1], max_steps=1)
    assert next(iter(stage)).loss == pytest.approx(math.log(2), abs=1e-5)


def test_a_lora_of_the_models_own_layers_leaves_the_head_alone() -> None:
    """The head is no part of the model that the adapter wraps: it is trained whole."""
    model = with_adapter(build("llama")[0], {"r": 2})
    policy = Policy(model, final_head=fresh_head(model))
    assert "final_head.weight" in policy.named_parameters()

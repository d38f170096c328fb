"""KTO: by hand, against TRL, and what its z0 depends on; labelled answers from a file to a trained model."""

from collections.abc import Callable
from dataclasses import replace
from math import exp
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rung
from helpers.batches import random_batch
from helpers.certificate import Certify
from helpers.losses import DTYPES, assert_same, batch_and_logps, ours, theirs
from helpers.policies import tiny_policy
from helpers.steps import padded, permuted
from helpers.table_model import LAYOUTS, batch_of_answers, policy_with_values, summed_losses
from helpers.trl import trl_stub
from rung.algorithms.kto import KTO, baseline, with_other_answers
from rung.batch import Batch
from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.records import as_unpaired
from rung.data.report import DataReport
from rung.distributed.ranks import Ranks
from rung.errors import DataError
from rung.forward.planner import Layout
from rung.forward.policy import Policy
from rung.tiny.models import build

LABELLED = [
    {"prompt": f"number {i}", "completion": f"it is {i}" if good else "no", "label": good}
    for i in range(8)
    for good in (True, False)
]
PAIRS = [{"prompt": f"number {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(8)]


def labelled(batch: Batch, *labels: bool) -> Batch:
    return batch.replace_extras(label=torch.tensor(labels))


@pytest.mark.maths
@LAYOUTS
@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ({}, 0.492501 + 0.487503),
        ({"desirable_weight": 2.0, "undesirable_weight": 0.5}, 2 * 0.492501 + 0.5 * 0.487503),
        ({"loss_type": "apo_zero_unpaired"}, 0.487503 + 0.492501),
    ],
    ids=["kto", "weighted", "apo_zero_unpaired"],
)
def test_a_desirable_and_an_undesirable_row(
    layout: Layout, given: dict[str, Any], loss: float, certify: Certify
) -> None:
    """Golden 21. u = .5 (desirable) and -.3 (undesirable), beta .1; (p, b) .1 and (q, a) .3 make z0 = .2.

    1 - sigma(.03) = .492501 and 1 - sigma(.05) = .487503. Against 0: 1 - sigma(.05), and sigma(-.03) = .492501.
    """
    x = {"pa": 0.5, "qb": -0.3, "pb": 0.1, "qa": 0.3}
    policy = policy_with_values(layout, dict.fromkeys(x, 0.2), {pair: 0.2 * exp(-each) for pair, each in x.items()}, {})
    kto = KTO.model_validate(given)
    batch = kto.prepare(labelled(batch_of_answers(("p", "a"), ("q", "b")), True, False), policy)
    found = summed_losses(kto, policy, batch)["rows"]
    assert found == pytest.approx(loss, abs=1e-5)
    certify("kto", "golden", found, loss)


@pytest.mark.maths
def test_z0_is_never_negative_and_0_without_other_answers() -> None:
    """(p, b) -.1 and (q, a) -.3 have mean -.2; two prompts with one answer have no mismatched rows."""
    x = {"pa": 0.5, "qb": -0.3, "pb": -0.1, "qa": -0.3}
    policy = policy_with_values(
        "plain", dict.fromkeys(x, 0.2), {pair: 0.2 * exp(-each) for pair, each in x.items()}, {}
    )
    assert baseline(batch_of_answers(("p", "a"), ("q", "b")), policy) == 0
    alike = batch_of_answers(("p", "a"), ("q", "a"))
    assert with_other_answers(alike, Ranks()) is None
    assert baseline(alike, policy) == 0


def trl_kto(batch: Batch, kto: KTO, z0: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    from trl.trainer.kto_trainer import KTOTrainer

    mask = batch.loss_mask.long()
    ones = torch.ones(batch.num_rows, 1, dtype=torch.long)
    assert batch.ref_logps is not None
    inputs = {
        "label": batch.extras["label"],
        "input_ids": torch.cat([ones, batch.completion_ids], 1),
        "attention_mask": torch.cat([ones, mask], 1),
        "completion_mask": torch.cat([0 * ones, mask], 1),
        "ref_logps": (batch.ref_logps * mask).sum(1),
        "ref_KL_logps": torch.zeros_like(z0),
    }

    def loss(logps: torch.Tensor) -> torch.Tensor:
        nothing = torch.zeros_like(logps)

        def model(**_: Any) -> Any:
            return SimpleNamespace(log_probs=logps * mask, entropy=nothing, mean_logits=nothing)

        me = trl_stub(
            _compute_kl_logps=lambda *_: z0,
            calculate_KL=kto.loss_type == "kto",
            precompute_ref_logps=True,
            loss_type=kto.loss_type,
            beta=kto.beta,
            desirable_weight=kto.desirable_weight,
            undesirable_weight=kto.undesirable_weight,
        )
        return KTOTrainer._compute_loss(me, model, inputs, False)

    return loss


@pytest.mark.oracle
@DTYPES
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "kto",
    [
        KTO(),
        KTO(beta=0.5, desirable_weight=1.3, undesirable_weight=0.7),
        KTO(loss_type="apo_zero_unpaired", undesirable_weight=0.0),
    ],
    ids=["kto", "weighted", "apo_zero_unpaired"],
)
@pytest.mark.parametrize("labels", ["mixed", "good", "bad"])
def test_loss_and_gradient_equal_trl(labels: str, kto: KTO, seed: int, dtype: torch.dtype, certify: Certify) -> None:
    """z0 is given to both: mismatched log-ratios of mean .4, or of mean -.4, which count as 0."""
    batch, logps = batch_and_logps(seed, None, dtype)
    draw = torch.rand(batch.num_rows, generator=torch.Generator().manual_seed(seed))
    label = {"mixed": draw < 0.5, "good": draw < 2, "bad": draw > 2}[labels]
    mean = 0.4 if seed % 2 else -0.4
    ratios = (draw - draw.mean()).to(dtype) + mean
    z0 = ratios.mean().clamp(min=0) if kto.loss_type == "kto" else torch.zeros((), dtype=dtype)
    batch = batch.replace_extras(label=label, z0=z0.expand(batch.num_rows))
    both = assert_same(ours(kto, batch, logps), theirs(trl_kto(batch, kto, ratios), batch, logps), dtype)
    certify("kto", "oracle", *both)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_plays_no_part_and_labels_have_their_sign(seed: int) -> None:
    batch, logps = batch_and_logps(seed, None, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9)).loss_mask
    label = torch.rand(batch.num_rows, generator=torch.Generator().manual_seed(seed)) < 0.5
    z0 = torch.full((batch.num_rows,), 0.3, dtype=torch.float64)
    batch = replace(batch, loss_mask=trained).replace_extras(label=label, z0=z0)
    assert batch.ref_logps is not None
    rubbish = replace(batch, ref_logps=batch.ref_logps.masked_fill(~trained, float("nan")))
    loss, gradient = ours(KTO(), batch, logps)
    other, found = ours(KTO(), rubbish, logps)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)
    assert bool((gradient[label][trained[label]] < 0).all())
    assert bool((gradient[~label][trained[~label]] > 0).all())


def moved_policy() -> Policy:
    """A policy whose reference is another model."""
    policy = tiny_policy("llama")
    policy.reference = policy.snapshot()
    with torch.no_grad():
        for parameter in policy.reference.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return policy


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_every_prompt_gets_the_whole_answer_of_another_row(seed: int) -> None:
    """Never its own; cut only where it would be longer, with its prompt, than the longest row."""
    batch = random_batch(torch.Generator().manual_seed(seed), prompts=4)
    found = with_other_answers(batch, Ranks())
    assert found is not None
    prompt_lengths = batch.prompt_mask.sum(1)[batch.prompt_of]
    longest = int((prompt_lengths + batch.lengths).max())
    own = {tuple(ids[mask].tolist()) for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)}
    for row in range(batch.num_rows):
        given_ids = found.completion_ids[row][found.completion_mask[row]].tolist()
        assert given_ids != batch.completion_ids[row][batch.completion_mask[row]].tolist()
        room = longest - int(prompt_lengths[row])
        assert any(list(ids[:room]) == given_ids for ids in own)
    assert torch.equal(found.prompt_of, batch.prompt_of)
    assert not bool((found.loss_mask & ~found.completion_mask).any())


def test_z0_does_not_depend_on_order_or_padding() -> None:
    policy = moved_policy()
    batch = random_batch(torch.Generator().manual_seed(5), prompts=4)
    z0 = baseline(batch, policy)
    assert z0 > 0
    for changed in (permuted(batch), padded(batch)):
        assert baseline(changed, policy) == pytest.approx(z0, rel=1e-5)


def test_z0_is_the_mean_log_ratio_of_the_mismatched_rows() -> None:
    policy = moved_policy()
    batch = random_batch(torch.Generator().manual_seed(5), prompts=4)
    other = with_other_answers(batch, Ranks())
    assert other is not None
    rows = [other.select(torch.tensor([row])) for row in range(other.num_rows)]
    ratios = [float((policy.logps(row) - policy.reference_logps(row)).sum()) for row in rows]
    assert baseline(batch, policy) == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)


def test_labels_reach_the_loss_and_pairs_are_taken_apart() -> None:
    tokenizer = build("llama")[1]

    def batch_of(rows: list[dict[str, Any]]) -> Batch:
        examples = [one for example in load_examples(rows)[0] for one in as_unpaired(example)]
        encoded = encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
        return collate(encoded, pad_id=0)

    given, apart = batch_of(LABELLED), batch_of(PAIRS)
    assert given.extras["label"].tolist() == [row["label"] for row in LABELLED]
    assert torch.equal(apart.extras["label"], given.extras["label"])
    assert torch.equal(apart.completion_ids, given.completion_ids)
    assert apart.num_groups == apart.num_rows == 2 * len(PAIRS)


@pytest.mark.parametrize("rows", [LABELLED, PAIRS], ids=["labelled", "pairs"])
@pytest.mark.parametrize("kto", [KTO(), KTO(loss_type="apo_zero_unpaired")], ids=["kto", "apo_zero_unpaired"])
def test_a_tiny_model_learns_which_answers_are_good(kto: KTO, rows: list[dict[str, Any]]) -> None:
    """The first step is at the reference: z0 is 0 and every row costs one half."""
    stage = rung.train(kto, model="tiny:llama", data=rows, batch_size=16, max_steps=8, learning_rate=3e-3)
    steps = list(stage)
    assert steps[0].loss == pytest.approx(0.5, abs=1e-6)
    assert steps[-1].loss < 0.45
    last = {name: metric.value() or 0.0 for name, metric in steps[-1].metrics.items()}
    assert last["rewards/chosen"] > last["rewards/rejected"]
    assert last["kl"] > 0 or kto.loss_type != "kto"


def test_raw_answers_without_labels_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        rung.train(KTO(), model="tiny:llama", data=[{"prompt": "a", "completion": "b"}] * 2, max_steps=1)
    assert "learns from unpaired, but this row is prompt-completion data" in caught.value.what
    assert "preference, unpaired" in caught.value.remedy

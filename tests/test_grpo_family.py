"""The product of advantage, ratio, objective, reduction and KL: TRL 1.16's own code on the same tokens, cell by cell.

A rollout is scored by a real trainer of TRL, whose own sampling, rewards and log-probs are given; its loss runs on a
stub that carries only what it reads. Where a cell is another number than TRL's, the test says which and why.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from certificate import Certify
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support import random_batch
from test_oracle import drawn, equal, ours, theirs, trl_stub

import rung
from rung import registry
from rung.algorithm import Algorithm
from rung.algorithms.axes import KLEstimator, Level, Scale
from rung.algorithms.cispo import CISPO
from rung.algorithms.dapo import DAPO
from rung.algorithms.gmpo import GMPO
from rung.algorithms.group import GroupRelative
from rung.algorithms.grpo import GRPO, DrGRPO
from rung.algorithms.gspo import GSPO, LUSPO, GSPOToken
from rung.algorithms.reinforce_pp import ReinforcePPBaseline
from rung.algorithms.rloo import RLOO
from rung.algorithms.sapo import SAPO
from rung.algorithms.vespo import VESPO
from rung.batch import Batch, Outputs, count
from rung.config import load_config, resolve
from rung.maths import k3
from rung.metrics import values
from rung.tiny.models import build

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
NAN = float("nan")
FEW = settings(max_examples=12, deadline=None)  # of each member
GROUP = 4
LIMIT = 11
BETA = 0.3
EPSILON, EPSILON_HIGH = 0.1, 0.15
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")
SCALES: tuple[Scale, ...] = ("group", "batch", "none")
PENALTIES: tuple[KLEstimator | None, ...] = (None, "rho_k3", "k3")
FAMILY: dict[str, GroupRelative] = {
    "grpo": GRPO(),
    "dr_grpo": DrGRPO(),
    "dapo": DAPO(overlong_buffer=0),
    "gspo": GSPO(),
    "gspo_token": GSPOToken(),
    "luspo": LUSPO(),
    "rloo": RLOO(),
    "cispo": CISPO(),
    "sapo": SAPO(),
    "vespo": VESPO(),
    "gmpo": GMPO(),
    "reinforce_pp_baseline": ReinforcePPBaseline(),
}
MEMBERS = pytest.mark.parametrize("name", FAMILY)


# every cell against TRL


def rollout(*, unscored: bool, seed: int = 0) -> Batch:
    """Groups of four with tool tokens inside, every third row cut off by the limit, the others ended by token 1."""
    generator = torch.Generator().manual_seed(seed)
    batch = random_batch(generator, prompts=3, rows=(GROUP, GROUP), length=(1, 9))
    truncated = torch.arange(batch.num_rows) % 3 == 0
    last = torch.zeros_like(batch.loss_mask).scatter(1, batch.lengths[:, None] - 1, True)
    rewards = torch.rand(batch.num_rows, generator=generator, dtype=torch.float64)
    if unscored:
        rewards[[1, 4, 5]] = NAN
    shape = batch.completion_ids.shape
    logps = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    return replace(
        batch,
        completion_ids=torch.where(last & ~truncated[:, None], 1, batch.completion_ids),
        truncated=truncated,
        rewards=rewards,
        max_completion_length=LIMIT,
        old_logps=logps,
        ref_logps=logps + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def rolled_by_trl(batch: Batch, trainer: Any) -> dict[str, Any]:
    """What TRL's trainer makes of the rollout before its loss; rewards in float64."""
    rows = [ids[mask].tolist() for ids, mask in zip(batch.completion_ids, batch.completion_mask, strict=True)]
    tools = [known[mask].long().tolist() for known, mask in zip(batch.loss_mask, batch.completion_mask, strict=True)]
    sampled = {"prompt_ids": [[7]] * len(rows), "completion_ids": rows, "logprobs": [[0.0] * len(row) for row in rows]}
    sampled["env_mask"] = tools
    assert batch.rewards is not None
    rewards = batch.rewards[:, None]
    trainer.rollout_func = lambda prompts, trainer: sampled
    trainer._calculate_rewards = lambda *_: rewards
    return trainer._generate_and_score_completions([{"prompt": "a"}] * len(rows))


@cache
def trl_trainer(folder: str) -> Any:
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    model, tokenizer = build("llama")
    args = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_dropout=True,
        report_to="none",
        per_device_train_batch_size=GROUP,
        num_generations=GROUP,
        max_completion_length=LIMIT,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=tokenizer,
        rollout_func=lambda prompts, trainer: {},
    )


def trl_loss(
    logps: torch.Tensor, batch: Batch, rolled: dict[str, Any], loss_type: str, level: str, penalty: KLEstimator | None
) -> torch.Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    args = SimpleNamespace(
        delta=None,
        use_bias_correction_kl=penalty == "rho_k3",
        steps_per_generation=1,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
    )
    me = trl_stub(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=EPSILON,
        epsilon_high=1.2 if loss_type == "cispo" else EPSILON_HIGH,
        beta=BETA if penalty else 0.0,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        args=args,
    )
    inputs = {
        **{key: rolled[key] for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")},
        "tool_mask": rolled["tool_mask"],
        "advantages": rolled["advantages"].to(logps.dtype),
        "num_items_in_batch": (rolled["completion_mask"] * rolled["tool_mask"]).sum(),
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
    }
    return GRPOTrainer._compute_loss(me, None, inputs)


def expected(
    logps: torch.Tensor, batch: Batch, rolled: dict[str, Any], loss_type: str, level: str, penalty: KLEstimator | None
) -> torch.Tensor:
    """TRL's number, but for the KL times the ratio of a whole sequence (trl#6586): ours has that of the token.

    The ratio of a sequence would scale the KL of a token by what its neighbours did. TRL's own numbers of the token
    level give what is added in its place.
    """
    if level == "token" or penalty != "rho_k3":
        return trl_loss(logps, batch, rolled, loss_type, level, penalty)
    added = trl_loss(logps, batch, rolled, loss_type, "token", penalty)
    added = added - trl_loss(logps, batch, rolled, loss_type, "token", None)
    return trl_loss(logps, batch, rolled, loss_type, level, None) + added


def made(loss_type: str, level: Level, **more: Any) -> GroupRelative:
    """The algorithm that has TRL's `loss_type`; `bnpo` is `dapo` where a step is one micro-batch, and ours always."""
    bounds: dict[str, Any] = {"epsilon": EPSILON, "epsilon_high": EPSILON_HIGH, "importance_sampling_level": level}
    match loss_type:
        case "cispo":
            return CISPO(epsilon_high=1.2, importance_sampling_level=level, **more)
        case "sapo":
            return SAPO(importance_sampling_level=level, **more)
        case "vespo":
            return VESPO(**more)
    reductions = {"grpo": "row_mean", "luspo": "row_sum", "dr_grpo": "constant"}
    kind = {"luspo": LUSPO, "dr_grpo": DrGRPO}.get(loss_type, GRPO)
    return kind(reduction=reductions.get(loss_type, "token_mean"), **bounds, **more)  # type: ignore[arg-type]


def cells() -> Iterator[tuple[Scale, KLEstimator | None, bool, bool, torch.dtype]]:
    return itertools.product(SCALES, PENALTIES, (False, True), (False, True), (torch.float32, torch.float64))


def as_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    names = ("rewards", "old_logps", "ref_logps", "advantages")
    return replace(batch, **{name: tensor.to(dtype) for name in names if (tensor := getattr(batch, name)) is not None})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trl")


@pytest.mark.oracle
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_of_every_cell_equal_trl(
    loss_type: str, level: Level, folder: Path, certify: Certify
) -> None:
    """Loss type x ratio level x reward scaling x KL x truncated masking x None rewards, in float32 and float64."""
    if level == "sequence" and loss_type in ("bnpo", "dr_grpo", "dapo"):
        with pytest.raises(ValidationError, match="long rows outweigh short ones"):
            made(loss_type, level)
        return
    trainer = trl_trainer(str(folder))
    for scale, penalty, masked, unscored, dtype in cells():
        batch = rollout(unscored=unscored)
        trainer.scale_rewards, trainer.mask_truncated_completions = scale, masked
        rolled = rolled_by_trl(batch, trainer)
        beta: dict[str, Any] = {"beta": BETA, "kl_estimator": penalty} if penalty else {"beta": 0}
        algorithm = made(loss_type, level, scale_rewards=scale, mask_truncated_completions=masked, **beta)
        assert batch.old_logps is not None
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(batch.old_logps.shape, generator=generator, dtype=torch.float64)
        logps = (batch.old_logps + 0.3 * noise).to(dtype)
        credited = algorithm.credit(batch, {})[0]
        assert credited.advantages is not None
        seen = (rolled["completion_mask"] * rolled["tool_mask"]).bool()
        assert torch.equal(credited.loss_mask, seen)
        advantages = rolled["advantages"][:, None] * seen
        # TRL's n / (n - 1) inside its std is a float32 whatever the rewards are.
        torch.testing.assert_close(credited.advantages, advantages, atol=1e-7 if scale != "none" else 1e-15, rtol=0)
        credited = as_dtype(replace(credited, advantages=advantages), dtype)
        wanted = theirs(
            lambda leaf, b=credited, r=rolled, p=penalty: expected(leaf, b, r, loss_type, level, p), credited, logps
        )
        certify(algorithm.name, "oracle", *equal(ours(algorithm, credited, logps), wanted, dtype))


@pytest.mark.oracle
def test_an_unscored_row_leaves_the_denominator_too_where_trl_counts_it(folder: Path) -> None:
    """A row without a reward says nothing, so the loss is TRL's of the other rows; TRL divides by all of them.

    `Rollouts` drops the row after credit; here 3 of 12 rows have no reward, and TRL's loss is 9 / 12 of ours.
    """
    batch = rollout(unscored=True)
    trainer = trl_trainer(str(folder))
    trainer.scale_rewards, trainer.mask_truncated_completions = "group", False
    rolled = rolled_by_trl(batch, trainer)
    algorithm = made("grpo", "token", beta=0)
    assert batch.rewards is not None
    assert batch.old_logps is not None
    logps = batch.old_logps + 0.05
    credited = algorithm.credit(batch, {})[0]
    kept = ~batch.rewards.isnan()
    scored = credited.select(kept)
    loss, _ = ours(algorithm, scored, logps[kept, : scored.completion_ids.shape[1]])
    assert float(loss) * 9 / 12 == pytest.approx(float(trl_loss(logps, credited, rolled, "grpo", "token", None)))


@pytest.mark.oracle
def test_bnpo_is_a_mean_over_the_step_where_trl_takes_one_of_each_micro_batch(folder: Path) -> None:
    """TRL's number depends on how the step is cut; ours is TRL's of the uncut step."""
    batch = rollout(unscored=False)
    trainer = trl_trainer(str(folder))
    trainer.scale_rewards, trainer.mask_truncated_completions = "group", False
    rolled = rolled_by_trl(batch, trainer)
    algorithm = made("bnpo", "token", beta=0)
    credited = algorithm.credit(batch, {})[0]
    assert batch.old_logps is not None
    logps = batch.old_logps + 0.05 * torch.arange(batch.num_rows)[:, None]

    def whole(piece: slice) -> float:
        cut = {key: value[piece] for key, value in rolled.items() if torch.is_tensor(value) and value.dim()}
        part = replace(credited, old_logps=batch.old_logps[piece], ref_logps=None)  # type: ignore[index]
        return float(trl_loss(logps[piece], part, cut, "bnpo", "token", None))

    loss = float(ours(algorithm, credited, logps)[0])
    assert loss == pytest.approx(whole(slice(None)))
    assert loss != pytest.approx((whole(slice(0, 6)) + whole(slice(6, None))) / 2, rel=1e-2)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("penalty", [None, "k3"])
@pytest.mark.parametrize("seed", range(4))
def test_gmpo_equals_trl(seed: int, penalty: KLEstimator | None, dtype: torch.dtype, certify: Certify) -> None:
    """TRL's KL is the plain k3; `rho_k3` is checked as a gradient of the exact KL."""
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    batch, logps = drawn(seed, None, dtype)
    beta: dict[str, Any] = {"beta": BETA, "kl_estimator": penalty} if penalty else {}
    algorithm = GMPO(epsilon=0.2, epsilon_high=0.3, **beta)
    batch = algorithm.credit(batch, {})[0]
    assert batch.advantages is not None
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": rows,
        "prompt_mask": rows,
        "completion_ids": batch.completion_ids,
        "completion_mask": batch.loss_mask.long(),
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.old_logps,
        "ref_per_token_logps": batch.ref_logps,
    }

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
            epsilon_low=0.2,
            epsilon_high=0.3,
            beta=algorithm.beta,
            top_entropy_quantile=1.0,
            current_gradient_accumulation_steps=1,
        )
        return GMPOTrainer._compute_loss(me, None, inputs)

    certify("gmpo", "oracle", *equal(ours(algorithm, batch, logps), theirs(loss, batch, logps), dtype))


# derived by hand


def one_row(log_ratios: list[float], advantage: float, **more: Any) -> tuple[Batch, torch.Tensor]:
    """A completion whose log-probs have moved by `log_ratios` from -2 each, and those log-probs."""
    length = len(log_ratios)
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(1, 1), length=(length, length))
    old = torch.full((1, length), -2.0, dtype=torch.float64)
    batch = replace(batch, loss_mask=batch.completion_mask, old_logps=old, advantages=torch.full_like(old, advantage))
    return replace(batch, **more), old + torch.tensor([log_ratios], dtype=torch.float64)


@pytest.mark.maths
@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.5), (1.0, 1.0), (7.0, 5.0)])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_caps_the_weight_of_a_token_and_never_its_gradient(
    ratio: float, weight: float, advantage: float, certify: Certify
) -> None:
    """Cap 5: - weight x A x log pi, and d / d log pi = - weight x A, for gains and losses alike."""
    log_ratio = float(torch.tensor(ratio, dtype=torch.float64).log())
    loss, gradient = ours(CISPO(), *one_row([log_ratio], advantage))
    assert float(loss) == pytest.approx(-weight * advantage * (log_ratio - 2))
    assert float(gradient) == pytest.approx(-weight * advantage)
    certify("cispo", "golden", [loss, gradient], [-weight * advantage * (log_ratio - 2), -weight * advantage])


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "loss"), [(1.0, -2.489837), (-1.0, 2.393585)])
def test_sapo_gates_gains_and_losses_at_their_own_temperature(advantage: float, loss: float, certify: Certify) -> None:
    """rho 1.5. A = 1: 4 sigma(.5) = 2.489837; A = -1: (4 / 1.05) sigma(.525) = 2.393585.

    The slope is rho sech^2-like: d / d log pi = - 4 s (1 - s) rho A, with s the sigmoid.
    """
    batch, logps = one_row([float(torch.tensor(1.5, dtype=torch.float64).log())], advantage)
    found, gradient = ours(SAPO(), batch, logps)
    assert float(found) == pytest.approx(loss, abs=1e-6)
    gate = 1 / (1 + 2.718281828459045 ** (-(1.0 if advantage > 0 else 1.05) * 0.5))
    assert float(gradient) == pytest.approx(-4 * gate * (1 - gate) * 1.5 * advantage)
    certify("sapo", "golden", [found, gradient], [loss, -4 * gate * (1 - gate) * 1.5 * advantage])


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "phi"), [(1.0, 0.790289), (-1.0, 1.158313)])
def test_vespo_weighs_a_completion_by_a_bump_around_ratio_1(advantage: float, phi: float, certify: Certify) -> None:
    """w = 1.2 of two tokens, 1.5 and .8. A >= 0: 1.2^2 e^{-.6}; A < 0: 1.2^3 e^{-.4}. d / d log pi = - phi A / 2."""
    moved = torch.tensor([1.5, 0.8], dtype=torch.float64).log().tolist()
    loss, gradient = ours(VESPO(), *one_row(moved, advantage))
    assert float(loss) == pytest.approx(-phi * advantage * (sum(moved) - 4) / 2, abs=1e-5)
    torch.testing.assert_close(gradient, torch.full_like(gradient, -phi * advantage / 2), atol=1e-5, rtol=0)
    slopes = torch.full_like(gradient, -phi * advantage / 2)
    certify("vespo", "golden", [loss, gradient], [-phi * advantage * (sum(moved) - 4) / 2, slopes])


@pytest.mark.maths
def test_vespo_is_bounded_however_far_a_completion_has_moved() -> None:
    """log w = 40 is taken as 20 and phi vanishes; -40 is taken as log 1e-8: phi = 1e-16 e^3."""
    for moved, phi in ((40.0, 0.0), (-40.0, 1e-16 * 20.085537)):
        loss, _ = ours(VESPO(), *one_row([moved], 1.0))
        assert float(loss) == pytest.approx(-phi * (moved - 2), abs=1e-20)


@pytest.mark.maths
@pytest.mark.parametrize(("advantage", "mean", "slopes"), [(1.0, 0.1, [0, 1, 1]), (-1.0, 0.4 / 3, [1, 1, 1])])
def test_gmpo_clips_each_token_and_then_takes_the_geometric_mean(
    advantage: float, mean: float, slopes: list[int], certify: Certify
) -> None:
    """Delta = [.5, -.1, 0], bounds +-.4. A > 0 holds .5 at .4: e^{.3 / 3} = 1.105171; A < 0 does not: e^{.4 / 3}.

    A token that is held gets no gradient, the others coefficient x A / 3 each.
    """
    loss, gradient = ours(GMPO(), *one_row([0.5, -0.1, 0.0], advantage))
    coefficient = 2.718281828459045**mean
    assert coefficient == pytest.approx(1.105171 if advantage > 0 else 1.142631, abs=1e-6)
    assert float(loss) == pytest.approx(-coefficient * advantage)
    wanted = -coefficient * advantage / 3 * torch.tensor([slopes], dtype=torch.float64)
    torch.testing.assert_close(gradient, wanted)
    certify("gmpo", "golden", [loss, gradient], [-coefficient * advantage, wanted])


@pytest.mark.maths
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dapo", 0.8),
        ("cispo", 0.8),
        ("grpo", 4 / 3),
        ("gspo", 4 / 3),
        ("gspo_token", 4 / 3),
        ("rloo", 4 / 3),
        ("luspo", 8 / 3),
        ("dr_grpo", 1 / 3),
    ],
)
def test_what_a_token_counts(name: str, loss: float, certify: Certify) -> None:
    """Golden 11. Tokens that cost 1, 1 | 0 six times | 3, 3: sum 8.

    Over 10 tokens .8; row means 1, 0, 3 over 3 rows 4/3, and so is one ratio a row; row sums over 3 rows 8/3; over 3
    times the limit of 8 tokens 1/3. At ratio 1 a token costs - A; of CISPO, whose ratio is a weight, - A log pi.
    """
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(3, 3), length=(6, 6))
    mask = torch.arange(6) < torch.tensor([[2], [6], [2]])
    old = torch.full((3, 6), -1.0, dtype=torch.float64)
    sign = 1.0 if name == "cispo" else -1.0
    costs = torch.tensor([[1.0], [0.0], [3.0]], dtype=torch.float64) * mask
    batch = replace(batch, completion_mask=mask, loss_mask=mask, old_logps=old, advantages=sign * costs)
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    found, _ = ours(algorithm, replace(batch, max_completion_length=8), old)
    assert float(found) == pytest.approx(loss)
    certify(name, "golden", found, loss)


@pytest.mark.maths
def test_luspo_is_gspo_times_the_length_of_the_row(certify: Certify) -> None:
    """Mean log-ratio .005 over 3 tokens, A = -1: 3 x 1.005013."""
    loss, _ = ours(LUSPO(), *one_row([0.02, -0.01, 0.005], -1.0))
    assert float(loss) == pytest.approx(3 * 1.005013, abs=1e-5)
    certify("luspo", "golden", loss, 3 * 1.005013)


@pytest.mark.maths
@pytest.mark.parametrize(
    ("estimator", "term"),
    [("rho_k3", 1.1 * 0.004837), ("k3", 0.004837), ("k2", 0.005), ("k1", 0.0)],
)
def test_the_kl_in_the_loss(estimator: KLEstimator, term: float, certify: Certify) -> None:
    """x = log pi - log ref = .1, rho 1.1, beta 2: 2 x the estimate; k1 is in the reward and not here."""
    log_ratio = float(torch.tensor(1.1, dtype=torch.float64).log())
    ref = torch.full((1, 1), -2 + log_ratio - 0.1, dtype=torch.float64)
    loss, _ = ours(GRPO(beta=2, kl_estimator=estimator), *one_row([log_ratio], 0.0, ref_logps=ref))
    assert float(loss) == pytest.approx(2 * term, abs=1e-6)
    certify("grpo", "golden", loss, 2 * term)


@pytest.mark.maths
def test_k1_is_summed_over_a_completion_and_taken_off_its_reward(certify: Certify) -> None:
    """beta .5, k1 = (.2, .4) and (.2, 9): R = [1, 0] becomes [.7, -.1]; a tool's token has a KL of 9 and pays nothing.

    The mean is .3: advantages .4 and -.4.
    """
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(2, 2), length=(2, 2))
    old = torch.full((2, 2), -2.0, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=torch.tensor([[True, True], [True, False]]),
        old_logps=old,
        ref_logps=old - torch.tensor([[0.2, 0.4], [0.2, 9.0]], dtype=torch.float64),
        rewards=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    algorithm = GRPO(beta=0.5, kl_estimator="k1", scale_rewards="none")
    credited = algorithm.credit(batch, {})[0]
    assert credited.advantages is not None
    torch.testing.assert_close(credited.advantages, torch.tensor([[0.4, 0.4], [-0.4, 0.0]], dtype=torch.float64))
    certify("grpo", "golden", credited.advantages, [[0.4, 0.4], [-0.4, 0.0]])


@pytest.mark.maths
@MEMBERS
def test_the_kl_of_whole_completions_is_shown_once_a_rollout(name: str, certify: Certify) -> None:
    """k1 = (.2, .4) and (.2): sums .6 and .2, mean .4; a row without a reward and a tool's token do not count."""
    batch = random_batch(torch.Generator().manual_seed(0), prompts=1, rows=(3, 3), length=(2, 2))
    old = torch.full((3, 2), -2.0, dtype=torch.float64)
    batch = replace(
        batch,
        loss_mask=torch.tensor([[True, True], [True, False], [True, True]]),
        old_logps=old,
        ref_logps=old - torch.tensor([[0.2, 0.4], [0.2, 9.0], [5.0, 5.0]], dtype=torch.float64),
        rewards=torch.tensor([1.0, 0.0, NAN], dtype=torch.float64),
    )
    kind = type(FAMILY[name])
    more: dict[str, Any] = {"overlong_buffer": 0} if name == "dapo" else {}
    algorithm = kind(beta=0.1, **more)
    shown = algorithm.rollout_metrics(algorithm.credit(batch, {})[0], {})
    assert values(shown) == {"kl/sequence_sum": pytest.approx(0.4)}
    certify(name, "golden", values(shown), {"kl/sequence_sum": 0.4})
    assert not kind(beta=0, **more).rollout_metrics(batch, {})


# gradients by enumeration


VOCABULARY = 3


def every_answer(seed: int) -> tuple[torch.Tensor, Batch, torch.Tensor, torch.Tensor]:
    """All answers of two tokens: logits (1 + V, V) of a policy, the batch, a reference's logits, how likely each is."""
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (
        torch.randn(1 + VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    answers = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=2)))
    batch = random_batch(generator, prompts=1, rows=(len(answers), len(answers)), length=(2, 2))
    old = logps_of(logits, answers)
    batch = replace(
        batch,
        completion_ids=answers,
        completion_mask=torch.ones_like(answers).bool(),
        loss_mask=torch.ones_like(answers).bool(),
        old_logps=old,
        ref_logps=logps_of(reference, answers),
        advantages=torch.zeros_like(old),
    )
    return logits, batch, reference, old.sum(1).exp()


def logps_of(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    tables = logits.log_softmax(-1)
    return torch.stack([tables[0][answers[:, 0]], tables[1 + answers[:, 0], answers[:, 1]]], 1)


def differentiated(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


def step_by_step(logits: torch.Tensor, reference: torch.Tensor, *, backwards: bool = False) -> torch.Tensor:
    """The KL of each next token, summed over the prefixes that the policy reaches, which are held fixed."""
    policy, other = logits.log_softmax(-1), reference.log_softmax(-1)
    left, right = (other, policy) if backwards else (policy, other)
    reached = torch.cat([torch.ones(1, dtype=torch.float64), policy[0].exp()]).detach()
    return (reached * (left.exp() * (left - right)).sum(1)).sum()


@pytest.mark.maths
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("estimator", "backwards"), [("rho_k3", False), ("k2", False), ("k3", True)])
@pytest.mark.parametrize("made", [GRPO, GSPO, GMPO, CISPO, SAPO, VESPO])
def test_a_kl_in_the_loss_has_the_gradient_that_it_is_said_to_have(
    made: type[GroupRelative], estimator: KLEstimator, backwards: bool, seed: int, certify: Certify
) -> None:
    """Summed over every answer, each weighed by how likely it is: KL(policy to reference), of plain k3 the other one.

    The ratio beside k3 is the token's own, whatever ratio the objective has.
    """
    logits, batch, reference, probability = every_answer(seed)
    leaf = logits.clone().requires_grad_()
    logps = logps_of(leaf, batch.completion_ids)
    algorithm = made(beta=1, kl_estimator=estimator, reduction="row_sum")
    total = torch.zeros((), dtype=torch.float64)
    for row in range(batch.num_rows):
        part = batch.select(torch.tensor([row]))
        outputs = Outputs(logps=logps[row : row + 1], readouts={"entropy": torch.zeros(1, 2)})
        total = total + probability[row] * algorithm.loss(part, outputs).terms["policy"]
    wanted = differentiated(step_by_step(leaf, reference, backwards=backwards), leaf)
    found = differentiated(total, leaf)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    certify(algorithm.name, "golden", found, wanted)


@pytest.mark.maths
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("made", [RLOO, GRPO, SAPO, CISPO, VESPO])
def test_k1_in_the_reward_has_the_gradient_of_the_kl_of_completions(
    made: type[GroupRelative], seed: int, certify: Certify
) -> None:
    """Every pair of answers is a group, as likely as the two together; rewards are 0.

    In expectation the other answer is a constant, so what is left is beta x the gradient of KL(policy to reference) of
    whole answers, which also sees that the prefixes change. The mean of a group of two is half of that.
    """
    logits, batch, reference, probability = every_answer(seed)
    pairs = torch.tensor(list(itertools.product(range(batch.num_rows), repeat=2)))
    rows = pairs.flatten()
    leaf = logits.clone().requires_grad_()
    grouped = replace(
        batch,
        **{name: getattr(batch, name)[rows] for name in ("completion_ids", "completion_mask", "loss_mask")},
        old_logps=batch.old_logps[rows],  # type: ignore[index]
        ref_logps=batch.ref_logps[rows],  # type: ignore[index]
        prompt_of=torch.zeros_like(rows),
        group_of=torch.arange(len(pairs)).repeat_interleave(2),
        rewards=torch.zeros(len(rows), dtype=torch.float64),
        row_ids=("",) * len(rows),
        advantages=None,
    )
    algorithm = made(beta=1, kl_estimator="k1", scale_rewards="none", num_generations=2)
    grouped = algorithm.credit(grouped, {})[0]
    loss, _ = algorithm.objective(logps_of(leaf, grouped.completion_ids), grouped)
    per_row = loss.mean(1) if made is RLOO else loss.sum(1)  # the reduction of each
    total = (probability[pairs].prod(1).repeat_interleave(2) * per_row).sum() / 2
    policy, other = (logps_of(each, batch.completion_ids).sum(1) for each in (leaf, reference))
    exact = differentiated((policy.exp() * (policy - other)).sum(), leaf)
    share = 1.0 if made is RLOO else 0.5
    found = differentiated(total, leaf)
    torch.testing.assert_close(found, share * exact, atol=1e-12, rtol=0)
    certify(algorithm.name, "golden", found, share * exact)


# properties


def credited(algorithm: Algorithm, batch: Batch) -> Batch:
    return algorithm.credit(batch, {})[0]


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_equal_rewards_give_no_advantage_and_no_gradient(name: str, seed: int) -> None:
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = drawn(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, rewards=torch.full((batch.num_rows,), 0.3, dtype=torch.float64)))
    assert batch.advantages is not None
    assert not batch.advantages.any()
    assert not algorithm.active(batch).any()
    assert not ours(algorithm, batch, logps)[1].any()


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_at_ratio_1_the_gradient_is_that_of_reinforce(name: str, seed: int) -> None:
    """d loss / d log pi_t = - A / (what the reduction divides by); VESPO, CISPO and GMPO included."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = drawn(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, old_logps=logps))
    assert batch.advantages is not None
    rows, lengths = batch.num_rows, batch.loss_mask.sum(1)[:, None]
    divisors: dict[str, torch.Tensor | float] = {
        "row_mean": rows * lengths,
        "row_sum": rows,
        "token_mean": batch.loss_mask.sum(),
        "constant": rows * batch.max_completion_length,
    }
    # A row's gradient by a product of ratios is A for each token; by their geometric mean A / length.
    divisor = divisors[algorithm.reduction] if name != "rloo" else rows
    divisor = divisor if name != "luspo" else rows
    _, gradient = ours(algorithm, batch, logps)
    torch.testing.assert_close(gradient, -batch.advantages / divisor)


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_what_is_not_trained_changes_nothing(name: str, seed: int) -> None:
    """Any number in a column that is not trained, NaN included, leaves loss and gradient as they were."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.1})
    batch, logps = drawn(seed, None, torch.float64)
    trained = random_batch(torch.Generator().manual_seed(seed), rows=(2, 4), length=(1, 9)).loss_mask
    batch = replace(batch, loss_mask=trained)
    spoilt = replace(
        batch,
        old_logps=batch.old_logps.masked_fill(~trained, NAN),  # type: ignore[union-attr]
        ref_logps=batch.ref_logps.masked_fill(~trained, NAN),  # type: ignore[union-attr]
    )
    batch, spoilt = credited(algorithm, batch), credited(algorithm, spoilt)
    torch.testing.assert_close(spoilt.advantages, batch.advantages, atol=0, rtol=0)
    loss, gradient = ours(algorithm, batch, logps)
    other, found = ours(algorithm, spoilt, logps)
    assert other == loss
    torch.testing.assert_close(found[trained], gradient[trained], atol=0, rtol=0)


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31))
def test_a_step_against_the_gradient_makes_the_better_answer_likelier(name: str, seed: int) -> None:
    """On the weights that sampled, every token of a row with A > 0 is pushed up, and of one with A < 0 down."""
    algorithm = FAMILY[name].model_copy(update={"beta": 0.0})
    batch, logps = drawn(seed, None, torch.float64)
    batch = credited(algorithm, replace(batch, old_logps=logps))
    assert batch.advantages is not None
    _, gradient = ours(algorithm, batch, logps)
    assert torch.equal(gradient.sign(), -batch.advantages.sign())


@MEMBERS
@FEW
@given(seed=st.integers(0, 2**31), data=st.data())
def test_the_order_of_groups_and_of_their_rows_changes_no_advantage(name: str, seed: int, data: st.DataObject) -> None:
    algorithm = FAMILY[name]
    batch, _ = drawn(seed, None, torch.float64)
    groups = data.draw(st.permutations(range(batch.num_groups)))
    order = torch.cat([torch.tensor(data.draw(st.permutations(range(batch.num_rows))))])
    order = torch.cat([order[batch.group_of[order] == group] for group in groups])
    shuffled = replace(
        batch,
        group_of=torch.repeat_interleave(torch.arange(len(groups)), batch.group_of.bincount()[list(groups)]),
        rewards=batch.rewards[order],  # type: ignore[index]
        loss_mask=batch.loss_mask[order],
        old_logps=batch.old_logps[order],  # type: ignore[index]
        ref_logps=batch.ref_logps[order],  # type: ignore[index]
    )
    before, after = credited(algorithm, batch).advantages, credited(algorithm, shuffled).advantages
    assert before is not None
    torch.testing.assert_close(after, before[order], atol=1e-12, rtol=0)


@MEMBERS
def test_a_row_whose_tokens_are_all_masked_counts_and_costs_nothing(name: str) -> None:
    algorithm = FAMILY[name].model_copy(update={"mask_truncated_completions": True, "beta": 0.1})
    batch, logps = drawn(0, None, torch.float64)
    cut = torch.arange(batch.num_rows) == 1
    batch = credited(algorithm, replace(batch, truncated=cut))
    assert not algorithm.active(batch)[1]
    assert float(count(algorithm.units(), batch)["policy"]) == (
        float(batch.loss_mask.sum()) if algorithm.reduction == "token_mean" else batch.num_rows
    )
    _, gradient = ours(algorithm, batch, logps)
    assert not gradient[1].any()
    assert gradient[~cut].any()


@MEMBERS
def test_metrics_of_the_kl_are_there_where_a_reference_is_kept(name: str) -> None:
    batch, logps = drawn(0, None, torch.float64)
    for beta in (0.0, 0.1):
        algorithm = FAMILY[name].model_copy(update={"beta": beta})
        assert ("reference" in algorithm.requires()) == bool(beta)
        shown = values(
            algorithm.loss(
                credited(algorithm, batch), Outputs(logps=logps, readouts={"entropy": torch.zeros_like(logps)})
            ).metrics
        )
        assert batch.ref_logps is not None
        exact = float(k3(logps, batch.ref_logps)[batch.loss_mask].mean())
        assert shown.get("kl") == (pytest.approx(exact) if beta else None)


# it learns


def lower(completions: list[str], **columns: Any) -> list[float]:
    """The share of lower-case letters."""
    return [sum("a" <= letter <= "z" for letter in text) / max(len(text), 1) for text in completions]


@pytest.mark.parametrize("name", ["rloo", "cispo", "sapo", "vespo", "gmpo", "reinforce_pp", "reinforce_pp_baseline"])
def test_a_tiny_model_learns(name: str) -> None:
    stage = rung.train(
        registry.algorithm({"name": name, "num_generations": 8}),
        model="tiny:llama",
        data=[{"prompt": f"number {i}"} for i in range(4)],
        rewards=lower,
        rollout={"batch_size": 4, "max_completion_length": 4},
        updates={"minibatches": 1},
        learning_rate=2e-2,
        max_steps=8,
    )
    rewards = [float(stage.source.pop_report()[0]["reward"].value() or 0) for _ in stage]
    assert sum(rewards[-2:]) > 1.5 * sum(rewards[:2])


def test_what_tells_objectives_apart_is_trained_off_policy() -> None:
    for name in ("cispo", "sapo", "vespo", "gmpo", "luspo"):
        for size in ("tiny", "small", "large"):
            assert resolve(load_config(name), size).stages[0].updates.minibatches == 4
        assert any("one update a rollout" in note for note in FAMILY[name].notes(1))
        assert not FAMILY[name].notes(4)

"""What a loss shows beside itself: shares and means counted by hand, over trained tokens, rows or pairs."""

from collections.abc import Sequence
from math import exp, log, log1p, sqrt
from typing import Any

import pytest
import torch

from rung.batch import Batch, Outputs
from rung.config.algorithms import algorithm_classes
from rung.metrics import values

pytestmark = pytest.mark.maths
CLASSES = algorithm_classes()
Rows = Sequence[Sequence[float]]


def tensor(rows: Rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def part(mask: Sequence[str], *, group: int = 1, **fields: Any) -> Batch:
    """Rows whose tokens are trained where `mask` has an x; `group` rows are one."""
    trained = torch.tensor([[mark == "x" for mark in row] for row in mask])
    rows = torch.arange(len(mask))
    nothing = torch.zeros(trained.shape, dtype=torch.long)
    return Batch(
        prompt_ids=torch.ones(len(mask), 1, dtype=torch.long),
        prompt_mask=torch.ones(len(mask), 1, dtype=torch.bool),
        prompt_of=rows,
        group_of=rows // group,
        completion_ids=nothing,
        completion_mask=nothing == 0,
        loss_mask=trained,
        row_ids=tuple(map(str, rows.tolist())),
        max_completion_length=4,
        **fields,
    )


def shown(
    name: str, batch: Batch, logps: Rows, settings: dict[str, Any] | None = None, **outputs: Any
) -> dict[str, float]:
    """The metrics of a loss; every token has the entropy .5 but the first, .75, and the largest log-prob is -.5."""
    logps_ = tensor(logps)
    entropy = torch.full_like(logps_, 0.5)
    entropy[0, 0] = 0.75
    readouts = {"entropy": entropy, "top_logp": torch.full_like(logps_, -0.5)}
    algorithm = CLASSES[name].model_validate(settings or {})
    return values(algorithm.loss(batch, Outputs(logps=logps_, readouts=readouts, **outputs)).metrics)


# of ratios: log pi_old is 0, so log pi is the log-ratio; the last token is not trained

FELL = [(0.4, advantage) for advantage in (-1, -1, -1, 0, 1)]
ROSE = [(2, advantage) for advantage in (-1, 0, 1, 1, 1, 1, 1)]
MOVED = [(1, 1), *FELL, *ROSE, (1, -1), (9, 9)]
RATIOS = [[log(ratio) for ratio, _ in MOVED]]
ADVANTAGES = tensor([[advantage for _, advantage in MOVED]])
CLIPPED = {
    "clip_ratio/low_mean": 3 / 14,  # fell and should fall
    "clip_ratio/high_mean": 5 / 14,  # rose and should rise
    "clip_ratio/region_mean": 8 / 14,
    "entropy": (0.75 + 13 * 0.5) / 14,
}


def moved(**fields: Any) -> Batch:
    return part(["x" * 14 + "."], advantages=ADVANTAGES, old_logps=torch.zeros_like(ADVANTAGES), **fields)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"beta": 0}),
        ("grpo", {"beta": 0, "delta": 5}),
        ("reinforce_pp", {"beta": 0}),
        ("gmpo", {}),
        ("dapo", {}),
    ],
)
def test_a_token_counts_as_clipped_where_the_bound_takes_its_gradient(name: str, settings: dict[str, Any]) -> None:
    assert shown(name, moved(), RATIOS, settings) == pytest.approx(CLIPPED)


def test_a_critic_adds_the_share_of_values_beyond_their_range() -> None:
    """V_old 0, range .25: .5 and -.5 are beyond, .25 and -.25 on the bound and within; the last is not trained."""
    values_ = tensor([[0.5, -0.5, 0.25, -0.25, *[0] * 10, 9]])
    nothing = torch.zeros_like(values_)
    found = shown(
        "ppo",
        moved(values=nothing, returns=nothing),
        RATIOS,
        {"beta": 0, "cliprange_value": 0.25},
        values=values_,
    )
    assert found == pytest.approx({**CLIPPED, "clip_ratio/value_mean": 2 / 14})


@pytest.mark.parametrize(
    ("name", "settings", "logps", "advantage"),
    [
        ("gmpo", {"epsilon": 0.5}, -0.5, -1.0),
        ("gmpo", {"epsilon": 0.5}, 0.5, 1.0),
        ("grpo", {"beta": 0, "epsilon": 0.5}, log(0.5), -1.0),
        ("grpo", {"beta": 0, "epsilon": 0.5, "epsilon_high": 1.0}, log(2), 1.0),
        ("reinforce_pp", {"beta": 0, "epsilon": 0.5}, log(0.5), -1.0),
    ],
)
def test_a_token_on_its_bound_is_not_clipped(
    name: str, settings: dict[str, Any], logps: float, advantage: float
) -> None:
    one = tensor([[advantage]])
    found = shown(name, part(["x"], advantages=one, old_logps=torch.zeros_like(one)), [[logps]], settings)
    assert found["clip_ratio/region_mean"] == 0


KL = (0.1 + exp(-0.1) - 1 + (-0.2 + exp(0.2) - 1)) / 2  # k3 of .1 and -.2: (.004837 + .021403) / 2


@pytest.mark.parametrize(
    "name", ["grpo", "rloo", "cispo", "sapo", "gmpo", "vespo", "reinforce_pp", "reinforce_pp_baseline", "ppo"]
)
def test_the_kl_of_trained_tokens_is_k3_whatever_the_loss_is_made_of(name: str) -> None:
    row = tensor([[0.0, 0.0, 0.0]])
    batch = part(["xx."], advantages=row, old_logps=row, ref_logps=tensor([[-0.1, 0.2, 7.0]]), values=row, returns=row)
    assert shown(name, batch, row.tolist(), {"beta": 0.3}, values=row)["kl"] == pytest.approx(KL)


@pytest.mark.parametrize(("level", "share"), [("token", 2 / 5), ("sequence_sum", 3 / 5)])
def test_cispo_shows_the_share_of_tokens_beyond_the_cap_of_either_sign(level: str, share: float) -> None:
    """Cap 2. Ratios 3 and 1, 1 and the cap; 3. As products of rows: 3, 1 x 2, on the cap; 3."""
    batch = part(["xx", "xx", "x."], advantages=tensor([[1, 1], [-1, 1], [-1, -1]]), old_logps=tensor([[0, 0]] * 3))
    logps = [[log(3), 0], [0, log(2) - 1e-12], [log(3), 7]]
    settings = {"epsilon_high": 2, "importance_sampling_level": level}
    settings |= {"reduction": "row_mean"} if level != "token" else {}
    assert shown("cispo", batch, logps, settings)["cispo_clip_ratio"] == pytest.approx(share)


def test_a_token_on_the_cap_is_not_capped() -> None:
    one = tensor([[1.0]])
    batch = part(["x"], advantages=one, old_logps=one)
    assert shown("cispo", batch, one.tolist(), {"epsilon_high": 1})["cispo_clip_ratio"] == 0


@pytest.mark.parametrize(("level", "mean"), [("token", (2 + 0.5 + 3) / 3), ("sequence_sum", (1 + 1 + 3) / 3)])
def test_sapo_shows_the_mean_ratio_of_trained_tokens(level: str, mean: float) -> None:
    batch = part(["xx", "x."], advantages=tensor([[1, 1], [-1, -1]]), old_logps=tensor([[0, 0]] * 2))
    found = shown("sapo", batch, [[log(2), log(0.5)], [log(3), 7]], {"importance_sampling_level": level})
    assert found == pytest.approx({"ratio": mean, "entropy": (0.75 + 0.5 + 0.5) / 3})


def test_vespo_shows_the_mean_weight_of_trained_tokens() -> None:
    """Golden 15. w = 1.2 weighs .790289 where A >= 0 and 1.158313 where A < 0; rows of two tokens, one and one."""
    batch = part(["xx", "x.", "x."], advantages=tensor([[1, 1], [-1, -1], [0, 0]]), old_logps=tensor([[0, 0]] * 3))
    found = shown("vespo", batch, [[log(1.2), 0], [log(1.2), 7], [log(1.2), 7]])
    assert found["vespo/phi_seq_mean"] == pytest.approx((3 * 0.790289 + 1.158313) / 4, abs=1e-6)


# of pairs: three of them, of two tokens a side; the last token of the first chosen side is not trained

PAIRS = ["x.", "xx", "xx", "xx", "xx", "xx"]
LOGPS = [[-1, 7], [-1, -1], [-0.5, -0.5], [-2, -1], [-1, -2], [-1, -2]]
OBSERVED = {
    "logps/chosen": (-1 - 1 - 3) / 3,
    "logps/rejected": (-2 - 3 - 3) / 3,
    "entropy": (0.75 + 10 * 0.5) / 11,
    "mean_token_accuracy": 2 / 11,  # -.5 is the top of every token; the one of 7 is not trained
}


def pairs(**fields: Any) -> Batch:
    return part(PAIRS, group=2, **fields)


def margins(chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, float]:
    both = list(zip(chosen, rejected, strict=True))
    return {
        "rewards/chosen": sum(chosen) / 3,
        "rewards/rejected": sum(rejected) / 3,
        "rewards/accuracies": sum(a > b for a, b in both) / 3,
        "rewards/margins": sum(a - b for a, b in both) / 3,
        **OBSERVED,
    }


def test_pairs_against_a_reference_show_what_the_policy_gained_on_it() -> None:
    """log ref -1 a token: sums u = 0, 1, -1 and v = 0, -1, -1, times beta; the first and the third pair are ties."""
    batch = pairs(ref_logps=torch.full((6, 2), -1.0))
    assert shown("dpo", batch, LOGPS) == pytest.approx(margins([0, 0.1, -0.1], [0, -0.1, -0.1]))


@pytest.mark.parametrize(
    ("name", "settings", "chosen", "rejected"),
    [
        ("cpo", {}, [-0.1, -0.1, -0.3], [-0.2, -0.3, -0.3]),
        ("cpo", {"loss_type": "ipo"}, [-0.1, -0.05, -0.15], [-0.1, -0.15, -0.15]),
        ("simpo", {}, [-2, -1, -3], [-2, -3, -3]),
        ("orpo", {}, [-0.1, -0.05, -0.15], [-0.1, -0.15, -0.15]),
    ],
)
def test_pairs_without_a_reference_show_sums_or_means_of_log_probs(
    name: str, settings: dict[str, Any], chosen: list[float], rejected: list[float]
) -> None:
    """Sums -1, -1, -3 and -2, -3, -3; means -1, -.5, -1.5 and -1, -1.5, -1.5; times beta: .1, for `simpo` 2."""
    found = shown(name, pairs(), LOGPS, settings)
    assert {key: found[key] for key in found if "odds" not in key} == pytest.approx(margins(chosen, rejected))


def test_orpo_shows_the_log_odds_ratio_and_its_log_sigmoid() -> None:
    """Means -1, -.5, -1.5 against -1, -1.5, -1.5: log odds a - ln(1 - e^a) apart by d in the second pair alone."""
    d = (-0.5 - log(1 - exp(-0.5))) - (-1.5 - log(1 - exp(-1.5)))
    found = shown("orpo", pairs(), LOGPS)
    assert found["log_odds_chosen"] == pytest.approx(d / 3)
    assert found["log_odds_ratio"] == pytest.approx((-log1p(exp(-d)) - 2 * log(2)) / 3)


def test_labelled_answers_show_each_kind_by_itself() -> None:
    """beta .1. Rows: u = -1 desirable; u = -2 and -4 undesirable, the last with one token that is not trained."""
    batch = part(["xx", "xx", "x."], ref_logps=tensor([[0, 0]] * 3)).replace_extras(
        label=torch.tensor([True, False, False]), z0=torch.full((3,), 0.25)
    )
    found = shown("kto", batch, [[-0.5, -0.5], [-1, -1], [-4, 7]])
    assert found == pytest.approx(
        {
            "rewards/chosen": -0.1,
            "rewards/rejected": -0.3,
            "logps/chosen": -1,
            "logps/rejected": -3,
            "kl": 0.25,
            "entropy": (0.75 + 4 * 0.5) / 5,
        }
    )


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_fine_tuning_shows_how_often_the_trained_token_was_the_top_one(loss_type: str) -> None:
    """-.5 is the top of every token: two of three trained ones have it."""
    found = shown("sft", part(["xx", "x."]), [[-0.5, -1], [-0.5, 7]], {"loss_type": loss_type})
    assert found == pytest.approx({"mean_token_accuracy": 2 / 3, "entropy": (0.75 + 0.5 + 0.5) / 3})


def test_a_reward_model_shows_how_often_it_agrees_and_how_far_its_scores_spread() -> None:
    """Scores (2, 1), (0, 0), (-1, 1): one pair of three agrees and a tie does not."""
    found = shown("reward_model", pairs(), LOGPS, scores=tensor([[2, 1, 0, 0, -1, 1]])[0])
    assert found == pytest.approx(
        {
            "accuracy": 1 / 3,
            "margin": (1 + 0 - 2) / 3,
            "rewards/chosen": 1 / 3,
            "rewards/rejected": 2 / 3,
            "rewards/chosen_std": sqrt(((2 - 1 / 3) ** 2 + (1 / 3) ** 2 + (4 / 3) ** 2) / 2),
            "rewards/rejected_std": sqrt((2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 2),
        }
    )

"""What an algorithm is before anything is set: the presets of the papers, what each setting may be, what is counted."""

import re
from collections.abc import Mapping
from math import inf, log, nextafter
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rung.algorithm import Algorithm
from rung.algorithms.shared.group_relative import GroupRelative, num_high_entropy
from rung.algorithms.shared.pairs import chosen_tokens
from rung.batch import Batch
from rung.config.algorithms import algorithm_classes

CLASSES = algorithm_classes()
NAMES = sorted(CLASSES)
GROUP: dict[str, Any] = {
    "num_generations": 8,
    "beta": 0.0,
    "kl_estimator": "rho_k3",
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
    "credit_assignment": "trajectory",
    "reduction": "row_mean",
    "mask_truncated_completions": False,
    "importance_sampling_correction": None,
    "importance_sampling_clip_max": 3.0,
    "importance_sampling_clip_min": 0.0,
    "off_policy_mask_threshold": None,
    "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0,
}
GRPO = {
    **GROUP,
    "beta": 0.04,
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "importance_sampling_level": "token",
}
GSPO = {**GRPO, "beta": 0.0, "epsilon": 3e-4, "epsilon_high": 4e-4, "importance_sampling_level": "sequence"}
PRESETS: dict[str, dict[str, Any]] = {
    "prompt": {},
    "sft": {"loss_type": "nll", "assistant_only_loss": True},
    "reward_model": {"center_rewards_coefficient": 0.0},
    "dpo": {
        "beta": 0.1,
        "loss_type": "sigmoid",
        "loss_weights": None,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "discopop_tau": 0.05,
    },
    "kto": {"beta": 0.1, "loss_type": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "orpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "simpo_gamma": 1.0, "label_smoothing": 0.0, "cpo_alpha": 0.0},
    "cpo": {"beta": 0.1, "cpo_alpha": 1.0, "loss_type": "sigmoid", "label_smoothing": 0.0},
    "grpo": GRPO,
    "dr_grpo": {**GRPO, "beta": 0.0, "scale_rewards": "none", "reduction": "constant"},
    "dapo": {
        **GRPO,
        "num_generations": 16,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "reduction": "token_mean",
        "max_num_gen_batches": 10,
        "overlong_buffer": None,
        "overlong_factor": 1.0,
    },
    "gspo": GSPO,
    "gspo_token": {**GSPO, "importance_sampling_level": "sequence_token"},
    "luspo": {**GSPO, "reduction": "row_sum"},
    "rloo": {
        **GRPO,
        "num_generations": 4,
        "beta": 0.05,
        "kl_estimator": "k1",
        "scale_rewards": "none",
        "importance_sampling_level": "sequence_sum",
    },
    "cispo": {
        **GROUP,
        "num_generations": 16,
        "epsilon_high": 5.0,
        "scale_rewards": "batch",
        "reduction": "token_mean",
        "importance_sampling_level": "token",
    },
    "sapo": {
        **GROUP,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "importance_sampling_level": "token",
    },
    "vespo": {
        **GROUP,
        "reduction": "token_mean",
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
    },
    "gmpo": {**GROUP, "epsilon": 0.4, "epsilon_high": None},
    "reinforce_pp": {"num_generations": 1, "epsilon": 0.2, "beta": 0.01, "mask_truncated_completions": False},
    "reinforce_pp_baseline": {
        **GRPO,
        "beta": 0.01,
        "kl_estimator": "k2",
        "scale_rewards": "centred",
        "reduction": "token_mean",
    },
    "ppo": {
        "num_generations": 1,
        "epsilon": 0.2,
        "delta": None,
        "cliprange_value": 0.2,
        "vf_coef": 0.1,
        "gamma": 1.0,
        "lam": 0.95,
        "beta": 0.05,
        "kl_target": None,
        "kl_unit": None,
        "kl_horizon": 10_000,
        "whiten_rewards": False,
        "missing_eos_penalty": 0.0,
        "bootstrap_truncated": False,
    },
    "distill": {"completions": "policy", "beta": 1.0},
}

POSITIVE, FROM_0, SHARE, AT_MOST_1 = "(0, inf)", "[0, inf)", "(0, 1)", "[0, 1]"
INTERVALS = {
    "beta": FROM_0,
    "center_rewards_coefficient": FROM_0,
    "cliprange_value": POSITIVE,
    "cpo_alpha": FROM_0,
    "desirable_weight": FROM_0,
    "discopop_tau": POSITIVE,
    "entropy_coef": FROM_0,
    "epsilon": SHARE,
    "epsilon_high": POSITIVE,
    "f_alpha_divergence_coef": FROM_0,
    "gamma": AT_MOST_1,
    "importance_sampling_clip_max": POSITIVE,
    "importance_sampling_clip_min": FROM_0,
    "kl_horizon": "[1, inf)",
    "kl_target": POSITIVE,
    "label_smoothing": "[0, 0.5)",
    "lam": AT_MOST_1,
    "ld_alpha": AT_MOST_1,
    "max_num_gen_batches": FROM_0,
    "missing_eos_penalty": FROM_0,
    "num_generations": "[2, inf)",
    "off_policy_mask_threshold": POSITIVE,
    "overlong_buffer": FROM_0,
    "overlong_factor": FROM_0,
    "sapo_temperature_neg": POSITIVE,
    "sapo_temperature_pos": POSITIVE,
    "simpo_gamma": FROM_0,
    "top_entropy_quantile": "(0, 1]",
    "undesirable_weight": FROM_0,
    "vespo_k_neg": POSITIVE,
    "vespo_k_pos": POSITIVE,
    "vespo_lambda_neg": POSITIVE,
    "vespo_lambda_pos": POSITIVE,
    "vf_coef": FROM_0,
    **dict.fromkeys((f"{name}.beta" for name in ("dpo", "kto", "orpo", "simpo", "cpo")), POSITIVE),
    "distill.beta": AT_MOST_1,
    "cispo.epsilon_high": "[1, inf)",
    "gmpo.epsilon": POSITIVE,
    "ppo.num_generations": "[1, inf)",
    "reinforce_pp.num_generations": "[1, inf)",
}
FREE = {"delta", "loss_weights"}  # numbers that other settings bound
NUMBERS = [
    (name, field)
    for name in NAMES
    for field, info in CLASSES[name].model_fields.items()
    if re.search(r"\b(int|float)\b", str(info.annotation))
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_is_the_preset_of_its_paper(name: str) -> None:
    assert CLASSES[name]().model_dump() == PRESETS[name]


def refused(cls: type[Algorithm], field: str, value: float) -> bool:
    """Whether the field itself refuses it; two settings that contradict each other are another matter."""
    try:
        cls.model_validate({field: value})
    except ValidationError as error:
        return any(fault["loc"][:1] == (field,) for fault in error.errors())
    return False


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=map(".".join, NUMBERS))
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(name: str, field: str) -> None:
    cls = CLASSES[name]
    if field in FREE:
        return
    interval = INTERVALS.get(f"{name}.{field}", INTERVALS[field])
    whole = re.search(r"\bint\b", str(cls.model_fields[field].annotation))
    for edge, outward in zip(map(float, interval[1:-1].split(", ")), (-inf, inf), strict=True):
        closed = interval[0 if outward < 0 else -1] in "[]"
        if edge == inf:
            assert refused(cls, field, inf), "no number is infinite"
            assert not refused(cls, field, 1000)
            continue
        step = 1.0 if whole else abs(nextafter(edge, outward) - edge)
        beyond, within = (edge + sign * step * (1 if outward > 0 else -1) for sign in (1, -1))
        assert refused(cls, field, beyond)
        assert refused(cls, field, edge) is not closed
        assert not refused(cls, field, within)


NOTHING = frozenset[str]()
ON_POLICY = frozenset({"old_logps"})
NEEDS = {
    **dict.fromkeys(("prompt", "sft", "orpo", "simpo", "cpo"), NOTHING),
    "reward_model": frozenset({"score_head"}),
    **dict.fromkeys(("dpo", "kto"), frozenset({"reference"})),
    **dict.fromkeys(("dr_grpo", "dapo", "gspo", "gspo_token", "luspo", "cispo", "sapo", "vespo", "gmpo"), ON_POLICY),
    **dict.fromkeys(("grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline"), ON_POLICY | {"reference"}),
    "ppo": ON_POLICY | {"values", "reference"},
    "distill": frozenset({"teacher"}),
}
KINDS = {
    "prompt": None,
    "sft": "text",
    "kto": "unpaired",
    **dict.fromkeys(("reward_model", "dpo", "orpo", "simpo", "cpo"), "pairs"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_needs_this_data_and_these_models(name: str) -> None:
    cls = CLASSES[name]
    assert cls().needs() == NEEDS[name]
    assert cls().data_kind() == KINDS.get(name, "prompts")
    assert cls().makes_policy() is (name != "reward_model")
    assert cls.reads_logps is (name != "reward_model"), "the LM head is left out where nothing reads it"
    if "reference" in NEEDS[name] and name not in ("dpo", "kto"):
        assert cls.model_validate({"beta": 0}).needs() == NEEDS[name] - {"reference"}


def test_a_kl_or_a_correction_needs_what_it_is_made_of() -> None:
    for name in NAMES:
        if issubclass(cls := CLASSES[name], GroupRelative):
            assert "reference" in cls.model_validate({"beta": 0.01}).needs()
            assert "reference" not in cls.model_validate({"beta": 0}).needs()
            if name != "vespo":
                corrected = cls.model_validate({"importance_sampling_correction": "token_truncate"})
                assert corrected.needs() - cls().needs() == {"sampled_logps"}
            apart = {"multi_objective_aggregation": "normalize_then_sum", "beta": 0}
            apart |= {"overlong_buffer": 0} if name == "dapo" else {}
            assert cls.model_validate(apart).needs() == ON_POLICY | {"separate_rewards"}
    assert CLASSES["distill"].model_validate({"completions": "data"}).data_kind() == "text"


ROWS, TOKENS = {"policy": "rows"}, {"policy": "tokens"}
UNITS: dict[str, Mapping[str, Any]] = {
    "prompt": {},
    "sft": {"nll": "tokens"},
    "reward_model": {"pairs": "groups"},
    "dpo": {"sigmoid": "groups"},
    "kto": {"rows": "rows"},
    "orpo": {"nll": chosen_tokens, "odds": "groups"},
    "simpo": {"pairs": "groups"},
    "cpo": {"pairs": "groups", "nll": chosen_tokens},
    **dict.fromkeys(("grpo", "dr_grpo", "gspo", "gspo_token", "luspo", "rloo", "sapo", "gmpo"), ROWS),
    **dict.fromkeys(("dapo", "cispo", "vespo", "reinforce_pp", "reinforce_pp_baseline"), TOKENS),
    "ppo": {"policy": "tokens", "value": "tokens"},
    "distill": {"divergence": "tokens"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_averages_over_what_its_paper_averages_over(name: str) -> None:
    assert CLASSES[name]().terms() == UNITS[name]


@pytest.mark.parametrize(
    ("name", "settings", "units"),
    [
        ("sft", {"loss_type": "dft"}, {"dft": "tokens"}),
        ("dpo", {"loss_type": ["ipo", "sft"]}, {"ipo": "groups", "sft": chosen_tokens}),
        ("simpo", {"cpo_alpha": 0.5}, {"pairs": "groups", "nll": chosen_tokens}),
        ("cpo", {"cpo_alpha": 0}, {"pairs": "groups"}),
        ("grpo", {"reduction": "token_mean"}, TOKENS),
        ("dapo", {"reduction": "row_sum"}, ROWS),
        ("grpo", {"entropy_coef": 0.1}, {**ROWS, "entropy": "tokens"}),
        ("cispo", {"entropy_coef": 0.1, "top_entropy_quantile": 0.2}, {**TOKENS, "entropy": num_high_entropy}),
    ],
)
def test_a_setting_may_change_what_is_averaged_over(name: str, settings: dict[str, Any], units: Any) -> None:
    assert CLASSES[name].model_validate(settings).terms() == units


@pytest.mark.parametrize("name", NAMES)
def test_the_turns_of_an_assistant_are_trained_and_all_where_that_is_asked_for(name: str) -> None:
    assert CLASSES[name]().trains_on() == "assistant"
    if name == "sft":
        assert CLASSES[name].model_validate({"assistant_only_loss": False}).trains_on() == "all"


@pytest.mark.parametrize("name", NAMES)
def test_a_part_holds_both_sides_of_a_pair_and_any_row_of_the_others(name: str) -> None:
    cls = CLASSES[name]
    of_pairs = KINDS.get(name) == "pairs"
    assert cls.keep_together == ("group" if of_pairs else "row")
    assert cls.group_size == (2 if of_pairs and name != "reward_model" else None), "a reward model ranks any number"
    assert cls.least_batch_size == (2 if name == "kto" else 1), "an answer of another row is what kto compares with"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if KINDS.get(name, "prompts") == "prompts" and name != "distill"]
)
def test_as_many_completions_are_sampled_as_the_setting_says(name: str) -> None:
    cls = CLASSES[name]
    assert cls().samples_per_prompt() == PRESETS[name]["num_generations"]
    assert cls.model_validate({"num_generations": 6}).samples_per_prompt() == 6
    assert cls().generation_limit() == (10 if name == "dapo" else 0), "dapo alone draws until enough groups are mixed"


COMPUTED = {"any": [True, True, True, True], "gain": [False, True, True, False], "trained": [True, True, True, False]}


@pytest.mark.parametrize(
    ("name", "settings", "rows"),
    [
        *((name, {}, "any") for name in ("sft", "dpo", "kto", "orpo", "simpo", "cpo", "reward_model")),
        *((name, {}, "gain") for name in ("dapo", "gspo", "cispo", "sapo", "vespo", "gmpo", "rloo", "reinforce_pp")),
        *((name, {"beta": 0.1}, "trained") for name in ("grpo", "gspo", "cispo", "reinforce_pp_baseline")),
        ("rloo", {"beta": 0}, "gain"),
        ("grpo", {"beta": 0.1, "kl_estimator": "k1"}, "gain"),
        ("ppo", {}, "trained"),
    ],
)
def test_a_row_that_moves_nothing_is_not_computed(name: str, settings: dict[str, Any], rows: str) -> None:
    """Advantages of none, of one token up, of one down; the last row has no trained token."""
    mask = torch.tensor([[True, True]] * 3 + [[False, False]])
    ids, numbers = mask.long(), torch.arange(4)
    batch = Batch(
        prompt_ids=torch.ones(4, 1, dtype=torch.long),
        prompt_mask=torch.ones(4, 1, dtype=torch.bool),
        prompt_of=numbers,
        group_of=numbers,
        completion_ids=ids,
        completion_mask=torch.ones_like(mask),
        loss_mask=mask,
        row_ids=("a", "b", "c", "d"),
        advantages=torch.tensor([[0.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]),
    )
    assert CLASSES[name].model_validate(settings).active_rows(batch).tolist() == COMPUTED[rows]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("prompt", "reward_model")])
def test_what_is_read_of_the_logits_is_said_in_nats_and_has_no_gradient(name: str) -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, log(3), -inf, -inf]], requires_grad=True)
    read = CLASSES[name]().readouts()
    wanted = {"entropy": [log(4), log(4) - 0.75 * log(3)], "top_logp": [-log(4), log(0.75)]}
    assert read.keys() == (wanted.keys() if KINDS.get(name) in {"pairs", "text"} else {"entropy"})
    for key, readout in read.items():
        found = readout(logits.clamp(min=-80))
        assert found.tolist() == pytest.approx(wanted[key], abs=1e-6)
        assert not found.requires_grad


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(CLASSES[name], GroupRelative)])
def test_entropy_has_a_gradient_where_it_is_paid_for(name: str) -> None:
    logits = torch.tensor([[0.0, log(3)]], requires_grad=True)
    paid, free = (CLASSES[name].model_validate({"entropy_coef": coef}).readouts()["entropy"] for coef in (0.1, 0))
    assert paid(logits).requires_grad
    assert not free(logits).requires_grad
    assert paid(logits).tolist() == free(logits).tolist() == [pytest.approx(log(4) - 0.75 * log(3))]


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "gmpo"])
def test_the_upper_bound_is_the_lower_one_until_it_is_set(name: str) -> None:
    cls = CLASSES[name]
    assert cls.model_validate({"epsilon": 0.03, "epsilon_high": None}).upper == 0.03  # type: ignore[attr-defined]
    assert cls.model_validate({"epsilon": 0.03, "epsilon_high": 0.04}).upper == 0.04  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "above"), [("grpo", 1.5), ("ppo", 1.25)])
def test_a_dual_clip_begins_above_the_clip(name: str, above: float) -> None:
    """epsilon .25, for `grpo` epsilon_high .5: 1 + the upper of both is refused, and the next number is taken."""
    cls = CLASSES[name]
    settings = {"epsilon": 0.25} | ({"epsilon_high": 0.5} if name == "grpo" else {})
    with pytest.raises(ValidationError, match="delta"):
        cls.model_validate({**settings, "delta": above})
    assert cls.model_validate({**settings, "delta": nextafter(above, inf)})

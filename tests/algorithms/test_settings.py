"""Settings of algorithms at their bounds, and which of them contradict each other."""

import importlib.util
import re
from math import inf

import pytest
from pydantic import ValidationError

from helpers.repository import ROOT
from rung.algorithms.dpo import DPO
from rung.algorithms.shared.group_relative import GroupRelative
from rung.config.algorithms import algorithm_classes

pytestmark = pytest.mark.maths
CLASSES = algorithm_classes()


@pytest.mark.parametrize("coefficient", [0.0, 0.99, 1.0, 1.01, 2.0])
def test_an_alpha_of_1_alone_is_not_defined(coefficient: float) -> None:
    settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": coefficient}
    if coefficient == 1:
        with pytest.raises(ValidationError, match="not defined"):
            DPO.model_validate(settings)
    else:
        assert DPO.model_validate(settings).f_alpha_divergence_coef == coefficient


FAMILY = sorted(name for name, cls in CLASSES.items() if issubclass(cls, GroupRelative))
OF_A_ROW = {"gspo", "gspo_token", "luspo", "rloo", "gmpo"}


@pytest.mark.parametrize("name", FAMILY)
def test_one_ratio_a_row_is_not_added_up_token_by_token(name: str) -> None:
    for reduction in ("token_mean", "constant"):
        if name in OF_A_ROW:
            with pytest.raises(
                ValidationError, match=f"`reduction: {reduction}` with a sequence-level ratio overweights"
            ):
                CLASSES[name].model_validate({"reduction": reduction})
        else:
            assert CLASSES[name].model_validate({"reduction": reduction}).terms()
    for reduction in ("row_mean", "row_sum"):
        assert CLASSES[name].model_validate({"reduction": reduction}).terms() == {"policy": "rows"}


@pytest.mark.parametrize("name", ["grpo", "sapo"])
@pytest.mark.parametrize("level", ["token", "sequence", "sequence_token", "sequence_sum"])
def test_the_level_of_the_ratio_decides_what_may_be_added_up(name: str, level: str) -> None:
    settings = {"importance_sampling_level": level, "reduction": "token_mean"}
    if level == "token":
        assert CLASSES[name].model_validate(settings).terms() == {"policy": "tokens"}
    else:
        with pytest.raises(ValidationError, match="with a sequence-level ratio overweights"):
            CLASSES[name].model_validate(settings)


@pytest.mark.parametrize(
    ("low", "high", "taken"),
    [(0.5, 2, True), (1, 2, True), (0.5, 1, True), (1, 1, True), (1.01, 2, False), (0, 0.99, False), (0, inf, False)],
)
def test_the_bounds_of_a_weight_have_1_between_them(low: float, high: float, taken: bool) -> None:
    settings = {"importance_sampling_clip_min": low, "importance_sampling_clip_max": high}
    settings |= {"importance_sampling_correction": "token_truncate"}
    if taken:
        assert CLASSES["grpo"].model_validate(settings).importance_sampling_clip_max == high  # type: ignore[attr-defined]
    else:
        with pytest.raises(ValidationError):
            CLASSES["grpo"].model_validate(settings)


@pytest.mark.parametrize("name", FAMILY)
def test_one_update_a_rollout_is_told_of_and_two_are_not(name: str) -> None:
    made = CLASSES[name]()
    told = made.notes(1)
    assert len(told) == (name not in {"grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp_baseline"})
    assert all(note.startswith("one update per rollout: ") for note in told)
    assert made.notes(2) == made.notes(4) == []


@pytest.mark.parametrize("name", ["algorithms", "zoo.algorithms", "a"])
def test_the_folder_of_algorithms_is_a_part_of_rung_alone(name: str) -> None:
    file = ROOT / "algorithms" / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=re.escape("import `rung.algorithms`")):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

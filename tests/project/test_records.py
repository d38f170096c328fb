"""Records of the engine cannot be changed once they are made; the state that does change is named here."""

import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import pytest
from pydantic import BaseModel

import rung

MODULES = [
    module.name
    for module in pkgutil.walk_packages(rung.__path__, "rung.")
    if not module.name.endswith(("__main__", "worker_main"))
]
CHANGING = {
    "rung.agents.conversation.Conversation",
    "rung.agents.work.Work",
    "rung.data.report.DataReport",
    "rung.data.report.Tally",
    "rung.forward.passes.WorkCounter",
    "rung.forward.policy.Policy",
    "rung.reward.call.Reply",
    "rung.reward.pool.Lane",
    "rung.rollout.trajectories._Row",
    "rung.tiny.pharmacy.reader.Dose",
    "rung.tiny.pharmacy.reader.Reading",
    "rung.training.early_stopping.BestWeights",
    "rung.training.skipped_steps.SkippedSteps",
    "rung.training.stage.Stage",
}


def is_record(kind: object, module: str) -> bool:
    return inspect.isclass(kind) and kind.__module__ == module and (is_dataclass(kind) or issubclass(kind, BaseModel))


def takes_no_change(record: type) -> bool:
    """Frozen, and without room for other fields: a dataclass by its slots, a pydantic model by its config."""
    if issubclass(record, BaseModel):
        return record.model_config.get("frozen") is True and record.model_config.get("extra") == "forbid"
    return vars(record)["__dataclass_params__"].frozen is True and "__slots__" in vars(record)


@pytest.mark.parametrize("module", MODULES)
def test_a_record_takes_no_change_and_no_other_field(module: str) -> None:
    kinds = vars(importlib.import_module(module)).items()
    loose = {
        name
        for name, kind in kinds
        if is_record(kind, module) and f"{module}.{name}" not in CHANGING and not takes_no_change(kind)
    }
    assert not loose

"""The lineage of a run: it comes back as it was written, and weights are named by their hash."""

import json

import pytest

from helpers.evaluations import evaluation, scores_before_and_after
from rung.artifacts.lineage import Lineage, StageRecord, hash_weights
from rung.config.gate import GateConfig
from rung.errors import CheckpointError
from rung.evaluation.gate import Decision, decide


def gated() -> Decision:
    gate = GateConfig.model_validate({"metric": "correct", "guards": [{"metric": "style", "tolerance": 0.01}]})
    correct, style = scores_before_and_after(300, 90, 30, 180), scores_before_and_after(400, 20, 26, 154)
    before, after = (evaluation({"correct": correct[i], "style": style[i]}) for i in (0, 1))
    return decide(gate, before, after, {}, ())


def test_a_lineage_comes_back_as_it_was_written(tmp_path):
    decision = gated()
    sft = StageRecord(stage="sft", start="tiny:base", outcome="promoted", weights="ab", reads={"validation": 1})
    dpo = StageRecord(stage="dpo", start="sft", outcome=decision.outcome, decision=decision, reads={"validation": 2})
    lineage = Lineage().with_stage(sft).with_stage(dpo)
    lineage.save(tmp_path / "lineage.json")
    loaded = Lineage.load(tmp_path / "lineage.json")
    assert loaded == lineage
    assert loaded.last_accepted() == sft
    assert loaded.reads("validation") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["lineage.json"]


def test_a_stage_that_ran_again_takes_its_old_place():
    lineage = Lineage()
    for outcome in ("kept", "promoted"):
        lineage = lineage.with_stage(StageRecord(stage="sft", start="tiny:base", outcome=outcome))
    assert [record.outcome for record in lineage.stages] == ["promoted"]


def test_stages_without_a_gate_are_accepted_and_reward_models_are_not():
    def record(stage, outcome, **more):
        return StageRecord(stage=stage, start="x", outcome=outcome, **more)

    lineage = Lineage(stages=(record("prompting", "baseline"), record("sft", "trained"), record("dpo", "kept")))
    assert lineage.last_accepted() == record("sft", "trained")
    assert lineage.with_stage(record("rm", "trained", makes_policy=False)).last_accepted() == record("sft", "trained")
    assert lineage.with_stage(record("grpo", "inconclusive")).last_accepted() == record("sft", "trained")


def test_a_lineage_of_an_earlier_version_is_read_with_the_words_of_today(tmp_path):
    """There, a stage without a gate was promoted, and only a reward model was trained."""
    decision = json.loads(gated().model_dump_json())
    old = [
        {"stage": "prompting", "start": "x", "outcome": "promoted", "weights": None, "reads": {}, "decision": None},
        {"stage": "sft", "start": "x", "outcome": "promoted", "weights": "ab", "reads": {}, "decision": None},
        {"stage": "rm", "start": "sft", "outcome": "trained", "weights": "cd", "reads": {}, "decision": None},
        {"stage": "dpo", "start": "sft", "outcome": "promoted", "weights": "ef", "reads": {}, "decision": decision},
        {"stage": "grpo", "start": "dpo", "outcome": "kept", "weights": "01", "reads": {}, "decision": decision},
    ]
    (tmp_path / "lineage.json").write_text(json.dumps({"stages": old}))
    lineage = Lineage.load(tmp_path / "lineage.json")
    outcomes = [(record.outcome, record.makes_policy) for record in lineage.stages]
    assert outcomes == [
        ("baseline", True),
        ("trained", True),
        ("trained", False),
        ("promoted", True),
        ("kept", True),
    ]
    lineage.save(tmp_path / "lineage.json")
    assert Lineage.load(tmp_path / "lineage.json") == lineage


def test_a_damaged_lineage_is_named(tmp_path):
    (tmp_path / "lineage.json").write_text(json.dumps({"stages": [{"stage": 3}]}))
    with pytest.raises(CheckpointError, match=r"lineage.json is not a lineage"):
        Lineage.load(tmp_path / "lineage.json")
    assert Lineage.load(tmp_path / "none.json") == Lineage()


def test_the_hash_of_weights_depends_on_names_and_contents(tmp_path):
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        hash_weights(tmp_path)
    hashes = set()
    for name, content in [("a", b"1"), ("b", b"2"), ("b", b"3")]:
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        hashes.add(hash_weights(tmp_path))
    assert len(hashes) == 3

"""The lineage of a run: it comes back as it was written, and weights are named by their hash."""

import pytest

from helpers.evaluations import evaluation, scores_before_and_after
from rung.artifacts.lineage import Lineage, StageRecord, hash_weights
from rung.config.gate import GateConfig
from rung.errors import CheckpointError
from rung.evaluation.gate import Decision, decide
from rung.utils.sealed import write_sealed


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


def test_a_damaged_lineage_is_named(tmp_path):
    file = tmp_path / "lineage.json"
    write_sealed(file, {"stages": [{"stage": 3}]})
    with pytest.raises(CheckpointError, match=r"lineage.json is not a lineage"):
        Lineage.load(file)
    Lineage(stages=(StageRecord(stage="sft", start="x", outcome="kept", reads={"test": 1}),)).save(file)
    file.write_text(file.read_text().replace('"test": 1', '"test": 0'))
    with pytest.raises(CheckpointError, match=r"lineage.json is damaged, or was edited"):
        Lineage.load(file)
    assert Lineage.load(tmp_path / "none.json") == Lineage()


def test_the_hash_of_weights_depends_on_names_and_contents(tmp_path):
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        hash_weights(tmp_path)
    hashes = set()
    for name, content in [("a", b"1"), ("b", b"2"), ("b", b"3")]:
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        hashes.add(hash_weights(tmp_path))
    assert len(hashes) == 3

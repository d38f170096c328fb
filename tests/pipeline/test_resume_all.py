"""Every algorithm, stopped after each of its steps and gone on with, ends with the same bytes, and so does a repeat.

The checkpoints are real and each step is taken by a stage that was opened anew; `test_resume.py` kills processes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from helpers.certificate import Certify
from helpers.resumable_stage import REWARD
from helpers.rows import write_rows
from rung.config import parse_config, resolve
from rung.config.algorithms import algorithm_names, make_algorithm
from rung.config.defaults import algorithm_of
from rung.distributed.ranks import Ranks
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import train_stage
from rung.training.checkpoint import checkpoint_path
from rung.utils.signals import StopFlag

NAMES = [name for name in algorithm_names() if make_algorithm(name).data_kind()]
STEPS = 5  # two epochs of the rows; a whole rollout, and one step of the next
MODEL = "tiny:llama"
SAMPLED = {
    "data": "prompts.jsonl",
    "rewards": ["./judge.py:many_a"],
    "rollout": {"batch_size": 4, "max_completion_length": 8},
    "updates": {"minibatches": 2, "epochs": 2},
}
ROWS = {
    "prompts": [{"prompt": f"number {i}"} for i in range(11)],
    "pairs": [{"prompt": f"number {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(10)],
    "texts": [{"prompt": f"number {i}", "completion": f"it is {i}"} for i in range(10)],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "judge.py").write_text(REWARD)
    write_rows(folder, ROWS)
    return folder


def stage_of(name: str) -> dict[str, Any]:
    """A stage that has whatever the algorithm may keep: a critic of its own, a teacher, half a rollout."""
    algorithm = make_algorithm(name)
    needs, kind = algorithm.needs(), algorithm.data_kind()
    stage = {"name": name, "algorithm": name, "max_steps": STEPS, "save_steps": STEPS - 1, "learning_rate": 1e-2}
    rows = {"data": "texts.jsonl" if kind == "text" else "pairs.jsonl", "batch_size": 4}
    models = {"critic": "start"} if "values" in needs else {"teacher": "tiny:qwen3"} if "teacher" in needs else {}
    return {**stage, **(SAMPLED if kind == "prompts" else rows), **models}


def trained(name: str, work: Path, folder: Path, *, by_step: bool = False) -> None:
    raw = {"name": "resume", "model": MODEL, "stages": [stage_of(name)]}
    config = resolve(parse_config(raw, source="test", base=work), "tiny")
    stage = config.stages[0]
    settings = stage_settings(stage, config, algorithm_of(stage, work))
    stop = StopFlag()
    stop.requested = by_step  # asked before it begins: it takes one step and saves
    calls = [
        train_stage(
            settings,
            start=MODEL,
            reference=None,
            critic=MODEL if stage.critic else None,
            teacher=stage.teacher,
            folder=folder,
            ranks=Ranks(),
            stop=stop,
        )
        for _ in range(STEPS if by_step else 1)
    ]
    assert calls == [False] * (len(calls) - 1) + [True]


def files(folder: Path) -> dict[str, bytes]:
    """All that a stage has left but clock readings and where their log ended."""
    saved = checkpoint_path(folder / "checkpoints", STEPS - 1)
    state = json.loads((saved / "state.json").read_text())
    state["logs"].pop("timing.jsonl")
    names = ["metrics.jsonl", "completions.jsonl", "model/model.safetensors"]
    found = {name: folder / name for name in names} | {"state": saved / "state.safetensors"}
    return {name: path.read_bytes() for name, path in found.items() if path.exists()} | {
        "values": json.dumps(state).encode()
    }


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights that are handed over, and those of the step before with the optimizer's state."""
    state = load_file(checkpoint_path(folder / "checkpoints", STEPS - 1) / "state.safetensors")
    kept = {name: state[name] for name in state if "/weights/" in name or "/optimizer/" in name}
    return load_file(folder / "model" / "model.safetensors") | kept


@pytest.mark.parametrize("name", NAMES)
def test_stopped_after_every_step_and_repeated_it_ends_with_the_same_bytes(
    name: str, work: Path, certify: Certify
) -> None:
    whole, stopped, repeated = (work / name / part for part in ("whole", "stopped", "repeated"))
    trained(name, work, whole)
    trained(name, work, stopped, by_step=True)
    trained(name, work, repeated)
    expected = files(whole)
    assert expected.keys() >= {"metrics.jsonl", "model/model.safetensors", "state"}
    assert expected["metrics.jsonl"].count(b"\n") == STEPS
    assert any("/optimizer/" in tensor for tensor in tensors(whole))
    for part in (stopped, repeated):
        found = files(part)
        assert found.keys() == expected.keys()
        assert not [file for file in expected if found[file] != expected[file]]
        certify(name, "resume", tensors(part), tensors(whole), of=part.name)

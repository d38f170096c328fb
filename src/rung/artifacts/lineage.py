"""The lineage of a run, `lineage.json`: for each stage, the model that it started from and the outcome."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rung.errors import CheckpointError
from rung.evaluation.gate import Decision, Outcome
from rung.utils.files import sha256_file, write_text


class DataRecord(BaseModel):
    """What became of the rows of a stage: how many were read and trained on, and how many were dropped by cause."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    encoded: int
    dropped: dict[str, int]
    fingerprint: str


class StageRecord(BaseModel):
    """The record of one stage: the model it started from, its outcome, and how often each evaluation set was read.

    `start` is a stage of this run (`sft`) or of another run (`run:NAME/sft`), a folder, or the name of a model.
    `outcome` is that of the gate; a stage without a gate is `promoted`, and one that trains a reward model is
    `trained`: no stage starts from it. `weights` is the `hash_weights` of the trained model, None if the stage trains
    nothing. `decision` is None for a stage without a gate, `data` for one that trains nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    start: str
    outcome: Outcome | Literal["trained"]
    weights: str | None = None
    reads: dict[str, int] = {}  # evaluation set -> how often its scores were read
    decision: Decision | None = None
    data: DataRecord | None = None


class Lineage(BaseModel):
    """The records of the finished stages of a run, in order.

    >>> sft = StageRecord(stage="sft", start="tiny:base", outcome="promoted", reads={"validation": 1})
    >>> dpo = StageRecord(stage="dpo", start="sft", outcome="kept", reads={"validation": 1})
    >>> lineage = Lineage().with_stage(sft).with_stage(dpo)
    >>> lineage.last_promoted().stage, lineage.reads("validation")
    ('sft', 2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[StageRecord, ...] = ()

    def with_stage(self, record: StageRecord) -> Lineage:
        """A copy of the lineage with `record` at the end, or in place of the existing record of the same stage."""
        if any(known.stage == record.stage for known in self.stages):
            stages = tuple(record if known.stage == record.stage else known for known in self.stages)
        else:
            stages = (*self.stages, record)
        return Lineage(stages=stages)

    def stage(self, name: str) -> StageRecord | None:
        """The record of the stage called `name`; None if there is none."""
        return next((record for record in self.stages if record.stage == name), None)

    def last_promoted(self) -> StageRecord | None:
        """The record of the stage that was promoted most recently; None if no stage was."""
        return next((record for record in reversed(self.stages) if record.outcome == "promoted"), None)

    def reads(self, evaluation_set: str) -> int:
        """How often the scores of an evaluation set were read, summed over all stages."""
        return sum(record.reads.get(evaluation_set, 0) for record in self.stages)

    def save(self, path: Path) -> None:
        """Writes the lineage atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Lineage:
        """The lineage in a file, or an empty one if there is no file. Raises CheckpointError for a damaged file."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path} is not a lineage: {reason}", "restore the file, or start a new run with --new"
            ) from error


def hash_weights(folder: Path) -> str:
    """The SHA-256 (64 hex digits) of the names and contents of all safetensors files in a model folder.

    Raises CheckpointError if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no safetensors file", "train the stage again, or name another folder")
    digests = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()

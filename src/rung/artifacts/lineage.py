"""Where every model of a run came from: `lineage.json`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rung.errors import CheckpointError
from rung.evaluation.gate import Decision, Outcome
from rung.utils.files import sha256_file, write_text


class StageRecord(BaseModel):
    """The record of one stage: its start, its outcome and how often it read each evaluation set.

    `start` is a stage of this run (`sft`), of another (`run:NAME/sft`), a folder or the name of a model. A stage
    without a gate is promoted without a decision; a reward model is `trained`, and no stage starts from it. `weights`
    is `hash_weights` of the stage's model, None where it trains nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    start: str
    outcome: Outcome | Literal["trained"]
    weights: str | None = None
    reads: dict[str, int] = {}  # evaluation set -> how often its scores were read
    decision: Decision | None = None


class Lineage(BaseModel):
    """The stages of a run so far, in order.

    >>> sft = StageRecord(stage="sft", start="tiny:base", outcome="promoted", reads={"validation": 1})
    >>> dpo = StageRecord(stage="dpo", start="sft", outcome="kept", reads={"validation": 1})
    >>> lineage = Lineage().with_stage(sft).with_stage(dpo)
    >>> lineage.last_promoted().stage, lineage.reads("validation")
    ('sft', 2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[StageRecord, ...] = ()

    def with_stage(self, record: StageRecord) -> Lineage:
        """The lineage with one more record; an earlier record of the same stage is replaced in its position."""
        if any(known.stage == record.stage for known in self.stages):
            stages = tuple(record if known.stage == record.stage else known for known in self.stages)
        else:
            stages = (*self.stages, record)
        return Lineage(stages=stages)

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage, or None."""
        return next((record for record in self.stages if record.stage == name), None)

    def last_promoted(self) -> StageRecord | None:
        """The newest stage that was promoted, or None."""
        return next((record for record in reversed(self.stages) if record.outcome == "promoted"), None)

    def reads(self, evaluation_set: str) -> int:
        """How often the scores of an evaluation set were read over all stages."""
        return sum(record.reads.get(evaluation_set, 0) for record in self.stages)

    def save(self, path: Path) -> None:
        """Writes the lineage atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Lineage:
        """Reads a lineage; empty where there is no file. Raises CheckpointError where the file is damaged."""
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
    """The SHA-256 over the names and contents of a model folder's safetensors files, 64 hex digits.

    Raises CheckpointError where the folder holds none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no safetensors file", "train the stage again, or name another folder")
    digests = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()

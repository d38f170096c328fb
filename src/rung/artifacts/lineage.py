"""The lineage of a run, `lineage.json`: for each stage, the model that it started from and the outcome."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rung.artifacts.records import RESTORE
from rung.errors import CheckpointError
from rung.evaluation.gate import Decision, Outcome
from rung.utils.files import sha256_file
from rung.utils.sealed import read_sealed, write_sealed


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
    `outcome` is that of the gate; a stage without a gate is `trained` or, if it trains nothing, a `baseline`.
    `makes_policy` is False for a reward model, from which no stage starts. `weights` is the `hash_weights` of the
    trained model, None if the stage trains nothing. `decision` is None for a stage without a gate, `data` for one that
    trains nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    start: str
    outcome: Outcome | Literal["trained", "baseline"]
    makes_policy: bool = True
    weights: str | None = None
    reads: dict[str, int] = {}  # evaluation set -> how often its scores were read
    decision: Decision | None = None
    data: DataRecord | None = None

    @property
    def accepted(self) -> bool:
        """Whether the next stage may start from this policy: it was promoted, or there is no gate."""
        return self.makes_policy and self.outcome in ("promoted", "trained", "baseline")


class Change(BaseModel):
    """A key of the config that changed while a run was under way.

    It applies from the next step of `stage` on after `step` of its steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    before: Any
    after: Any
    stage: str = ""
    step: int = 0

    @property
    def words(self) -> str:
        """The change as a sentence.

        >>> Change(key="dapo.max_steps", before=60, after=80, stage="dapo", step=44).words
        '`dapo.max_steps` changed from 60 to 80 after step 44 of stage `dapo`'
        """
        place = f" after step {self.step} of stage `{self.stage}`" if self.stage else ""
        return f"`{self.key}` changed from {_plain(self.before)} to {_plain(self.after)}{place}"


class Lineage(BaseModel):
    """The records of the finished stages of a run, in order, and the changes of its config while it was under way.

    >>> sft = StageRecord(stage="sft", start="tiny:base", outcome="promoted", reads={"validation": 1})
    >>> dpo = StageRecord(stage="dpo", start="sft", outcome="kept", reads={"validation": 1})
    >>> lineage = Lineage().with_stage(sft).with_stage(dpo)
    >>> lineage.last_accepted().stage, lineage.reads("validation")
    ('sft', 2)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[StageRecord, ...] = ()
    changes: tuple[Change, ...] = ()

    def with_stage(self, record: StageRecord) -> Lineage:
        """A copy of the lineage with `record` at the end, or in place of the existing record of the same stage."""
        if any(known.stage == record.stage for known in self.stages):
            stages = tuple(record if known.stage == record.stage else known for known in self.stages)
        else:
            stages = (*self.stages, record)
        return self.model_copy(update={"stages": stages})

    def with_changes(self, changes: Sequence[Change]) -> Lineage:
        """A copy of the lineage with `changes` at the end, without those that it ends with already."""
        known = self.changes[-len(changes) :] if changes else ()
        return self if known == tuple(changes) else self.model_copy(update={"changes": (*self.changes, *changes)})

    def stage(self, name: str) -> StageRecord | None:
        """The record of the stage called `name`; None if there is none."""
        return next((record for record in self.stages if record.stage == name), None)

    def last_accepted(self) -> StageRecord | None:
        """The record of the last stage whose policy was accepted; None if there is none."""
        return next((record for record in reversed(self.stages) if record.accepted), None)

    def reads(self, evaluation_set: str) -> int:
        """How often the scores of an evaluation set were read, summed over all stages."""
        return sum(record.reads.get(evaluation_set, 0) for record in self.stages)

    def save(self, path: Path) -> None:
        """Writes the lineage atomically, with its hash."""
        write_sealed(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Lineage:
        """The lineage in a file, or an empty one if there is no file. Raises CheckpointError for a damaged file."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(read_sealed(path, RESTORE))
        except ValidationError as error:
            raise CheckpointError(f"{path} is not a lineage: {str(error).splitlines()[0]}", RESTORE) from None


def _plain(value: Any) -> str:
    return "its default" if value is None else str(value)


def hash_weights(folder: Path) -> str:
    """The SHA-256 (64 hex digits) of the names and contents of all safetensors files in a model folder.

    Raises CheckpointError if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} holds no safetensors file", "train the stage again, or name another folder")
    digests = "".join(f"{file.name} {sha256_file(file)}\n" for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()

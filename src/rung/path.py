"""A path: its stages one after another, a gate behind each, and one reading of the test set at the end.

A run folder is opened, gone on with or left alone by what lies in it: `DONE` in a stage that is over, a report in
a run that is. Each is written last, so a run that is killed anywhere goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rung.algorithm import Algorithm
from rung.check import check
from rung.config import PathConfig, StageConfig, resolve
from rung.config.models import MOVING
from rung.config.sizes import kind_of
from rung.errors import CheckpointError
from rung.evaluate import Evaluation
from rung.exam import Exam, ExamSet
from rung.files import write_text
from rung.fit import fit
from rung.gate import Decision, decide
from rung.lineage import Lineage, StageRecord, hash_weights
from rung.locate import locate
from rung.quantized import check_4bit
from rung.ranks import Ranks, launched
from rung.registry import algorithm
from rung.report import Entry, Report, render, write
from rung.run_folder import CONFIG, DONE, FINISHED, LINEAGE, REPORT, as_yaml, refuse_changes, run_folder
from rung.signals import EXIT_INCONCLUSIVE, EXIT_KEPT, EXIT_STOPPED, StopFlag

HEAD = "head"
START = "start"  # folder of what is measured of the model that a path begins with


@dataclass(frozen=True, slots=True)
class Run:
    """What has become of a run: its folder, its stages so far, and whether it is over or was asked to stop."""

    folder: Path
    lineage: Lineage
    finished: bool

    def exit_code(self, *, strict: bool) -> int:
        """0; 75 where it was stopped; if `strict`, 3 where a stage was not promoted, 4 where one is inconclusive."""
        if not self.finished:
            return EXIT_STOPPED
        outcomes = {record.outcome for record in self.lineage.stages}
        if strict and "kept" in outcomes:
            return EXIT_KEPT
        return EXIT_INCONCLUSIVE if strict and "inconclusive" in outcomes else 0


def run_path(config: PathConfig, *, new: bool = False, fully_shard: bool = False) -> Run:
    """Runs a path, or goes on with it where it stopped; `new` starts afresh in a folder beside an earlier one.

    Where `torchrun` or `rung run --nproc` started several processes, all call it; with `fully_shard` each holds a part
    of the weights that are trained, else a replica. The result does not depend on it, nor does a run that goes on.
    Everything is checked before anything is written or computed. Raises UserError, among others where the folder holds
    a run of another config; nothing that was written before is lost.
    """
    config = resolve(config)
    with launched(fully_shard) as ranks, StopFlag() as stop:
        folder = run_folder(config, new)
        ranks.gather(None)  # every rank has chosen before the first one writes
        config = config.model_copy(update={"name": folder.name}).at(config.base)
        refuse_changes(config, folder)
        if (folder / FINISHED).exists():
            _say(ranks, f"{folder} is finished: see {folder / REPORT}; `--new` starts afresh beside it")
            return Run(folder, Lineage.load(folder / LINEAGE), finished=True)
        config = check(config).config
        for stage in config.stages:
            check_4bit(stage, sharded=ranks.sharded)
        if ranks.rank == 0:
            write_text(folder / CONFIG, as_yaml(config.dump()))
        return _Climb(config, folder, ranks).run(stop)


class _Climb:
    """One run in its folder; rank 0 measures and writes, the others train with it and read what it wrote."""

    def __init__(self, config: PathConfig, folder: Path, ranks: Ranks):
        self.config, self.folder, self.ranks = config, folder, ranks
        self.exam = Exam(config)
        self.lineage = Lineage.load(folder / LINEAGE)

    def run(self, stop: StopFlag) -> Run:
        for stage in self.config.stages:
            done = (self.folder / stage.name / DONE).exists()
            if not done and not (self.ranks.agree(not stop.requested) and self._climb(stage, stop)):
                _say(self.ranks, f"stopped in stage `{stage.name}`; the same command goes on from there")
                return Run(self.folder, self.lineage, finished=False)
            gate = self.config.gate_of(stage)
            record = self._record(stage.name)
            if gate is not None and gate.on_gate == "stop" and record.outcome not in ("promoted", "trained"):
                break
        if not self.ranks.agree(not stop.requested):
            _say(self.ranks, "stopped before the test set; the same command goes on from there")
            return Run(self.folder, self.lineage, finished=False)
        if self.ranks.rank == 0:
            self._finish()
        self.ranks.gather(None)
        return Run(self.folder, Lineage.load(self.folder / LINEAGE), finished=True)

    def _climb(self, stage: StageConfig, stop: StopFlag) -> bool:
        """Trains and judges a stage; False where it was asked to stop."""
        folder, start = self.folder / stage.name, self._start(stage)
        if self._trains(stage):
            if self.ranks.rank == 0:
                write_text(folder / CONFIG, as_yaml(stage.model_dump(mode="json", by_alias=True)))
            reference = None if stage.reference in (START, *MOVING) else self._model(stage.reference)
            completed = fit(
                stage,
                self.config,
                start=self._located(start),
                reference=reference,
                critic=self._critic(stage, start),
                teacher=None if stage.teacher is None else self._located(stage.teacher),
                folder=folder,
                ranks=self.ranks,
                stop=stop,
            )
            if not completed:
                return False
        if self.ranks.rank == 0:
            self._judge(stage, start)
            write_text(folder / DONE, self._record(stage.name).outcome + "\n")
        self.ranks.gather(None)
        self.lineage = Lineage.load(self.folder / LINEAGE)
        return True

    def _judge(self, stage: StageConfig, start: str) -> None:
        folder = self.folder / stage.name
        makes_policy = self._algorithm(stage).makes_policy()
        gate = self.config.gate_of(stage) if self._trains(stage) and makes_policy else None
        location = self._model(stage.name) if self._trains(stage) else self._located(start)
        measured = list(self._evaluations(stage, location, "validation")) if makes_policy else []
        decision: Decision | None = None
        if gate is not None:
            decision = decide(gate, self._before(measured[0].num_shots), measured[0], self.exam.goals)
        record = StageRecord(
            stage=stage.name,
            start=start,
            outcome=decision.outcome if decision else "promoted" if makes_policy else "trained",
            weights=hash_weights(folder / "model") if self._trains(stage) else None,
            reads={"validation": len(measured)} if measured else {},
            decision=decision,
        )
        self.lineage = self.lineage.with_stage(record)
        self.lineage.save(self.folder / LINEAGE)
        _say(self.ranks, f"{stage.name}: {record.outcome}", *(decision.reasons if decision else ()))

    def _before(self, num_shots: int) -> Evaluation:
        """The last promoted policy, or the model that the path begins with, on validation with so many shots."""
        promoted = self.lineage.last_promoted()
        location = self._model(promoted.stage) if promoted else self._located(self.config.model)
        file = self._file(promoted.stage if promoted else START, "validation", num_shots)
        return self.exam.take(location, "validation", num_shots, file)

    def _finish(self) -> None:
        """Reads the test set once for all stages and writes the report, which ends the run."""
        import rich

        entries: dict[ExamSet, list[Entry]] = {"validation": [], "test": []}
        for record in self.lineage.stages:
            stage = next(stage for stage in self.config.stages if stage.name == record.stage)
            if record.outcome == "trained":
                continue
            for exam_set, several in entries.items():
                measured = self._evaluations(stage, self._model(stage.name), exam_set)
                several += [Entry(stage.name, evaluation) for evaluation in measured]
            if self.exam.test:
                record = record.model_copy(update={"reads": {**record.reads, "test": 1}})
                self.lineage = self.lineage.with_stage(record)
        self.lineage.save(self.folder / LINEAGE)
        goals = self.exam.goals
        report = Report(name=self.folder.name, lineage=self.lineage, metrics=list(goals), goals=goals, **entries)
        rich.print(render(write(self.folder, report)))
        _say(self.ranks, f"finished: {self.folder / REPORT}")

    def _evaluations(self, stage: StageConfig, location: str, exam_set: ExamSet) -> Iterator[Evaluation]:
        if getattr(self.exam, exam_set):
            for num_shots in self.config.shots_of(stage):
                yield self.exam.take(location, exam_set, num_shots, self._file(stage.name, exam_set, num_shots))

    def _file(self, owner: str, exam_set: ExamSet, num_shots: int) -> Path:
        """`evaluation.json` and `test.json` for the first number of shots of a stage, others have it in their name."""
        stage = next((stage for stage in self.config.stages if stage.name == owner), None)
        first = self.config.shots_of(stage)[0] if stage else self.config.evaluate.shots[0]
        word = "evaluation" if exam_set == "validation" else exam_set
        return self.folder / owner / (f"{word}.json" if num_shots == first else f"{word}-{num_shots}-shot.json")

    def _start(self, stage: StageConfig) -> str:
        """What a stage starts from, as the lineage has it."""
        promoted = self.lineage.last_promoted()
        return stage.start or (promoted.stage if promoted else self.config.model)

    def _critic(self, stage: StageConfig, start: str) -> str | None:
        """The model that a stage's critic begins as, or None for a head on the policy."""
        if stage.critic in (None, HEAD):
            return None
        return self._located(start) if stage.critic == START else self._model(stage.critic)

    def _located(self, start: str) -> str:
        """The model that a start means."""
        if self.lineage.stage(start) is not None:
            return self._model(start)
        return locate(start, base=self.config.base, runs=Path(self.config.output))

    def _model(self, stage: str) -> str:
        """The model of a stage; of one that trains nothing, the one that it started from."""
        folder = self.folder / stage / "model"
        return str(folder) if folder.is_dir() else self._located(self._record(stage).start)

    def _record(self, stage: str) -> StageRecord:
        record = self.lineage.stage(stage)
        if record is None:
            raise CheckpointError(
                f"{self.folder / LINEAGE} does not know stage `{stage}`", "restore it, or begin afresh with --new"
            )
        return record

    def _trains(self, stage: StageConfig) -> bool:
        return kind_of(self._algorithm(stage)) is not None

    def _algorithm(self, stage: StageConfig) -> Algorithm:
        return algorithm(stage.algorithm, self.config.base)


def _say(ranks: Ranks, *lines: str) -> None:
    if ranks.rank == 0:
        for line in lines:
            print(line, flush=True)

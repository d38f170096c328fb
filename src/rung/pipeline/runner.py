"""Runs a path: trains and evaluates its stages in order, decides the gate of each, and reads the test set at the end.

The files in the folder of a run show whether the run is to be started or resumed, or has finished: a finished stage and
a finished run have the file `DONE`, which is written last and has the hashes of the others. What a stage starts from is
written before it trains. A run that was killed at any point is therefore resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rung.algorithm import Algorithm
from rung.artifacts.changes import date_of, record_changes, refuse_changes
from rung.artifacts.claim import claimed
from rung.artifacts.conditions import FILE as CONDITIONS
from rung.artifacts.data_card import DATA, read_data_card, refuse_other_rows, rows_changed
from rung.artifacts.finished import check_files, finish_run, finish_stage, finished_stage, run_is_finished
from rung.artifacts.folder import CONFIG, EVALUATIONS, INITIAL, LINEAGE, REPORT
from rung.artifacts.lineage import DataRecord, Lineage, StageRecord, hash_weights
from rung.artifacts.locate import locate
from rung.artifacts.reward_models import reward_models
from rung.artifacts.start import read_start
from rung.config import PathConfig, StageConfig
from rung.config.algorithms import make_algorithm
from rung.config.schema import UPDATED_REFERENCES
from rung.data.report import DataReport
from rung.data.template_choice import rendering
from rung.distributed.ranks import Ranks, init_ranks
from rung.evaluation.evaluate import Evaluation
from rung.evaluation.gate import Decision, decide
from rung.pipeline.begin import accept_drift, begin_run, begin_stage, write_begun
from rung.pipeline.check import Checked, check
from rung.pipeline.evaluations import EvaluationSet
from rung.pipeline.model_size import resolve_by_model
from rung.pipeline.requirements import check_4bit
from rung.pipeline.stage_settings import stage_settings
from rung.pipeline.train_stage import train_stage
from rung.report import Entry, Report, render, write
from rung.training.trackers import METRICS
from rung.utils.allowed_code import only_allowed
from rung.utils.console import say
from rung.utils.files import write_text
from rung.utils.signals import EXIT_INCONCLUSIVE, EXIT_KEPT, EXIT_STOPPED, StopFlag
from rung.utils.user_files import code_lines
from rung.utils.yaml_file import as_yaml

HEAD = "head"
START = INITIAL
_REPORT_FILES = (CONFIG, CONDITIONS, LINEAGE, "report.*", "scores.svg", "*/curves.svg")


@dataclass(frozen=True, slots=True)
class Run:
    """The result of `run_path`: the folder, the records of the stages, and whether the run finished or was stopped."""

    folder: Path
    lineage: Lineage
    finished: bool

    def exit_code(self, *, strict: bool) -> int:
        """The exit code of the command: 0, or 75 if the run was stopped.

        If `strict`, also 3 if a stage was not promoted, else 4 if a gate is inconclusive.
        """
        if not self.finished:
            return EXIT_STOPPED
        outcomes = {record.outcome for record in self.lineage.stages}
        if strict and "kept" in outcomes:
            return EXIT_KEPT
        return EXIT_INCONCLUSIVE if strict and "inconclusive" in outcomes else 0


def run_path(config: PathConfig, *, new: bool = False, fully_shard: bool = False, allow_drift: bool = False) -> Run:
    """Runs a path, or resumes it where it stopped; with `new`, starts a new run in a folder of its own.

    If there are several processes (`torchrun` or `rung run --nproc`), all of them call this function. With
    `fully_shard`, each rank has a shard of the weights, otherwise a replica. The result does not depend on the number
    of ranks, on sharding, or on whether the run was resumed. Everything is checked before anything is computed or
    written. A run that began under other conditions (versions, threads, code, rows, models) is refused or, with
    `allow_drift`, goes on and records them. Raises UserError, for example if the folder has a run of another config;
    the files of earlier runs are always kept.
    """
    config = resolve_by_model(config)
    with (
        only_allowed(config.code),
        init_ranks(fully_shard) as ranks,
        StopFlag() as stop,
        claimed(config, new, ranks) as folder,
    ):
        day = date_of(config, folder)
        config = config.model_copy(update={"name": folder.name, "date": day}).at(config.base)
        changes = refuse_changes(config, folder)
        if run_is_finished(folder):
            _print(ranks, f"{folder} is finished: see {folder / REPORT}; `--new` starts a new run beside it")
            return Run(folder, Lineage.load(folder / LINEAGE), finished=True)
        with rendering(day, config.chat_template, config.base):
            checked = check(config)
            config = checked.config
            for stage in config.stages:
                check_4bit(stage, sharded=ranks.sharded)
            changes += begin_run(checked, folder, ranks, allow_drift=allow_drift)
            ranks.gather(None)  # rank 0 must not write the conditions before every rank has read them
            if ranks.rank == 0:
                _print(ranks, *(record_changes(changes, config, folder) if changes else ()))
                write_begun(checked, folder, ranks)
            _print(ranks, *code_lines(config.base), *(note for note in checked.notes if note.startswith("warning: ")))
            ranks.gather(None)
            return _PathRun(checked, folder, ranks, allow_drift=allow_drift).run(stop)


def _data_record(folder: Path) -> DataRecord | None:
    """What the lineage keeps of the data card of a stage; None if the stage has none."""
    card = read_data_card(folder)
    if card is None:
        return None
    dropped = {cause: tally["count"] for cause, tally in card["dropped"].items()}
    return DataRecord(rows=card["rows"], encoded=card["encoded"], dropped=dropped, fingerprint=card["fingerprint"])


class _PathRun:
    """Runs the stages of one run in its folder.

    All ranks train; only rank 0 evaluates and writes files, which the other ranks then read. The records of finished
    stages are read from their `DONE`; `lineage.json` repeats them for readers, and adds the changes of the config.
    """

    def __init__(self, checked: Checked, folder: Path, ranks: Ranks, *, allow_drift: bool):
        self.config, self.folder, self.ranks, self.allow_drift = checked.config, folder, ranks, allow_drift
        self.evaluations, self.data = checked.evaluations, dict(checked.data)
        self.lineage = self._read_lineage()

    def run(self, stop: StopFlag) -> Run:
        for stage in self.config.stages:
            done = self.lineage.stage(stage.name) is not None
            if not done and not (self.ranks.agree(not stop.requested) and self._run_stage(stage, stop)):
                _print(self.ranks, f"stopped in stage `{stage.name}`; the same command resumes it")
                return Run(self.folder, self.lineage, finished=False)
            gate = self.config.gate_of(stage)
            record = self._record(stage.name)
            if gate is not None and gate.on_gate == "stop" and record.decision and not record.accepted:
                break
        if not self.ranks.agree(not stop.requested):
            _print(self.ranks, "stopped before the test set was read; the same command resumes the run")
            return Run(self.folder, self.lineage, finished=False)
        if self.ranks.rank == 0:
            self._finish()
        self.ranks.gather(None)
        return Run(self.folder, Lineage.load(self.folder / LINEAGE), finished=True)

    def _run_stage(self, stage: StageConfig, stop: StopFlag) -> bool:
        """Trains and evaluates a stage; returns False if it was stopped before it finished."""
        folder = self.folder / stage.name
        begun = read_start(folder)
        start = begun.start if begun is not None else self._start(stage)
        locations = self._locations(stage, start)
        self.ranks.gather(None)  # rank 0 must not write the start before every rank has read it
        if self.ranks.rank == 0:
            begin_stage(folder, begun, start, locations, allow_drift=self.allow_drift)
        self.ranks.gather(None)
        if self._trains(stage) and not self._train(stage, locations, folder, stop):
            return False
        if self.ranks.rank == 0:
            record = self._decide(stage, start, locations)
            finish_stage(folder, record)
            _print(self.ranks, f"{stage.name}: {record.outcome}", *(record.decision.reasons if record.decision else ()))
        self.ranks.gather(None)
        self.lineage = self._read_lineage()
        if self.ranks.rank == 0:
            self.lineage.save(self.folder / LINEAGE)
        return True

    def _locations(self, stage: StageConfig, start: str) -> dict[str, str]:
        """The locations of the models that a stage reads, by role."""
        located = {"start": self._located(start)}
        if not self._trains(stage):
            return located
        if stage.reference not in (START, *UPDATED_REFERENCES):
            located["reference"] = self._model(stage.reference)
        critic = self._critic(stage, start)
        if critic is not None:
            located["critic"] = critic
        if stage.teacher is not None:
            located["teacher"] = self._located(stage.teacher)
        settings = stage_settings(stage, self.config, self._algorithm(stage))
        return located | {f"reward model {name}": model for name, model in reward_models(settings.rewards).items()}

    def _train(self, stage: StageConfig, locations: Mapping[str, str], folder: Path, stop: StopFlag) -> bool:
        """Trains a stage or resumes its training; returns False if it was stopped before it finished."""
        if self.ranks.rank == 0:
            write_text(folder / CONFIG, as_yaml(stage.model_dump(mode="json", by_alias=True)))
        return train_stage(
            stage_settings(stage, self.config, self._algorithm(stage)),
            start=locations["start"],
            reference=locations.get("reference"),
            critic=locations.get("critic"),
            teacher=locations.get("teacher"),
            data=self.data.pop(stage.name, None),  # so that the rows are freed when the stage has finished
            trackers=self.config.trackers,
            run_name=f"{self.config.name}-{stage.name}",
            folder=folder,
            ranks=self.ranks,
            stop=stop,
            check_rows=self._accept_rows if self.allow_drift else refuse_other_rows,
        )

    def _accept_rows(self, folder: Path, report: DataReport) -> None:
        """Records that a stage goes on with other rows than those with which it began."""
        changed = rows_changed(folder, report)
        if changed is not None and self.ranks.rank == 0:
            accept_drift(self.folder, folder.name, {"data": changed}, allowed=True)

    def _decide(self, stage: StageConfig, start: str, locations: Mapping[str, str]) -> StageRecord:
        """Evaluates a stage on the validation set and decides its gate; returns the record of the stage."""
        folder = self.folder / stage.name
        makes_policy = self._algorithm(stage).makes_policy()
        gate = self.config.gate_of(stage) if self._trains(stage) and makes_policy else None
        location = str(folder / "model") if self._trains(stage) else locations["start"]
        measured = list(self._evaluate(stage, location, "validation")) if makes_policy else []
        decision: Decision | None = None
        if gate is not None:
            decision = decide(gate, self._baseline(measured[0].num_shots), measured[0], self.evaluations.goals)
        return StageRecord(
            stage=stage.name,
            start=start,
            outcome=decision.outcome if decision else "trained" if self._trains(stage) else "baseline",
            makes_policy=makes_policy,
            weights=hash_weights(folder / "model") if self._trains(stage) else None,
            reads={"validation": len(measured)} if measured else {},
            decision=decision,
            data=_data_record(folder),
        )

    def _baseline(self, num_shots: int) -> Evaluation:
        """The validation results of the last accepted policy, or of the initial model if there is none yet."""
        accepted = self.lineage.last_accepted()
        location = self._model(accepted.stage) if accepted else self._located(self.config.model)
        file = self._file(accepted.stage if accepted else START, "validation", num_shots)
        label = accepted.stage if accepted else START
        return self.evaluations.evaluate(location, "validation", num_shots, file, label=label)

    def _finish(self) -> None:
        """Evaluates all stages on the test set and writes the report, with which the run is finished."""
        import rich

        entries: dict[EvaluationSet, list[Entry]] = {"validation": [], "test": []}
        for record in self.lineage.stages:
            stage = next(stage for stage in self.config.stages if stage.name == record.stage)
            if not record.makes_policy:
                continue
            for evaluation_set, several in entries.items():
                measured = self._evaluate(stage, self._model(stage.name), evaluation_set)
                several += [Entry(stage.name, evaluation) for evaluation in measured]
            if self.evaluations.test:
                record = record.model_copy(update={"reads": {**record.reads, "test": 1}})
                self.lineage = self.lineage.with_stage(record)
        self.lineage.save(self.folder / LINEAGE)
        for record in self.lineage.stages:
            found = finished_stage(self.folder / record.stage)
            if found is not None:
                check_files(self.folder / record.stage, found, METRICS, DATA)
        goals = self.evaluations.goals
        report = Report(name=self.folder.name, lineage=self.lineage, metrics=list(goals), goals=goals, **entries)
        sections = write(self.folder, report)
        finish_run(self.folder, [file for pattern in _REPORT_FILES for file in self.folder.glob(pattern)])
        rich.print(render(sections))
        _print(self.ranks, f"finished: {self.folder / REPORT}")

    def _evaluate(self, stage: StageConfig, location: str, evaluation_set: EvaluationSet) -> Iterator[Evaluation]:
        """The evaluations of a stage's model, one for each number of shots."""
        if self.evaluations.items(evaluation_set):
            for num_shots in self.config.shots_of(stage):
                file = self._file(stage.name, evaluation_set, num_shots)
                yield self.evaluations.evaluate(location, evaluation_set, num_shots, file, label=stage.name)

    def _file(self, owner: str, evaluation_set: EvaluationSet, num_shots: int) -> Path:
        """The file of an evaluation: `evaluation.json` (validation) or `test.json` in the folder `owner`.

        `owner` is a stage or `start`. If `num_shots` is not the first of its numbers of shots, the name contains it.
        """
        stage = next((stage for stage in self.config.stages if stage.name == owner), None)
        first = self.config.shots_of(stage)[0] if stage else self.config.evaluate.shots[0]
        word = EVALUATIONS if evaluation_set == "validation" else evaluation_set
        return self.folder / owner / (f"{word}.json" if num_shots == first else f"{word}-{num_shots}-shot.json")

    def _read_lineage(self) -> Lineage:
        """The lineage of the run, whose records are those of the finished stages."""
        found = [finished_stage(self.folder / stage.name) for stage in self.config.stages]
        records = tuple(each.record for each in found if each is not None and each.record is not None)
        return Lineage(stages=records, changes=Lineage.load(self.folder / LINEAGE).changes)

    def _start(self, stage: StageConfig) -> str:
        """The model that a stage starts from, in the form that `StageRecord.start` has."""
        accepted = self.lineage.last_accepted()
        return stage.start or (accepted.stage if accepted else self.config.model)

    def _critic(self, stage: StageConfig, start: str) -> str | None:
        """The location of the model that initialises a stage's critic; None if the critic is a head on the policy."""
        if stage.critic in (None, HEAD):
            return None
        return self._located(start) if stage.critic == START else self._model(stage.critic)

    def _located(self, start: str) -> str:
        """The location of a model that is named as in `StageRecord.start`."""
        if self.lineage.stage(start) is not None:
            return self._model(start)
        return locate(start, base=self.config.base, runs=Path(self.config.output))

    def _model(self, stage: str) -> str:
        """The location of a finished stage's model; if it trained nothing, that of the model it started from."""
        record = self._record(stage)
        return self._located(record.start) if record.weights is None else str(self.folder / stage / "model")

    def _record(self, stage: str) -> StageRecord:
        record = self.lineage.stage(stage)
        assert record is not None, "the config is checked: only earlier stages are named, and they have finished"
        return record

    def _trains(self, stage: StageConfig) -> bool:
        return self._algorithm(stage).data_kind() is not None

    def _algorithm(self, stage: StageConfig) -> Algorithm:
        return make_algorithm(stage.algorithm, self.config.base)


def _print(ranks: Ranks, *lines: str) -> None:
    if ranks.rank == 0:
        say(*lines)

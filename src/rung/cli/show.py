"""What the commands print: reports of runs, metrics of stages, the names that a config can use, and completions."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.artifacts.folder import CONFIG, PAGE
from rung.errors import ConfigError, UserError
from rung.training.trackers import COMPLETIONS, METRICS, read_rows
from rung.utils.console import readable_completions
from rung.utils.messages import did_you_mean
from rung.utils.names import inside

if TYPE_CHECKING:
    from rung.algorithm import Algorithm
    from rung.evaluation.evaluate import Evaluation
    from rung.report import Rendered

_DATA = {
    "text": "text, chats, prompt with completion",
    "unpaired": "labelled completions, pairs",
    "prompts": "prompts, rewards",
}
_NEEDS = {
    "reference": "reference",
    "old_logps": "old log-probs",
    "sampled_logps": "log-probs of the sampler",
    "separate_rewards": "separate rewards",
    "values": "critic",
    "score_head": "score head",
    "teacher": "teacher",
}
_DEFAULTS = re.compile(r"^Defaults: (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
_NAMED_SOURCE = re.compile(r"([\w,\s]+)\s\(([^)]+)\)")


def find_run(name: str, output: Path) -> Path:
    """The folder of a run; `name` is this folder or its name in `output`. Raises ConfigError if it does not exist."""
    folder = Path(name) if (Path(name) / CONFIG).is_file() else inside(output, name)
    if not (folder / CONFIG).is_file():
        runs = [file.parent.name for file in output.glob(f"*/{CONFIG}")]
        raise ConfigError(f"there is no run in {folder}", did_you_mean(name, runs))
    return folder


def runs(output: Path) -> list[dict[str, str]]:
    """A row for each run in `output`: its name, its stages with their outcomes, and whether it is finished.

    Raises ConfigError if there is none.
    """
    folders = sorted(file.parent for file in output.glob(f"*/{CONFIG}"))
    if not folders:
        raise ConfigError(
            f"there is no run in {output}", "start one by `rung run CONFIG`, or name a folder by `--output`"
        )
    return [_listed(folder) for folder in folders]


def _listed(folder: Path) -> dict[str, str]:
    from rung.artifacts.finished import records_of, run_is_finished

    try:
        stages = ", ".join(f"{record.stage} {record.outcome}" for record in records_of(folder))
    except UserError as error:  # a damaged run, which is listed beside the others
        stages = error.what
    return {"run": folder.name, "stages": stages, "finished": "yes" if run_is_finished(folder) else "no"}


def report(folder: Path) -> Rendered:
    """The report of a finished run, or the outcomes so far of an unfinished one, to be printed by rich."""
    from rung.artifacts.finished import records_of, run_is_finished
    from rung.report import Section, Table, read, render

    if run_is_finished(folder):
        note = f"Curves and examples: {folder / PAGE}."
        return render([Section(folder.name, (note,)), *read(folder)])
    stages = records_of(folder)
    rows = tuple((each.stage, each.start, each.outcome) for each in stages)
    note = f"{folder} is not finished; `rung run` with its config resumes it."
    overview = Section(folder.name, (note,), Table(("stage", "started from", "outcome"), rows, num_texts=3))
    decisions = [(each.stage, each.decision) for each in stages if each.decision]
    gates = tuple(f"{stage}: {reason}." for stage, decision in decisions for reason in decision.reasons)
    return render([overview, Section("Gates", gates)] if gates else [overview])


def training(folder: Path, stage: str) -> list[dict[str, Any]]:
    """A row for each metric in a stage's metrics.jsonl: its first and last value and a sparkline.

    Raises ConfigError if the stage has no metrics.
    """
    from rung.report import read_metrics
    from rung.utils.console import spark

    lines = read_metrics(inside(folder, stage) / METRICS)
    if not lines:
        stages = [file.parent.name for file in folder.glob(f"*/{METRICS}")]
        raise ConfigError(f"{folder} has no trained stage `{stage}`", did_you_mean(stage, stages))
    return [
        {"metric": name, "first": line.first, "last": line.last, "course": spark(line.values.tolist())}
        for name, line in lines.items()
    ]


def completions(folder: Path, stage: str, limit: int = 4) -> list[dict[str, Any]]:
    """The logged completions (at most `limit`) of the last step with any, of different prompts if there are several.

    Of a conversation only the last turn is shown; columns and details are left to the file.
    """
    rows = list(read_rows(inside(folder, stage) / COMPLETIONS))
    last = readable_completions([row for row in rows if row["step"] == rows[-1]["step"]], limit)
    return [{key: _last_turn(value) for key, value in row.items()} for row in last]


def catalogue(kind: str) -> list[dict[str, str]]:
    """The names of one kind (`rewards`, `formats`, ...) that a config can use, each with a short description."""
    return [{"name": name, "about": about} for name, about in _CATALOGUES[kind]().items()]


def algorithms() -> list[dict[str, str]]:
    """A row for each registered algorithm: a short description, its data, needs, defaults and page in the docs."""
    from rung.config.algorithms import algorithm_classes

    return [
        {
            "name": name,
            "about": _first_line(found),
            "data": _data(found),
            "needs": ", ".join(words for need, words in _NEEDS.items() if need in _needs(found)),
            "defaults": _defaults(found),
            "page": _page(found),
        }
        for name, found in sorted(algorithm_classes().items())
    ]


def default_sources(algorithm: type[Algorithm]) -> dict[str, str]:
    """The source (paper or library) of the default of each field of an algorithm, by field name.

    Sources are read from a paragraph in the docstring of the class, such as
    `Defaults: beta, loss_type (arXiv 2305.18290); lam (TRL).`; those of inherited fields come from the base classes.
    """
    found: dict[str, str] = {}
    for cls in reversed(algorithm.__mro__):
        paragraph = _DEFAULTS.search(inspect.cleandoc(vars(cls).get("__doc__") or ""))
        for names, source in _NAMED_SOURCE.findall(paragraph[1]) if paragraph else ():
            found |= dict.fromkeys(re.findall(r"\w+", names), " ".join(source.split()))
    return found


def scores(evaluation: Evaluation) -> Rendered:
    """A table of the scores of one evaluation, with the reasons why items have no score, to be printed by rich."""
    from rung.report import measured, render

    return render([measured(evaluation)])


def _last_turn(value: Any) -> Any:
    messages = isinstance(value, list) and value and isinstance(value[-1], dict)
    return value[-1].get("content") if messages else value


def _rewards() -> dict[str, str]:
    from rung.reward.registry import reward_function, reward_names

    return {name: _first_line(reward_function(name)) for name in reward_names()}


def _formats() -> dict[str, str]:
    from rung.data.formats import all_formats

    return {format.name: format.signature for format in all_formats()}


def _samplers() -> dict[str, str]:
    from rung.rollout.samplers import SAMPLERS

    return {name: _first_line(found) for name, found in sorted(SAMPLERS.all().items())}


def _trackers() -> dict[str, str]:
    from rung.training.trackers import TRACKERS

    return {name: _first_line(found) for name, found in sorted(TRACKERS.all().items())}


def _models() -> dict[str, str]:
    from rung.tiny.models import FAMILIES, NAMES

    about = {
        "base": "the shipped pretrained model, from which the shipped paths start",
        "blank": "the untrained model that the base was pretrained from",
    }
    return {f"tiny:{name}": "random weights, for tests" if name in FAMILIES else about.get(name, "") for name in NAMES}


def _tasks() -> dict[str, str]:
    from rung.tiny.tasks import TASKS

    return {f"task:{name}": _first_line(make) for name, make in TASKS.items()}


def _configs() -> dict[str, str]:
    from rung.config import shipped_configs

    found = shipped_configs()
    return {name: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, file in found.items()}


def _example(algorithm: type[Algorithm]) -> Algorithm:
    """An instance of the algorithm with its defaults; not validated if some setting has no default."""
    required = any(field.is_required() for field in algorithm.model_fields.values())
    return algorithm.model_construct() if required else algorithm()


def _needs(algorithm: type[Algorithm]) -> frozenset[str]:
    return frozenset(_example(algorithm).needs())


def _data(algorithm: type[Algorithm]) -> str:
    kind = _example(algorithm).data_kind()
    if kind == "pairs":
        return "pairs" if algorithm.group_size == 2 else "pairs, rankings"
    if kind == "prompts" and not algorithm.reads_rewards:
        return "prompts"
    return "none: it trains no weights" if kind is None else _DATA[kind]


def _defaults(algorithm: type[Algorithm]) -> str:
    """The settings with their defaults, grouped by the source of the default; those without a source come last."""
    sources = default_sources(algorithm)
    groups: dict[str, list[str]] = {}
    for name, field in algorithm.model_fields.items():
        value = "required" if field.is_required() else _formatted(field.get_default(call_default_factory=True))
        groups.setdefault(sources.get(name, ""), []).append(f"{name} {value}")
    plain = [", ".join(groups.pop(""))] if "" in groups else []
    return "; ".join([f"{', '.join(settings)} ({source})" for source, settings in groups.items()] + plain)


def _formatted(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _page(algorithm: type[Algorithm]) -> str:
    """The path of the docs page of a built-in algorithm from the repository root; empty for other algorithms.

    An algorithm that trains nothing has no page of its own: the path is that of the README.
    """
    package, _, module = algorithm.__module__.rpartition(".")
    if package != "rung.algorithms":
        return ""
    return f"docs/algorithms/{module if _example(algorithm).data_kind() else 'README'}.md"


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


_CATALOGUES = {
    "rewards": _rewards,
    "formats": _formats,
    "samplers": _samplers,
    "trackers": _trackers,
    "models": _models,
    "tasks": _tasks,
    "configs": _configs,
}

"""What the command shows: runs, their stages, what a config may name, and completions of any model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.errors import ConfigError, DataError
from rung.names import inside
from rung.registry import hint
from rung.run_folder import CONFIG, LINEAGE, REPORT
from rung.tracking import COMPLETIONS, METRICS


def find_run(name: str, output: Path) -> Path:
    """The folder of a run, by its folder or by its name in `output`; ConfigError where there is none."""
    folder = Path(name) if (Path(name) / CONFIG).is_file() else inside(output, name)
    if not (folder / CONFIG).is_file():
        runs = [file.parent.name for file in output.glob(f"*/{CONFIG}")]
        raise ConfigError(f"there is no run in {folder}", hint(name, runs))
    return folder


def report(folder: Path) -> str:
    """The report of a finished run; of another, how far its stages have come."""
    from rung.lineage import Lineage

    if (folder / REPORT).exists():
        return (folder / REPORT).read_text(encoding="utf-8")
    lines = [f"{folder} is not finished; `rung run` with its config goes on"]
    for record in Lineage.load(folder / LINEAGE).stages:
        lines.append(f"{record.stage}: {record.outcome}, from {record.start}")
        lines += [f"  {reason}" for reason in (record.decision.reasons if record.decision else ())]
    return "\n".join(lines)


def last_step(folder: Path, stage: str) -> dict[str, Any]:
    """The last line of a stage's metrics.jsonl; ConfigError where it has none."""
    rows = _rows(inside(folder, stage) / METRICS)
    if not rows:
        stages = [file.parent.name for file in folder.glob(f"*/{METRICS}")]
        raise ConfigError(f"{folder} has no trained stage `{stage}`", hint(stage, stages))
    return rows[-1]


def completions(folder: Path, stage: str, limit: int = 4) -> list[dict[str, Any]]:
    """Completions of the last step that kept any, conversations by the text of their last turn."""
    rows = _rows(inside(folder, stage) / COMPLETIONS)
    last = [row for row in rows if row["step"] == rows[-1]["step"]][:limit]
    return [{key: _last_turn(value) for key, value in row.items()} for row in last]


def catalogue(kind: str) -> list[dict[str, str]]:
    """What a config may name, with a line about each."""
    return [{"name": name, "about": about} for name, about in _CATALOGUES[kind]().items()]


def sampled(
    location: str,
    prompts: Sequence[str],
    num_generations: int,
    *,
    seed: int,
    max_completion_length: int,
    temperature: float,
) -> list[str]:
    """The texts that a model gives: `num_generations` for each prompt, in order; DataError for one without a token."""
    from rung.data.encode import encode_prompt
    from rung.data.records import BadRow
    from rung.models import load_model, placed
    from rung.rollout.draw import Sampling
    from rung.rollout.philox import Key
    from rung.rollout.sampler import LocalSampler

    sampling = Sampling(max_completion_length=max_completion_length, temperature=temperature)
    model, tokenizer = load_model(location, seed=seed)
    chats = tokenizer.chat_template is not None
    try:
        asked = [encode_prompt(({"role": "user", "content": text},) if chats else text, tokenizer) for text in prompts]
    except BadRow as fault:
        raise DataError(f"one of the prompts cannot be asked: {fault}", "write a text") from None
    drawn = LocalSampler(placed(model), tokenizer).sample(
        asked, num_generations, visits=range(len(asked)), key=Key(seed, "", "generate"), sampling=sampling
    )
    return [str(tokenizer.decode(list(one.ids), skip_special_tokens=True)) for several in drawn for one in several]


def _last_turn(value: Any) -> Any:
    messages = isinstance(value, list) and value and isinstance(value[-1], dict)
    return value[-1].get("content") if messages else value


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def _algorithms() -> dict[str, str]:
    from rung.registry import algorithm_classes

    return {name: _first_line(found) for name, found in sorted(algorithm_classes().items())}


def _rewards() -> dict[str, str]:
    from rung.registry import reward_function, reward_names

    return {name: _first_line(reward_function(name)) for name in reward_names()}


def _models() -> dict[str, str]:
    from rung.tiny.models import FAMILIES, NAMES

    about = {"base": "the shipped base, which paths start from", "blank": "what the base was trained from"}
    return {f"tiny:{name}": "random weights, for tests" if name in FAMILIES else about.get(name, "") for name in NAMES}


def _tasks() -> dict[str, str]:
    from rung.tiny.tasks import TASKS

    return {f"task:{name}": _first_line(make) for name, make in TASKS.items()}


def _configs() -> dict[str, str]:
    from rung.config import shipped_configs

    found = shipped_configs()
    return {name: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, file in found.items()}


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


_CATALOGUES = {"algorithms": _algorithms, "rewards": _rewards, "models": _models, "tasks": _tasks, "configs": _configs}

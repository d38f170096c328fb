"""`rung check` and the end of a run: rows of the table, gates that read what is there, and exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.rows import write_rows
from rung.artifacts.lineage import Lineage, StageRecord
from rung.config import PathConfig, parse_config
from rung.errors import ConfigError, RewardError
from rung.pipeline.check import check
from rung.pipeline.runner import Run


@pytest.mark.parametrize(
    ("outcomes", "finished", "lax", "strict"),
    [
        ([], True, 0, 0),
        (["promoted", "trained"], True, 0, 0),
        (["promoted", "kept"], True, 0, 3),
        (["inconclusive", "promoted"], True, 0, 4),
        (["inconclusive", "kept"], True, 0, 3),
        (["kept"], False, 75, 75),
    ],
)
def test_a_run_ends_with_a_code(outcomes: list[str], finished: bool, lax: int, strict: int) -> None:
    records = [{"stage": f"s{i}", "start": "x", "outcome": outcome} for i, outcome in enumerate(outcomes)]
    run = Run(Path(), Lineage(stages=tuple(map(StageRecord.model_validate, records))), finished)
    assert (run.exit_code(strict=False), run.exit_code(strict=True)) == (lax, strict)


def config(folder: Path, *stages: dict[str, Any], **more: Any) -> PathConfig:
    rows = [{"prompt": f"{i}?", "completion": "b", "answer": "b"} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {"name": "p", "model": "tiny:llama", "data": {"train": "rows.jsonl"}, "stages": list(stages), **more}
    return parse_config(raw, source="test", base=folder)


SFT = {"name": "sft", "algorithm": "sft", "data": "train"}


def test_columns_that_no_reward_and_no_metric_reads_are_listed(tmp_path: Path) -> None:
    """`answer` is read by a reward or a metric, `level` and `note` by nothing."""
    rows = [{"prompt": f"{i}?", "completion": "b", "answer": "b", "level": i, "note": "n"} for i in range(6)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "columns kept for rewards and metrics: "
    more = SFT | {"data": "more.jsonl"}
    assert f"sft: {told}answer, level, note" in check(config(tmp_path, more)).notes
    evaluate = {"validation": "train", "metrics": ["exact_match"]}
    assert f"sft: {told}level, note" in check(config(tmp_path, more, evaluate=evaluate)).notes
    rewarded = {"name": "rl", "algorithm": "grpo", "data": "more.jsonl", "rewards": ["exact_match"]}
    assert f"rl: {told}level, note" in check(config(tmp_path, rewarded)).notes


def test_plain_prompts_for_a_model_with_a_chat_template_are_noticed(tmp_path: Path) -> None:
    """Not if the config says how prompts are asked, not of raw text or chats, and not of the shipped tasks."""

    def noticed(**more: Any) -> int:
        return sum("notice: the prompts are plain text" in note for note in check(config(tmp_path, **more)).notes)

    def config(folder: Path, data: str = "rows.jsonl", **more: Any) -> PathConfig:
        raw = {"name": "p", "model": "tiny:llama", "stages": [SFT | {"data": data}], **more}
        return parse_config(raw, source="test", base=folder)

    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    write_rows(tmp_path, {"rows": [{"prompt": "a", "completion": "b"}], "raw": [{"text": "a b c"}], "chats": [chat]})
    assert noticed() == 1
    for template in ("chat", None, "Q: {prompt}"):
        assert noticed(prompt_template=template) == 0
    assert [noticed(data=name) for name in ("raw.jsonl", "chats.jsonl", "task:arithmetic/sft")] == [0, 0, 0]


def test_each_stage_has_its_row(tmp_path: Path) -> None:
    asked = config(
        tmp_path,
        {"name": "ask", "algorithm": "prompt"},
        SFT | {"batch_size": 3, "learning_rate": 0.25, "max_steps": 7},
        SFT | {"name": "more", "from": "sft", "data": {"path": "rows.jsonl"}, "num_train_epochs": 1.5, "batch_size": 2},
    )
    checked = check(asked)
    assert checked.rows[0] == {
        "stage": "ask",
        "algorithm": "prompt",
        "from": "tiny:llama",
        **dict.fromkeys(("data", "rows", "lr", "batch", "length")),
    }
    first = {"stage": "sft", "algorithm": "sft", "from": "ask", "data": "train", "rows": 6}
    assert checked.rows[1] == first | {"lr": 0.25, "batch": 3, "length": "7 steps"}
    assert checked.rows[2]["data"] == "rows.jsonl"
    assert (checked.rows[2]["from"], checked.rows[2]["length"]) == ("sft", "1.5 epochs")
    assert checked.notes[0] == "tiny:llama is a tiny model and gets the defaults of configs/defaults/tiny.yaml"
    assert checked.notes[1].startswith("sft: 6 rows, 6 examples, 6 encoded")


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"gate": {"metric": "exact_match"}}, {}, "has a gate, but `evaluate.validation` has no items"),
        (
            {"gate": {"metric": "other"}},
            {"evaluate": {"validation": "train", "metrics": ["exact_match"]}},
            "reads `other`, which is not a metric",
        ),
        (
            {"gate": {"metric": "exact_match", "guards": [{"metric": "other", "tolerance": 0}]}},
            {"evaluate": {"validation": "train", "metrics": ["exact_match"]}},
            "reads `other`, which is not a metric",
        ),
        ({"from": "nowhere/here"}, {}, "neither an earlier stage nor a folder"),
        ({"optimizer": "adamv"}, {}, "stage `sft`: there is no optimizer `adamv`"),
        ({"adapter": {"lora": {"rank": 3}}}, {}, "stage `sft`: unknown key `adapter.lora.rank`"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-9}, {}, "stage `sft`: `lr_scheduler_type"),
        ({}, {"trackers": ["wandbb"]}, "no tracker `wandbb`"),
        ({}, {"evaluate": {"metrics": ["exact_match"]}}, "without `evaluate.validation`"),
        (
            {"shots": [3]},
            {"evaluate": {"validation": "train", "metrics": ["exact_match"]}},
            "`shots` is above 0, but `evaluate.shots_from` is not set",
        ),
    ],
)
def test_what_can_be_known_is_told_before_anything_is_computed(
    tmp_path: Path, changes: dict, more: dict, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        check(config(tmp_path, SFT | changes, **more))


def test_a_reward_model_is_no_start(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{i}?", "chosen": "b", "rejected": "c"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    judge = {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl", "batch_size": 2}
    check(config(tmp_path, judge, SFT))
    with pytest.raises(ConfigError, match="stage `sft` starts from `rm`, which is a reward model"):
        check(config(tmp_path, judge, SFT | {"from": "rm"}))


def test_items_whose_prompts_are_trained_on_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}+1?", "completion": str(number)} for number in range(20)]
    write_rows(tmp_path, {"rows": rows})
    raw = {
        "name": "shared",
        "model": "tiny:llama",
        "data": {"train": {"path": "rows.jsonl", "share": {"to": 0.8}}},
        "evaluate": {"validation": {"path": "rows.jsonl", "share": {"from": 0.5}}},
        "stages": [{"name": "sft", "algorithm": "sft", "data": "train"}],
    }

    def warnings() -> list[str]:
        notes = check(parse_config(raw, source="test", base=tmp_path)).notes
        return [note for note in notes if "trains on the prompts" in note]

    (told,) = warnings()
    assert re.match(r"warning: stage `sft` trains on the prompts of \d+ of \d+ items of `evaluate.validation`", told)
    raw["evaluate"]["validation"]["share"] = {"from": 0.8}
    assert warnings() == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"columns": {"answer": "Category"}}, "`Category` is read as `completion`; use `ground_truth`: write "),
        ({"columns": {"answer": "Kind"}}, "`Kind` is read as `level`; use `level`: write `columns: {answer: level}`"),
        ({"columns": {"answer": "nothing"}}, "write `columns: {answer: ...}`; "),
    ],
)
def test_a_metric_or_reward_of_a_renamed_column_is_told_its_new_name(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    rows = [{"Ticket": f"{i}?", "Category": "b", "Kind": "c"} for i in range(6)]
    write_rows(tmp_path, {"tickets": rows})
    data = {"path": "tickets.jsonl", "columns": {"prompt": "Ticket", "completion": "Category", "level": "Kind"}}
    scored = [{"name": "exact_match", **entry}]
    rewarded = {"name": "rl", "algorithm": "grpo", "data": data, "rewards": scored}
    for asked in (
        config(tmp_path, rewarded),
        config(tmp_path, SFT | {"data": data}, evaluate={"validation": data, "metrics": scored}),
    ):
        with pytest.raises(RewardError) as caught:
            check(asked)
        assert caught.value.remedy.startswith(said)


def test_a_stage_shows_the_model_from_which_it_starts(tmp_path: Path) -> None:
    """The model of the path, the stage before it, or the last promoted one if its gate decides that."""
    stages: list[dict[str, Any]] = [SFT | {"name": name} for name in ("one", "two", "three")]
    stages[1] = stages[1] | {"gate": {"metric": "exact_match"}}
    evaluate = {"validation": "train", "metrics": ["exact_match"]}
    checked = check(config(tmp_path, *stages, SFT | {"name": "four", "from": "one"}, evaluate=evaluate))
    assert [row["from"] for row in checked.rows] == ["tiny:llama", "one", "last promoted", "one"]


def test_evaluation_sets_are_told_with_their_size_and_longest_prompt(tmp_path: Path) -> None:
    write_rows(tmp_path, {"shots": [{"prompt": "a", "completion": "b"}]})
    evaluate = {"validation": "train", "test": {"path": "rows.jsonl", "limit": 2}, "shots_from": "shots.jsonl"}
    asked = config(tmp_path, SFT, evaluate=evaluate | {"shots": [0, 1], "max_completion_length": 4})
    told = [note for note in check(asked).notes if "items, the longest prompt" in note]
    assert len(told) == 4
    assert told[0].startswith("validation: 6 items, the longest prompt has ")
    assert told[1].endswith(" tokens with 1 shots")
    assert told[2].startswith("test: 2 items, ")


def test_a_completion_length_below_that_of_the_answers_is_warned_of(tmp_path: Path) -> None:
    """The answers are of 12 letters, with the end 13 tokens; the p99 of 100 answers leaves one longer one out."""
    rows = [{"prompt": f"{i}?", "completion": "abcdefghijkl"} for i in range(99)]
    write_rows(tmp_path, {"letters": [*rows, {"prompt": "x?", "completion": "a" * 40}]})

    def warned(limit: int) -> list[str]:
        rollout = {"max_completion_length": limit, "batch_size": 2}
        rl = {
            "name": "rl",
            "algorithm": "grpo",
            "data": "letters.jsonl",
            "rewards": [{"name": "exact_match", "columns": {"answer": "ground_truth"}}],
            "rollout": rollout,
        }
        evaluate = {"validation": "letters.jsonl", "max_completion_length": limit}
        return [
            note for note in check(config(tmp_path, rl, evaluate=evaluate)).notes if "max_completion_length" in note
        ]

    assert warned(13) == []
    rollout, evaluation = warned(12)
    what = "max_completion_length` 12 is below the 13 tokens of the answers"
    assert rollout.startswith(f"rl: warning: `rollout.{what} (p99)")
    assert evaluation.startswith(f"warning: `evaluate.{what} of `evaluate.validation` (p99)")

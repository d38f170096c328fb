"""Exams: what every model meets alike, what fits into its positions, and which shots are shown."""

import json
from pathlib import Path

import pytest

from rung.config import parse_config, resolve
from rung.data.load import load_examples
from rung.data.splits import sample
from rung.errors import ConfigError, DataError
from rung.models.load import load_model, save_model
from rung.pipeline.evaluations import Evaluations
from rung.tiny.models import build

ITEMS = [{"prompt": f"{i} + 1? ", "answer": str(i + 1)} for i in range(10, 14)]
SHOTS = [{"prompt": f"{i} + 1? ", "completion": str(i + 1)} for i in range(20, 26)]


def exam(folder: Path, **block) -> Evaluations:
    for name, rows in (("items", ITEMS), ("shots", SHOTS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate = {"validation": "items.jsonl", "test": "items.jsonl", "metrics": ["exact_match"], **block}
    stage = {"name": "sft", "algorithm": "sft", "data": "shots.jsonl"}
    raw = {"name": "edges", "model": "tiny:llama", "seed": 5, "evaluate": evaluate, "stages": [stage]}
    return Evaluations(resolve(parse_config(raw, source="test", base=folder), "tiny"))


def test_equal_models_in_two_places_meet_the_same_draws(tmp_path: Path) -> None:
    model, tokenizer = build("llama", seed=5)
    save_model(model, tokenizer, tmp_path / "model")
    taken = exam(tmp_path, max_completion_length=6, temperature=1.0)
    here, there = (
        taken.evaluate(place, "validation", 0) for place in ("tiny:llama", str(tmp_path / "model" / "model"))
    )
    assert [row.completion for row in here.rows] == [row.completion for row in there.rows]
    assert here.hash == there.hash


def test_the_two_sets_have_draws_of_their_own(tmp_path: Path) -> None:
    taken = exam(tmp_path, max_completion_length=6, temperature=1.0)
    validation, test = taken.evaluate("tiny:llama", "validation", 0), taken.evaluate("tiny:llama", "test", 0)
    assert [row.prompt for row in validation.rows] == [row.prompt for row in test.rows]
    assert [row.completion for row in validation.rows] != [row.completion for row in test.rows]


def test_an_item_and_its_answer_may_fill_the_positions_and_no_more(tmp_path: Path) -> None:
    """8 tokens of `10 + 1? ` in 512 positions leave 504 for the answer."""
    model, tokenizer = load_model("tiny:llama", seed=0)
    exam(tmp_path, max_completion_length=504).check_prompts("validation", 0, model, tokenizer)
    with pytest.raises(
        ConfigError, match=r"items.jsonl, row 1: 8 prompt tokens with 0 shots and 505 completion tokens exceed .* 512"
    ):
        exam(tmp_path, max_completion_length=505).check_prompts("validation", 0, model, tokenizer)


def test_shots_count_towards_the_positions(tmp_path: Path) -> None:
    """A shot has 8 bytes, 2 of its answer and 2 line ends: 12 more tokens."""
    model, tokenizer = load_model("tiny:llama", seed=0)
    exam(tmp_path, max_completion_length=492, shots_from="shots.jsonl").check_prompts("test", 1, model, tokenizer)
    with pytest.raises(ConfigError, match=r"20 prompt tokens with 1 shots and 493 completion tokens"):
        exam(tmp_path, max_completion_length=493, shots_from="shots.jsonl").check_prompts("test", 1, model, tokenizer)


def test_a_bad_row_of_an_evaluation_is_named_with_what_can_be_done(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "", "completion": "b"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, row 1: `prompt` is empty") as caught:
        exam(tmp_path, shots_from="bad.jsonl").shots(1)
    assert caught.value.remedy.startswith("fix or remove these rows: an evaluation reads every row of the file")


def test_shots_are_a_sample_by_the_seed_and_all_may_be_asked_for(tmp_path: Path) -> None:
    taken = exam(tmp_path, shots_from="shots.jsonl")
    whole = load_examples("shots.jsonl", base=tmp_path)[0]
    assert taken.shots(0) == []
    assert taken.shots(2) == sample(whole, 2, 5)
    assert len(taken.shots(6)) == 6
    with pytest.raises(ConfigError, match=r"`shots` is 7, but `evaluate.shots_from` has only 6"):
        taken.shots(7)
    with pytest.raises(ConfigError, match=r"`evaluate.shots_from` is not set"):
        exam(tmp_path).shots(1)


def test_what_was_measured_is_read_again_and_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = exam(tmp_path, max_completion_length=2)
    file = tmp_path / "kept" / "evaluation.json"
    first = taken.evaluate("tiny:llama", "validation", 0, file)
    written = file.stat().st_mtime_ns
    assert taken.evaluate("tiny:llama", "validation", 0, file) == first
    assert file.stat().st_mtime_ns == written
    other = taken.evaluate("tiny:qwen3", "validation", 0, file)
    assert "belongs to another model or other items; the model is evaluated again" in capsys.readouterr().out
    assert taken.evaluate("tiny:qwen3", "validation", 0, file) == other != first


def test_a_set_that_is_not_named_is_missed_where_it_is_asked_for(tmp_path: Path) -> None:
    taken = exam(tmp_path, test=None)
    assert taken.test == []
    taken.check()
    taken.check_set("validation")
    with pytest.raises(ConfigError, match=r"`evaluate.test` has no items"):
        taken.check_set("test")
    with pytest.raises(ConfigError, match=r"without `evaluate.validation`"):
        exam(tmp_path, validation=None, test=None).check()


def test_the_goals_are_those_of_the_metrics_and_of_what_is_always_there(tmp_path: Path) -> None:
    assert exam(tmp_path).goals == {"exact_match": "max", "output_tokens": "min", "truncated": "min"}

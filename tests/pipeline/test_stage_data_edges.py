"""The data of a stage at its limits: what fits, what is held out, which rewards count, and what has no effect."""

from pathlib import Path
from typing import Any

import pytest
from helpers.edges import encoded, one_stage

from rung.algorithm import Algorithm
from rung.data.report import Report
from rung.errors import ConfigError, DataError
from rung.idle import check_idle
from rung.opening import check_following, check_needs, following
from rung.registry import algorithm
from rung.stage_data import check_room, encode_examples, open_rewards, read_examples
from rung.tiny.tokenizers import byte

TOKENIZER = byte()
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def stage(name: str = "sft", **settings: Any):
    return one_stage(Path(), {"algorithm": name, "data": "x.jsonl", **settings})


@pytest.mark.parametrize(("positions", "fits"), [(6, True), (5, False), (None, True)])
def test_a_prompt_with_its_longest_answer_may_fill_the_positions(positions: int | None, fits: bool) -> None:
    """2 and 4 tokens."""
    config, _ = stage("dpo")
    rows = [encoded("x:1", [5, 6], [7] * 3, [7] * 4)]
    if fits:
        check_room(algorithm("dpo"), config, rows, positions)
    else:
        with pytest.raises(ConfigError, match="x:1: 2 tokens and 4 of its answer exceed the teacher's 5 positions"):
            check_room(algorithm("dpo"), config, rows, positions, "teacher")


@pytest.mark.parametrize(("positions", "fits"), [(12, True), (11, False)])
def test_a_prompt_leaves_room_for_what_is_sampled(positions: int, fits: bool) -> None:
    config, _ = stage("grpo", rewards=["exact_match"], rollout={"max_completion_length": 10})
    rows = [encoded("x:1", [5, 6])]
    if fits:
        check_room(algorithm("grpo"), config, rows, positions)
    else:
        with pytest.raises(ConfigError, match=r"`rollout.max_completion_length` 10 exceed the model's 11 positions"):
            check_room(algorithm("grpo"), config, rows, positions)


def test_rows_of_another_kind_are_refused_by_their_place() -> None:
    config, path = stage("dpo")
    with pytest.raises(DataError, match="rows:1: stage `only` learns from pairs, and this row is prompt-completion"):
        read_examples(algorithm("dpo"), config, path, [{"prompt": "a", "completion": "b"}])
    ranked = {"prompt": "a", "completions": ["b", "c", "d"]}
    with pytest.raises(DataError, match="rows:1: 3 answers to a prompt, and `dpo` takes 2"):
        read_examples(algorithm("dpo"), config, path, [ranked])
    assert len(read_examples(algorithm("dpo"), config, path, [{**ranked, "completions": ["b", "c"]}])[0]) == 1


def test_a_pair_is_two_rows_of_labels_and_an_answer_is_left_where_it_is_sampled() -> None:
    config, path = stage("kto")
    assert [one.label for one in read_examples(algorithm("kto"), config, path, [PAIR])[0]] == [True, False]
    config, path = stage("grpo", rewards=["exact_match"])
    rows = [{"prompt": "a", "completion": "b"}]
    (asked,) = read_examples(algorithm("grpo"), config, path, rows)[0]
    assert (asked.kind, asked.completion, dict(asked.columns)) == ("prompt", None, {"ground_truth": "b"})


@pytest.mark.parametrize(("on_bad", "written"), [("skip", False), ("quarantine", True)])
def test_bad_rows_go_aside_where_the_stage_wants_it(on_bad: str, written: bool, tmp_path: Path) -> None:
    config, path = stage("sft", on_bad=on_bad)
    rows = [{"prompt": f"{i}", "completion": "b"} for i in range(99)] + [{"prompt": "", "completion": "b"}]
    examples, report = read_examples(algorithm("sft"), config, path, rows, quarantine=tmp_path / "bad.jsonl")
    assert (len(examples), report.num_dropped) == (99, 1)
    assert (tmp_path / "bad.jsonl").exists() is written


def held(count: int, **settings: Any) -> tuple[int, int]:
    config, path = stage("sft", **settings)
    rows = [{"prompt": f"{i}", "completion": "b"} for i in range(count)]
    examples, report = read_examples(algorithm("sft"), config, path, rows)
    train, held_out = encode_examples(algorithm("sft"), config, examples, TOKENIZER, report, None)
    return len(train), len(held_out)


def test_a_tenth_is_held_out_where_the_stage_stops_early() -> None:
    assert held(200) == (200, 0)
    train, rest = held(200, early_stopping={})
    assert train + rest == 200
    assert 10 <= rest <= 32
    with pytest.raises(ConfigError, match=r"holds out 10% of 1 examples, which leaves one side empty"):
        held(1, early_stopping={})


def test_data_that_are_sampled_cannot_be_held_out() -> None:
    config, path = stage("grpo", rewards=["exact_match"], early_stopping={})
    examples, _ = read_examples(algorithm("grpo"), config, path, [{"prompt": "a"}])
    with pytest.raises(ConfigError, match="samples its data"):
        encode_examples(algorithm("grpo"), config, examples, TOKENIZER, Report(), None)


@pytest.mark.parametrize(("rows", "refused"), [(8, False), (6, False), (5, True)])
def test_the_last_step_has_enough_rows_to_compare(rows: int, refused: bool) -> None:
    """KTO compares two rows or more: batches of 4 leave 0, 2 or 1."""
    least = algorithm("kto").least_batch_size
    assert least == 2
    config, path = stage("kto", batch_size=4)
    given = [{"prompt": f"{i}", "completion": "b", "label": i % 2 == 0} for i in range(rows)]
    examples, report = read_examples(algorithm("kto"), config, path, given)
    if refused:
        with pytest.raises(ConfigError, match="leaves 1 of 5 examples to the last step"):
            encode_examples(algorithm("kto"), config, examples, TOKENIZER, report, None)
    else:
        encode_examples(algorithm("kto"), config, examples, TOKENIZER, report, None)


def test_one_reward_must_count() -> None:
    config, path = stage("grpo", rewards=[{"name": "exact_match", "weight": 0, "columns": {"answer": "gold"}}])
    rows, _ = read_examples(algorithm("grpo"), config, path, [{"prompt": "a", "gold": "b"}])
    made, _ = encode_examples(algorithm("grpo"), config, rows, TOKENIZER, Report(), None)
    with pytest.raises(ConfigError, match=r"none of its rewards counts \(exact_match\)"):
        open_rewards(algorithm("grpo"), config, path, made)
    bare, path = stage("grpo")
    with pytest.raises(ConfigError, match="samples completions and has no rewards"):
        open_rewards(algorithm("grpo"), bare, path, made)
    with pytest.raises(ConfigError, match="has no data"):
        read_examples(algorithm("grpo"), config.model_copy(update={"data": None}), path)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("sft", {"rollout": {"top_k": 3}}, "rollout.top_k"),
        ("sft", {"rewards": ["exact_match"]}, "rewards"),
        ("sft", {"eval_steps": 3}, "eval_steps"),
        ("sft", {"lr_scheduler_type": "constant", "warmup_steps": 3}, "warmup_steps"),
        ("reward_model", {"gate": {"metric": "m"}}, "gate"),
        ("reward_model", {"shots": [2]}, "shots"),
        ("grpo", {"on_overlong": "truncate"}, "on_overlong: truncate"),
        ("prompt", {"learning_rate": 0.1}, "learning_rate"),
        ("prompt", {"from": "tiny:gpt2", "seed": 3}, "seed"),
    ],
)
def test_what_has_no_effect_is_refused_and_what_has_is_not(name: str, settings: dict, key: str) -> None:
    made: Algorithm = algorithm(name)
    if name == "prompt":
        config, _ = one_stage(Path(), {"algorithm": name, **settings})
    else:
        config, _ = stage(name, **settings)
    with pytest.raises(ConfigError, match=f"`{key}` has no effect"):
        check_idle(made, config)


def test_what_is_read_may_be_written() -> None:
    check_idle(algorithm("sft"), stage("sft", eval_steps=3, early_stopping={}, warmup_steps=3)[0])
    check_idle(algorithm("sft"), stage("sft", lr_scheduler_type="constant_with_warmup", warmup_steps=3)[0])
    check_idle(algorithm("sft"), stage("sft", rollout={"top_k": 0})[0])
    check_idle(algorithm("prompt"), one_stage(Path(), {"algorithm": "prompt", "from": "tiny:gpt2", "shots": [2]})[0])
    check_idle(algorithm("grpo"), stage("grpo", on_overlong="error")[0])


def test_a_reference_that_moves_has_the_numbers_of_its_sources() -> None:
    assert following(stage("dpo")[0]) is None
    ema, sync = following(stage("dpo", reference="ema")[0]), following(stage("dpo", reference="sync")[0])
    assert ema is not None
    assert sync is not None
    assert ((ema.every, ema.share), (sync.every, sync.share)) == ((512, 0.6), (512, 1.0))
    own = following(stage("dpo", reference="ema", ref_model_sync_steps=7, ref_model_mixup_alpha=0.25)[0])
    assert own is not None
    assert (own.every, own.share) == (7, 0.25)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ref_model_sync_steps": 3}, "its reference `start` stays"),
        ({"reference": "sync", "ref_model_mixup_alpha": 0.5}, "its reference is `sync`"),
        ({"reference": "ema", "adapter": {"lora": {}}}, "cannot be mixed"),
    ],
)
def test_a_reference_that_cannot_move_so_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_following(stage("dpo", **settings)[0])
    check_following(stage("dpo", reference="sync", ref_model_sync_steps=3, adapter={"lora": {}})[0])


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("sft", {"critic": "head"}, "reads no values"),
        ("sft", {"teacher": "tiny:gpt2"}, "reads none"),
        ("sft", {"reference": "sync"}, "has the reference `sync`"),
        ("kto", {"batch_size": 1}, "`batch_size` 1, and `kto` compares rows"),
        ("kto", {"batch_size": {"tokens": 9}}, "may be one row"),
        ("dpo", {"adapter": {"lora": {"init_lora_weights": False}}}, "starts at other weights"),
    ],
)
def test_what_an_algorithm_cannot_use_is_refused(name: str, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_needs(algorithm(name), stage(name, **settings)[0])
    check_needs(algorithm("kto"), stage("kto", batch_size=2)[0])

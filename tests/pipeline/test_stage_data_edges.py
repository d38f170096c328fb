"""The data of a stage at its limits: what fits, what is held out, which rewards count, and what has no effect."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from helpers.edges import encoded, one_stage
from rung.algorithm import Algorithm
from rung.config.algorithms import make_algorithm
from rung.errors import ConfigError, DataError
from rung.pipeline.build_stage import reference_update
from rung.pipeline.requirements import check_reference_update, check_requirements
from rung.pipeline.stage_data import StageData, check_positions, read_stage_data
from rung.pipeline.stage_rewards import build_rewards
from rung.pipeline.stage_settings import StageSettings, stage_settings
from rung.pipeline.unused_settings import check_unused_settings
from rung.tiny.tokenizers import byte

TOKENIZER = byte()
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def stage(name: str = "sft", **settings: Any):
    return one_stage(Path(), {"algorithm": name, "data": "x.jsonl", **settings})


def settings_of(name: str, rows: list[dict[str, Any]] | None = None, **settings: Any) -> StageSettings:
    config, path = stage(name, **settings)
    return stage_settings(config, path, make_algorithm(name), rows=rows)


def read(name: str, rows: list[dict[str, Any]], **settings: Any) -> StageData:
    return read_stage_data(settings_of(name, rows, **settings), TOKENIZER, ())


@pytest.mark.parametrize(("positions", "fits"), [(6, True), (5, False), (None, True)])
def test_a_prompt_with_its_longest_answer_may_fill_the_positions(positions: int | None, fits: bool) -> None:
    """A row that fits by far, and one of 2 and 4 tokens."""
    rows = [encoded("x:0", [5], [7]), encoded("x:1", [5, 6], [7] * 3, [7] * 4)]
    if fits:
        check_positions(settings_of("dpo"), rows, positions)
    else:
        with pytest.raises(ConfigError, match=r"x, row 1: 2 .*4 .* exceed the teacher's 5 positions"):
            check_positions(settings_of("dpo"), rows, positions, "teacher")


@pytest.mark.parametrize(("positions", "fits"), [(12, True), (11, False)])
def test_a_prompt_leaves_room_for_what_is_sampled(positions: int, fits: bool) -> None:
    settings = settings_of("grpo", rewards=["exact_match"], rollout={"max_completion_length": 10})
    rows = [encoded("x:1", [5, 6])]
    if fits:
        check_positions(settings, rows, positions)
    else:
        with pytest.raises(ConfigError, match=r"`rollout.max_completion_length` 10 exceed the model's 11 positions"):
            check_positions(settings, rows, positions)


def test_rows_of_another_kind_are_refused_by_their_place() -> None:
    with pytest.raises(DataError, match=r"rows, row 1: stage `only` .*pairs.* prompt-completion"):
        read("dpo", [{"prompt": "a", "completion": "b"}])
    ranked = {"prompt": "a", "completions": ["b", "c", "d"]}
    with pytest.raises(DataError, match=r"rows, row 1: .*3 .*`dpo`.* 2"):
        read("dpo", [ranked])
    assert len(read("dpo", [{**ranked, "completions": ["b", "c"]}]).train) == 1


def test_data_with_a_canary_are_for_evaluation_alone() -> None:
    with pytest.raises(DataError, match=r"rows, row 1, part 1: the row has a `canary`") as caught:
        read("sft", [{"canary": "GUID", "examples": [{"input": "a", "target": "b"}]}])
    assert "evaluate.validation" in caught.value.remedy


def test_a_pair_is_two_rows_of_labels_and_an_answer_is_left_where_it_is_sampled() -> None:
    assert [one.example.label for one in read("kto", [PAIR]).train] == [True, False]
    (asked,) = read("grpo", [{"prompt": "a", "completion": "b"}], rewards=["exact_match"]).train
    example = asked.example
    assert (example.kind, example.completion, dict(example.columns)) == ("prompt", None, {"ground_truth": "b"})
    assert asked.answers == ()


@pytest.mark.parametrize(("on_bad_row", "kept"), [("skip", []), ("quarantine", ["x.jsonl:100"])])
def test_bad_rows_are_kept_for_the_file_where_the_stage_wants_it(
    on_bad_row: str, kept: list[str], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{i}", "completion": "b"} for i in range(99)] + [{"prompt": "", "completion": "b"}]
    data = read("sft", rows, on_bad_row=on_bad_row)
    assert (len(data.all), data.report.num_dropped) == (99, 1)
    data.report.write_quarantine(tmp_path / "bad.jsonl")
    assert (tmp_path / "bad.jsonl").exists() is bool(kept)


def strict_tokenizer() -> PreTrainedTokenizerBase:
    """A chat template that takes one question and its answer, and rejects longer conversations."""
    tokenizer = byte()
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('one question at a time') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


def chats(short: int, long: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(short + long):
        one = [{"role": "user", "content": f"Hello {i}?"}, {"role": "assistant", "content": "Hi."}]
        rows.append({"messages": one if i < short else one * 2})
    return rows


def test_rows_that_cannot_be_encoded_are_set_aside_within_the_cap(tmp_path: Path) -> None:
    """Half of the chats of offline/14 have turns that the chat template rejects."""
    data = read_stage_data(settings_of("sft", chats(98, 2), on_bad_row="quarantine"), strict_tokenizer(), ())
    assert (len(data.train), data.report.num_dropped) == (98, 2)
    data.report.write_quarantine(tmp_path / "bad.jsonl")
    aside = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line["source"] for line in aside] == ["rows:99", "rows:100"]
    assert "one question at a time" in aside[0]["cause"]
    assert aside[0]["row"] == chats(98, 1)[-1]
    for on_bad_row in ("skip", "quarantine"):
        with pytest.raises(DataError, match=r"rows, row 98: .*3\.0% of the rows are bad \(3: ") as caught:
            read_stage_data(settings_of("sft", chats(97, 3), on_bad_row=on_bad_row), strict_tokenizer(), ())
        assert "`max_bad_share` (the limit is 2% of the rows)" in caught.value.remedy
    more = settings_of("sft", chats(20, 20), on_bad_row="skip", max_bad_share=0.5)
    assert len(read_stage_data(more, strict_tokenizer(), ()).train) == 20


def test_rows_that_cannot_be_read_and_rows_that_cannot_be_encoded_have_one_cap() -> None:
    """One and one of 100 are 2 %; two and one are 3 %. With a held-out tenth, the shares are those of both parts."""
    empty = {"messages": [{"role": "user", "content": " "}]}
    good = settings_of("sft", [*chats(98, 1), empty], on_bad_row="skip", early_stopping={})
    assert len(read_stage_data(good, strict_tokenizer(), ()).all) == 98
    bad = settings_of("sft", [*chats(97, 1), empty, empty], on_bad_row="skip")
    with pytest.raises(DataError, match=r"rows, row 98: .*3\.0% of the rows are bad"):
        read_stage_data(bad, strict_tokenizer(), ())


def test_dialogues_that_begin_with_an_answer_are_left_out_where_the_stage_says_so() -> None:
    """offline/16: a tenth of the ShareGPT rows begins with a turn of gpt."""
    told = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hi."}]
    rows = [{"conversations": told[1:] + told if i % 10 == 0 else told} for i in range(40)]
    with pytest.raises(DataError, match="4 of 40 rows are bad") as caught:
        read_stage_data(settings_of("sft", rows, on_bad_row="skip"), strict_tokenizer(), ())
    assert "raise `max_bad_share`" in caught.value.remedy
    data = read_stage_data(settings_of("sft", rows, on_bad_row="skip", max_bad_share=0.1), strict_tokenizer(), ())
    assert len(data.train) == 36


def held(count: int, **settings: Any) -> tuple[int, int]:
    data = read("sft", [{"prompt": f"{i}", "completion": "b"} for i in range(count)], **settings)
    assert len(data.all) == len(data.train) + len(data.held_out)
    return len(data.train), len(data.held_out)


def test_a_tenth_is_held_out_where_the_stage_stops_early() -> None:
    assert held(200) == (200, 0)
    train, rest = held(200, early_stopping={})
    assert train + rest == 200
    assert 10 <= rest <= 32
    with pytest.raises(ConfigError, match=r"10% of 1 examples"):
        held(1, early_stopping={})


def test_data_that_are_sampled_cannot_be_held_out() -> None:
    with pytest.raises(ConfigError, match="samples its completions, but `early_stopping`"):
        read("grpo", [{"prompt": "a"}], rewards=["exact_match"], early_stopping={})


@pytest.mark.parametrize(("rows", "refused"), [(8, False), (6, False), (5, True)])
def test_the_last_step_has_enough_rows_to_compare(rows: int, refused: bool) -> None:
    """KTO compares two rows or more: batches of 4 leave 0, 2 or 1."""
    assert make_algorithm("kto").least_batch_size == 2
    given = [{"prompt": f"{i}", "completion": "b", "label": i % 2 == 0} for i in range(rows)]
    if refused:
        with pytest.raises(ConfigError, match="1 of 5 examples"):
            read("kto", given, batch_size=4)
    else:
        read("kto", given, batch_size=4)


def test_the_data_know_whose_tokens_they_are() -> None:
    rows = [{"prompt": "a", "completion": "b"}]
    other = byte()
    other.add_tokens(["<new>"])
    assert read("sft", rows).tokenizer == read_stage_data(settings_of("sft", rows), byte(), ()).tokenizer
    assert read("sft", rows).tokenizer != read_stage_data(settings_of("sft", rows), other, ()).tokenizer


def test_one_reward_must_count() -> None:
    weightless = [{"name": "exact_match", "weight": 0, "columns": {"answer": "gold"}}]
    rows = [{"prompt": "a", "gold": "b"}]
    settings = settings_of("grpo", rows, rewards=weightless)
    with pytest.raises(ConfigError, match=r"\(exact_match\)"):
        build_rewards(settings, read_stage_data(settings, TOKENIZER, ()).train, TOKENIZER)
    with pytest.raises(ConfigError, match="samples completions"):
        settings_of("grpo", rows)
    config, path = stage("grpo", rewards=["exact_match"])
    without = config.model_copy(update={"data": None})
    with pytest.raises(ConfigError, match="has no data"):
        stage_settings(without, path, make_algorithm("grpo"))


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("sft", {"rollout": {"top_k": 3}}, "rollout.top_k"),
        ("sft", {"rewards": ["exact_match"]}, "rewards"),
        ("sft", {"eval_steps": 3}, "eval_steps"),
        ("sft", {"max_bad_share": 0.1}, "max_bad_share"),
        ("sft", {"lr_scheduler_type": "constant", "warmup_steps": 3}, "warmup_steps"),
        ("reward_model", {"gate": {"metric": "m"}}, "gate"),
        ("reward_model", {"shots": [2]}, "shots"),
        ("grpo", {"on_overlong": "truncate"}, "on_overlong: truncate"),
        ("prompt", {"learning_rate": 0.1}, "learning_rate"),
        ("prompt", {"from": "tiny:gpt2", "seed": 3}, "seed"),
    ],
)
def test_what_has_no_effect_is_refused_and_what_has_is_not(name: str, settings: dict, key: str) -> None:
    made: Algorithm = make_algorithm(name)
    if name == "prompt":
        config, _ = one_stage(Path(), {"algorithm": name, **settings})
    else:
        config, _ = stage(name, **settings)
    with pytest.raises(ConfigError, match=f"`{key}` has no effect"):
        check_unused_settings(made, config)


def test_what_is_read_may_be_written() -> None:
    check_unused_settings(make_algorithm("sft"), stage("sft", eval_steps=3, early_stopping={}, warmup_steps=3)[0])
    check_unused_settings(
        make_algorithm("sft"), stage("sft", lr_scheduler_type="constant_with_warmup", warmup_steps=3)[0]
    )
    check_unused_settings(make_algorithm("sft"), stage("sft", rollout={"top_k": 0})[0])
    for on_bad_row in ("skip", "quarantine"):
        check_unused_settings(make_algorithm("sft"), stage("sft", on_bad_row=on_bad_row, max_bad_share=0.1)[0])
    check_unused_settings(
        make_algorithm("prompt"), one_stage(Path(), {"algorithm": "prompt", "from": "tiny:gpt2", "shots": [2]})[0]
    )
    check_unused_settings(make_algorithm("grpo"), stage("grpo", on_overlong="error")[0])


def test_a_reference_that_moves_has_the_numbers_of_its_sources() -> None:
    assert reference_update(stage("dpo")[0]) is None
    ema, sync = reference_update(stage("dpo", reference="ema")[0]), reference_update(stage("dpo", reference="sync")[0])
    assert ema is not None
    assert sync is not None
    assert ((ema.every, ema.share), (sync.every, sync.share)) == ((512, 0.6), (512, 1.0))
    own = reference_update(stage("dpo", reference="ema", ref_model_sync_steps=7, ref_model_mixup_alpha=0.25)[0])
    assert own is not None
    assert (own.every, own.share) == (7, 0.25)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ref_model_sync_steps": 3}, "its reference `start` is fixed"),
        ({"reference": "sync", "ref_model_mixup_alpha": 0.5}, "its reference is `sync`"),
        (
            {"reference": "ema", "adapter": {"lora": {}}},
            "averaging the two matrices of an adapter does not average the weights",
        ),
    ],
)
def test_a_reference_that_cannot_move_so_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_reference_update(stage("dpo", **settings)[0])
    check_reference_update(stage("dpo", reference="sync", ref_model_sync_steps=3, adapter={"lora": {}})[0])


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("sft", {"critic": "head"}, "has a `critic`, but algorithm `sft` uses no value function"),
        ("sft", {"teacher": "tiny:gpt2"}, "has a `teacher`, but algorithm `sft` uses none"),
        ("sft", {"reference": "sync"}, "`reference: sync` has no effect because `sft` uses no reference model"),
        ("kto", {"batch_size": 1}, "`batch_size` is 1, but `kto` compares rows"),
        ("kto", {"batch_size": {"tokens": 9}}, "may give a step one row"),
        ("dpo", {"adapter": {"lora": {"init_lora_weights": False}}}, "starts with other weights"),
    ],
)
def test_what_an_algorithm_cannot_use_is_refused(name: str, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_requirements(make_algorithm(name), stage(name, **settings)[0])
    check_requirements(make_algorithm("kto"), stage("kto", batch_size=2)[0])

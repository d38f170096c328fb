"""Public files, with the numbers that are known of them."""

import json
from collections import Counter

import pytest

from rung.data.collate import collate
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport

pytestmark = pytest.mark.real_data


def test_the_bedrock_sample_is_500_conversations_with_their_system_turn(real_data, chat):
    examples, report = load_examples(str(real_data / "bedrock/json_mode_dataset.jsonl"))
    assert (len(examples), len({e.group for e in examples}), report.formats) == (500, 499, {"messages": 500})
    assert {e.messages[0]["content"] for e in examples if e.messages} == {"JSON Mode: Enabled"}
    encoded = encode(examples[:50], chat, max_prompt_length=None, max_length=None, report=DataReport())
    for one in encoded:
        trained = [i for i, now in zip(one.answers[0].ids, one.answers[0].trained, strict=True) if now]
        assert trained.pop() == chat.eos_token_id
        json.loads(chat.decode(trained))


def test_banking77_is_10003_rows_of_77_labels(real_data):
    examples, report = load_examples(str(real_data / "banking77/train.csv"))
    assert (len(examples), len(report.labels), report.num_dropped) == (10_003, 77, 0)
    assert any("\n" in str(e.prompt) for e in examples)


def test_the_labelled_solutions_give_2429_pairs_of_731_questions(real_data, plain):
    read, _ = load_examples(str(real_data / "gsm8k/example_model_solutions.jsonl"))
    examples = [example for example in read if example.kind == "preference"]
    assert {example.kind for example in read} == {"preference", "unpaired"}
    assert (len(examples), len({e.group for e in examples})) == (2_429, 731)
    encoded = encode(examples[:40], plain, max_prompt_length=None, max_length=None, report=DataReport())
    batch = collate(encoded, pad_id=0)
    assert (batch.num_groups, batch.num_rows) == (40, 80)
    assert batch.num_prompts == len({e.group for e in examples[:40]})


def test_gsm8k_and_its_bedrock_sample_agree_on_the_answers(real_data):
    questions, _ = load_examples(str(real_data / "gsm8k/train.jsonl"))
    prompts, _ = load_examples(str(real_data / "bedrock/rft_train_data.jsonl"))
    assert (len(questions), len(prompts)) == (7_473, 300)
    assert [e.columns["answer"] for e in questions[:300]] == [e.columns["ground_truth"] for e in prompts]


def test_tatqa_asks_every_question_behind_its_own_table(real_data):
    examples, report = load_examples(str(real_data / "tatqa/tatqa_dataset_dev.json"))
    assert (len(examples), len({e.group for e in examples}), report.formats) == (1_668, 278, {"tatqa": 278})
    assert (report.num_dropped, report.noticed) == (0, {})
    kinds = Counter(e.columns["answer_type"] for e in examples)
    assert kinds == {"arithmetic": 718, "span": 701, "multi-span": 217, "count": 32}
    assert Counter(e.columns["scale"] for e in examples)["percent"] == 268
    for example in examples:
        assert example.columns["scale"] in str(example.completion)
        assert example.columns["ground_truth"] == example.completion
    spans = [e for e in examples if e.columns["answer_type"] == "span"]
    verbatim = [e for e in spans if e.columns["answer"][0] in str(e.prompt)]
    assert len(verbatim) / len(spans) > 0.95

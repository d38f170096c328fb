"""The sums: what is asked and answered, that a solution is what it claims to be, and that the splits share nothing."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.config import load_config
from rung.reward import RewardSet, Sample
from rung.rewards.final_number import final_number
from rung.tiny import tasks
from rung.tiny.arithmetic import NUM_STEPS, OPERANDS, TOTALS, WORKED_SHARE, question, slips, solution
from rung.tiny.models import open_base

NAMES = [name for name in tasks.names() if name.startswith("arithmetic/")]
KINDS = {"result", "sign", "left out", "answer"}
STEP = r"(\d+)([+-]\d+)=(\d+)"


@pytest.fixture(scope="module")
def data():
    return {name: tasks.rows(name) for name in NAMES}


def _asked(row):
    return row["prompt"][0]["content"]


def _terms(text):
    """The numbers of a question with their signs."""
    return tuple(int(found.replace(" ", "")) for found in re.findall(r"(?:[+-] )?\d+", text))


def _read(text):
    """The steps of a solution as (before, move, after), and its answer."""
    body, answer = text.split(". Answer: ")
    assert re.fullmatch(rf"{STEP}(; {STEP})*", body)
    return [(int(a), int(move), int(b)) for a, move, b in re.findall(STEP, body)], int(answer)


def _is_right(text, terms):
    """Whether each step follows from the one before it by the next term, and the answer from the last."""
    steps, answer = _read(text)
    total = terms[0]
    for before, move, after in steps:
        if before != total or after != before + move:
            return False
        total = after
    return [move for _, move, _ in steps] == list(terms[1:]) and answer == total


def _terms_within_bounds():
    moves = st.integers(*OPERANDS).flatmap(lambda size: st.sampled_from((size, -size)))
    terms = st.tuples(st.integers(*OPERANDS), st.lists(moves, min_size=NUM_STEPS[0], max_size=NUM_STEPS[1]))
    return terms.map(lambda drawn: (drawn[0], *drawn[1])).filter(
        lambda terms: all(sum(terms[:end]) >= TOTALS[0] for end in range(1, len(terms) + 1))
    )


@pytest.mark.parametrize(
    ("terms", "asked", "solved"),
    [
        ((7, 4, -3, 6), "Sum: 7 + 4 - 3 + 6", "7+4=11; 11-3=8; 8+6=14. Answer: 14"),
        ((9, -9, 1), "Sum: 9 - 9 + 1", "9-9=0; 0+1=1. Answer: 1"),
        ((9, 9, 9, -8, 5), "Sum: 9 + 9 + 9 - 8 + 5", "9+9=18; 18+9=27; 27-8=19; 19+5=24. Answer: 24"),
    ],
)
def test_terms_in_this_order_give_this_question_and_this_solution(terms, asked, solved):
    assert (question(terms), solution(terms)) == (asked, solved)


@pytest.mark.maths
def test_the_slips_of_a_sum_by_hand():
    assert slips((3, 5, -2)) == {
        "result": [
            *("3+5=6; 6-2=4. Answer: 4", "3+5=7; 7-2=5. Answer: 5", "3+5=9; 9-2=7. Answer: 7"),
            *("3+5=10; 10-2=8. Answer: 8", "3+5=18; 18-2=16. Answer: 16", "3+5=8; 8-2=4. Answer: 4"),
            *("3+5=8; 8-2=5. Answer: 5", "3+5=8; 8-2=7. Answer: 7", "3+5=8; 8-2=8. Answer: 8"),
            "3+5=8; 8-2=16. Answer: 16",
        ],
        "sign": ["3+5=8; 8+2=10. Answer: 10"],  # 3-5 would be negative
        "left out": ["3-2=1. Answer: 1", "3+5=8. Answer: 8"],
        "answer": [
            *("3+5=8; 8-2=6. Answer: 5", "3+5=8; 8-2=6. Answer: 7"),
            *("3+5=8; 8-2=6. Answer: 8", "3+5=8; 8-2=6. Answer: 16"),
        ],
    }


@given(_terms_within_bounds())
def test_a_solution_is_right_in_every_step_and_every_slip_ends_in_another_number(terms):
    gold = str(sum(terms))
    assert _terms(question(terms)) == terms
    assert _is_right(solution(terms), terms)
    assert final_number(solution(terms), gold) == 1.0
    for text in (text for texts in slips(terms).values() for text in texts):
        assert not _is_right(text, terms)
        assert final_number(text, gold) == 0.0


@given(_terms_within_bounds())
def test_each_kind_of_slip_is_the_mistake_that_it_is_called(terms):
    for kind, texts in slips(terms).items():
        for text in texts:
            steps, answer = _read(text)
            moves = [move for _, move, _ in steps]
            miscounted = [before + move != after for before, move, after in steps]
            assert sum(miscounted) == (kind == "result")
            assert len(moves) == len(terms) - 1 - (kind == "left out")
            assert (sorted(map(abs, moves)) == sorted(map(abs, terms[1:]))) == (kind != "left out")
            assert (moves == list(terms[1:])) == (kind in ("result", "answer"))
            assert (answer == steps[-1][2]) == (kind != "answer")


def test_sizes_and_columns(data):
    assert {name: (len(rows), *rows[0]) for name, rows in data.items()} == {
        "arithmetic/sft": (1600, "prompt", "completion", "answer"),
        "arithmetic/pairs": (1600, "prompt", "chosen", "rejected", "answer", "slip"),
        "arithmetic/prompts": (4000, "prompt", "answer"),
        "arithmetic/validation": (600, "prompt", "answer"),
        "arithmetic/test": (600, "prompt", "answer"),
    }
    assert json.loads(json.dumps(data)) == data


def test_every_row_of_every_split_has_the_right_answer_and_stays_within_the_bounds(data):
    for row in (row for rows in data.values() for row in rows):
        terms = _terms(_asked(row))
        assert row["answer"] == str(sum(terms))
        assert NUM_STEPS[0] <= len(terms) - 1 <= NUM_STEPS[1]
        assert all(OPERANDS[0] <= abs(term) <= OPERANDS[1] for term in terms)
        assert all(TOTALS[0] <= sum(terms[:end]) <= TOTALS[1] for end in range(1, len(terms) + 1))


def test_every_label_and_every_chosen_text_is_right_and_every_rejected_one_is_wrong(data):
    for row in data["arithmetic/sft"]:
        text = row["completion"][0]["content"]
        assert text == f"Answer: {row['answer']}" or _is_right(text, _terms(_asked(row)))
    for row in data["arithmetic/pairs"]:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert _is_right(chosen, _terms(_asked(row)))
        assert (final_number(chosen, row["answer"]), final_number(rejected, row["answer"])) == (1.0, 0.0)


def test_the_kinds_of_slips_have_equal_shares(data):
    counted = Counter(row["slip"] for row in data["arithmetic/pairs"])
    assert set(counted) == KINDS
    assert all(abs(count / 1600 - 1 / 4) < 0.06 for count in counted.values())


def test_the_two_hands_wrote_about_as_many_labels(data):
    worked = sum("=" in row["completion"][0]["content"] for row in data["arithmetic/sft"])
    assert abs(worked / 1600 - WORKED_SHARE) < 0.04


def test_the_pairs_are_about_the_questions_of_sft(data):
    assert [_asked(row) for row in data["arithmetic/pairs"]] == [_asked(row) for row in data["arithmetic/sft"]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_question_is_met_twice(seed):
    splits = [name for name in NAMES if name != "arithmetic/pairs"]
    counted = Counter(_asked(row) for name in splits for row in tasks.rows(name, seed))
    assert max(counted.values()) == 1
    assert len(counted) == 6800


def test_the_splits_have_equal_shares_of_long_questions(data):
    """There are fewer short questions than long ones, so that they are not a half."""
    shares = []
    for rows in data.values():
        longest = sum(len(_terms(_asked(row))) - 1 == NUM_STEPS[1] for row in rows)
        shares.append(longest / len(rows))
    assert 0.4 < min(shares) <= max(shares) < min(0.9, min(shares) + 0.08)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_rows_and_another_seed_others(name):
    assert tasks.rows(name, 3) == tasks.rows(name, 3)
    assert tasks.rows(name, 3) != tasks.rows(name, 4)


def test_rows_are_the_callers_own_to_change(data):
    tasks.rows("arithmetic/sft")[0]["prompt"][0]["content"] = "changed"
    assert tasks.rows("arithmetic/sft") == data["arithmetic/sft"]


def test_the_rewards_of_the_task_read_its_rows(data):
    rewards = RewardSet(["final_number", "exact_match"])
    row = data["arithmetic/validation"][0]
    columns = {"answer": row["answer"]}
    rewards.check(columns)
    answered = (solution(_terms(_asked(row))), row["answer"], "?")
    samples = [
        Sample(
            prompt=tuple(row["prompt"]),
            completion=text,
            prompt_ids=(1,),
            completion_ids=(1,),
            finish_reason="eos",
            n_tokens=1,
            row_id=str(group),
            group=group,
            columns=columns,
        )
        for group, text in enumerate(answered)
    ]
    by_reward = rewards.score(samples).by_reward
    assert [score.value for score in by_reward["final_number"]] == [1.0, 1.0, 0.0]
    assert [score.value for score in by_reward["exact_match"]] == [0.0, 1.0, 0.0]


def test_dapo_punishes_no_right_solution_as_overlong(data):
    from transformers import AutoTokenizer

    limit = load_config("arithmetic-dapo").stages[-1].rollout.max_completion_length
    assert isinstance(limit, int)
    tokenizer = AutoTokenizer.from_pretrained(open_base())
    solved = [solution(_terms(_asked(row))) for row in data["arithmetic/prompts"]]
    longest = max(len(ids) for ids in tokenizer(solved)["input_ids"]) + 1  # EOS
    assert longest <= limit - limit // 5

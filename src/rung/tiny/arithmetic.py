"""The arithmetic task: sums of several small numbers, generated from a seed.

A question is represented by its terms: (7, 4, -3, 6) is 7 + 4 - 3 + 6. The constants set the difficulty. The answers
for SFT have two styles: some show every step, the others only the total, which is much harder to get right.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any

SIZES = {"sft": 1600, "prompts": 4000, "validation": 600, "test": 600}
NUM_STEPS = (3, 4)  # additions and subtractions per question
OPERANDS = (1, 9)  # range of the terms' absolute values; without 0, so that every mistake changes the answer
TOTALS = (0, 20)  # range of the total after each step; a negative total after a number would read as a subtraction
MINUS_SHARE = 0.4  # probability that a term is subtracted, before sums with a total outside TOTALS are rejected
WORKED_SHARE = 0.5  # share of the answers of `sft` that show the steps

Terms = tuple[int, ...]


@lru_cache(maxsize=8)
def questions(seed: int) -> dict[str, tuple[Terms, ...]]:
    """The questions of every split; no question occurs twice, within a split or across splits.

    The questions are shuffled before they are split: there are few short ones, and most of them are drawn early.
    """
    random = Random(f"arithmetic/{seed}")
    seen: dict[Terms, None] = {}  # in the order of drawing
    while len(seen) < sum(SIZES.values()):
        terms = _draw(random)
        if _allowed(terms):
            seen[terms] = None
    found = list(seen)
    random.shuffle(found)
    ends = accumulate(SIZES.values())
    return {name: tuple(found[end - size : end]) for (name, size), end in zip(SIZES.items(), ends, strict=True)}


def question(terms: Terms) -> str:
    """The text of a question.

    >>> question((7, 4, -3, 6))
    'Sum: 7 + 4 - 3 + 6'
    """
    return " ".join(["Sum:", str(terms[0]), *(f"{'-' if move < 0 else '+'} {abs(move)}" for move in terms[1:])])


def solution(terms: Terms, totals: Sequence[int] | None = None, answer: int | None = None) -> str:
    """The text of a worked solution: the steps, then the answer.

    Both are correct unless `totals`, the first term and the total after each step, or `answer` replaces the true value.

    >>> solution((7, 4, -3, 6))
    '7+4=11; 11-3=8; 8+6=14. Answer: 14'
    """
    totals = list(accumulate(terms)) if totals is None else totals
    steps = [f"{a}{move:+d}={b}" for a, move, b in zip(totals, terms[1:], totals[1:], strict=False)]
    return f"{'; '.join(steps)}. Answer: {totals[-1] if answer is None else answer}"


def slips(terms: Terms) -> dict[str, list[str]]:
    """All worked solutions with exactly one mistake, by the kind of mistake; every answer is wrong.

    `result`: one step has a wrong result, which later steps use. `sign`: one term is added instead of subtracted or the
    reverse. `left out`: one term is missing. `answer`: the steps are right, but the answer is not the last total. A
    kind of mistake that is not possible for these terms has no entry.

    >>> slips((2, 1, 4))["sign"], slips((2, 1, 4))["left out"]
    (['2-1=1; 1+4=5. Answer: 5'], ['2+4=6. Answer: 6', '2+1=3. Answer: 3'])
    """
    kinds = {
        "result": list(_miscounted(terms)),
        "sign": [solution(other) for other in _with_other_sign(terms) if _possible(other)],
        "left out": [solution(other) for other in _without_a_term(terms) if _possible(other)],
        "answer": [solution(terms, answer=answer) for answer in _other_answers(terms)],
    }
    return {kind: texts for kind, texts in kinds.items() if texts}


def sft(seed: int) -> list[dict[str, Any]]:
    """1,600 questions with correct answers: about half show the steps, the others only the total."""
    random = Random(f"arithmetic/hands/{seed}")
    rows = []
    for terms in questions(seed)["sft"]:
        text = solution(terms) if random.random() < WORKED_SHARE else f"Answer: {_answer(terms)}"
        rows.append(_row(terms) | {"completion": _assistant(text), "answer": _answer(terms)})
    return rows


def pairs(seed: int) -> list[dict[str, Any]]:
    """Preference pairs: a right and a wrong worked solution to each question of `sft`; `slip` is the mistake's kind."""
    random = Random(f"arithmetic/pairs/{seed}")
    rows = []
    for terms in questions(seed)["sft"]:
        texts = slips(terms)
        slip = random.choice(list(texts))
        rejected = random.choice(texts[slip])
        answered = {"chosen": _assistant(solution(terms)), "rejected": _assistant(rejected)}
        rows.append(_row(terms) | answered | {"answer": _answer(terms), "slip": slip})
    return rows


def prompts(seed: int) -> list[dict[str, Any]]:
    """4,000 further questions with their numeric answers."""
    return _with_answers("prompts", seed)


def validation(seed: int) -> list[dict[str, Any]]:
    """600 held-out questions with their numeric answers."""
    return _with_answers("validation", seed)


def test(seed: int) -> list[dict[str, Any]]:
    """600 further held-out questions with their numeric answers."""
    return _with_answers("test", seed)


def _draw(random: Random) -> Terms:
    moves = [random.randint(*OPERANDS) for _ in range(random.randint(*NUM_STEPS))]
    return random.randint(*OPERANDS), *(-move if random.random() < MINUS_SHARE else move for move in moves)


def _allowed(terms: Terms) -> bool:
    return _possible(terms) and max(accumulate(terms)) <= TOTALS[1]


def _possible(terms: Terms) -> bool:
    """Whether no total is below the lower bound of TOTALS; a wrong solution may exceed the upper bound."""
    return min(accumulate(terms)) >= TOTALS[0]


def _miscounted(terms: Terms) -> Iterator[str]:
    totals = list(accumulate(terms))
    for step in range(1, len(terms)):
        for error in (-10, -2, -1, 1, 2, 10):
            shifted = totals[:step] + [total + error for total in totals[step:]]
            if min(shifted) >= TOTALS[0]:
                yield solution(terms, shifted)


def _with_other_sign(terms: Terms) -> list[Terms]:
    return [(*terms[:i], -terms[i], *terms[i + 1 :]) for i in range(1, len(terms))]


def _without_a_term(terms: Terms) -> list[Terms]:
    return [terms[:i] + terms[i + 1 :] for i in range(1, len(terms))]


def _other_answers(terms: Terms) -> list[int]:
    """Wrong answers: the right one changed by 1 or 10, and the second-last total, as if the last step were missing."""
    *_, before, right = accumulate(terms)
    return sorted({right + 1, right + 10, before} | {less for less in (right - 1, right - 10) if less >= TOTALS[0]})


def _with_answers(name: str, seed: int) -> list[dict[str, Any]]:
    return [_row(terms) | {"answer": _answer(terms)} for terms in questions(seed)[name]]


def _row(terms: Terms) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": question(terms)}]}


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _answer(terms: Terms) -> str:
    return str(sum(terms))

"""Overlap of answer and gold in words. A metric by default: as a training reward it teaches terse answers."""

from __future__ import annotations

from collections import Counter

from rung.reward import reward
from rung.rewards.exact_match import normalized


@reward(range=(0, 1), role="metric")
def token_f1(completion: str, answer: str) -> float:
    """F1 of the words of completion and answer, counted with repeats, after SQuAD's normalisation (arXiv 1606.05250).

    Precision 2/4 and recall 2/2 in the example. Two empty texts agree; an empty one and another do not.

    >>> round(token_f1("It was Marie Curie", "Marie Curie"), 4)
    0.6667
    """
    found, gold = normalized(completion).split(), normalized(answer).split()
    if not found or not gold:
        return float(found == gold)
    shared = sum((Counter(found) & Counter(gold)).values())
    return 2 * shared / (len(found) + len(gold))

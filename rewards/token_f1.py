"""Word overlap of completion and answer. A metric by default: as a training reward it favours terse completions."""

from __future__ import annotations

from collections import Counter

from rung.reward import reward
from rung.rewards.exact_match import normalized


@reward(range=(0, 1), role="metric")
def token_f1(completion: str, answer: str) -> float:
    """F1 of the words of completion and answer, counted with repeats, after SQuAD's normalisation (arXiv 1606.05250).

    The example has precision 2/4 and recall 2/2. Two empty texts score 1; an empty and a non-empty text score 0.

    >>> round(token_f1("It was Marie Curie", "Marie Curie"), 4)
    0.6667
    """
    found, gold = normalized(completion).split(), normalized(answer).split()
    if not found or not gold:
        return float(found == gold)
    shared = sum((Counter(found) & Counter(gold)).values())
    return 2 * shared / (len(found) + len(gold))

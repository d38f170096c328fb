"""Whether a completion equals the gold answer, exactly or up to case, punctuation and articles."""

from __future__ import annotations

import re
import string

from rung.reward import reward

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@reward(range=(0, 1))
def exact_match(completion: str, answer: str) -> float:
    """1 where the completion equals the answer, ignoring white space around it.

    >>> exact_match(" Paris\\n", "Paris"), exact_match("paris", "Paris")
    (1.0, 0.0)
    """
    return float(completion.strip() == answer.strip())


@reward(range=(0, 1))
def normalized_match(completion: str, answer: str) -> float:
    """1 where the completion equals the answer after SQuAD's normalisation of case, punctuation, articles and spaces.

    >>> normalized_match("The  Eiffel Tower.", "Eiffel tower")
    1.0
    """
    return float(normalized(completion) == normalized(answer))


def normalized(text: str) -> str:
    """Text in lower case without ASCII punctuation, articles and extra white space (SQuAD v1.1, arXiv 1606.05250).

    >>> normalized("An answer,  at last!")
    'answer at last'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())

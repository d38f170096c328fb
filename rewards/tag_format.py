"""Whether a completion has the required tags: one pair of each, in order."""

from __future__ import annotations

from rung.reward import reward


@reward(range=(0, 1))
def tag_format(raw_completion: str, *, tags: tuple[str, ...] = ("think", "answer")) -> float:
    """1 where each tag opens once and closes once, in the given order and without nesting.

    Tags count also if they are special tokens, as `<think>` is in some tokenizers.

    >>> tag_format("<think>2 + 2</think> <answer>4</answer>")
    1.0
    >>> tag_format("<answer>4</answer> <think>2 + 2</think>")
    0.0
    >>> tag_format("<think><think>2 + 2</think> <answer>4</answer>")
    0.0
    """
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    places = [raw_completion.find(mark) for mark in marks]
    once = all(raw_completion.count(mark) == 1 for mark in marks)
    return float(once and places == sorted(places))

"""The shipped base: it copies names that it has never seen, and it learns a mapping from the turns before."""

from random import Random
from statistics import fmean

import pytest
import torch

from rung.evaluation.statistics import paired_bootstrap
from rung.tiny import models
from rung.tiny.corpus import words
from rung.tiny.pharmacy import formulary

FOLDER = models.Path(models.__file__).parent / "base"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the base is not trained: rung run configs/tiny/base.yaml")

Turn = tuple[str, str]


@pytest.fixture(scope="module")
def base():
    return models.load_spec("base")


def _messages(turns: list[Turn], question: str) -> list[dict[str, str]]:
    spoken = [("user", question)]
    spoken = [pair for asked, answered in turns for pair in (("user", asked), ("assistant", answered))] + spoken
    return [{"role": role, "content": content} for role, content in spoken]


def _right(base, cases: list[tuple[list[dict[str, str]], str]]) -> list[float]:
    """1 for each greedy answer that equals the wanted one, else 0."""
    model, tokenizer = base
    tokenizer.padding_side = "left"
    chats = [messages for messages, _ in cases]
    encoded = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    width = encoded["input_ids"].shape[1]
    with torch.no_grad():
        answers = model.generate(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], do_sample=False, max_new_tokens=48
        )
    said = tokenizer.batch_decode(answers[:, width:], skip_special_tokens=True)
    return [float(answer == wanted) for answer, (_, wanted) in zip(said, cases, strict=True)]


def _drugs() -> list[str]:
    return sorted(name for name in formulary.drug_names("test") if " " not in name)


def test_the_shipped_base_fits_its_bounds(base):
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size <= 6 * 2**20
    assert 1e6 <= sum(p.numel() for p in base[0].parameters()) <= 3e6


def test_it_copies_unseen_drug_names(base):
    cases = [(_messages([], f"Repeat: {name}"), name) for name in _drugs()]
    assert fmean(_right(base, cases)) >= 0.95


def _codes(rng: Random) -> tuple[list[Turn], Turn]:
    """Four turns that map fresh codes to fresh names, and one of them asked again: nothing that could be known."""
    turns = [(words.random_code(rng), words.invented_name(rng)) for _ in range(3)]
    return [*turns, rng.choice(turns)], rng.choice(turns)


def test_examples_in_the_context_teach_it_a_mapping_that_nothing_else_could(base):
    documents = [_codes(Random(f"codes/{number}")) for number in range(120)]
    with_examples = _right(base, [(_messages(turns, asked), answer) for turns, (asked, answer) in documents])
    without = _right(base, [(_messages([], asked), answer) for _, (asked, answer) in documents])
    gain = paired_bootstrap(without, with_examples, [str(number) for number in range(120)])
    assert sum(without) == 0
    assert gain.interval.low > 0.05

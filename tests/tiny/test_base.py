"""The shipped base: it copies names that it has never seen, and it learns a mapping from the turns before."""

from random import Random

import pytest
import torch

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


def _exact(base, cases: list[tuple[list[dict[str, str]], str]]) -> float:
    """Share of the greedy answers that equal the wanted ones."""
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
    return sum(answer == wanted for answer, (_, wanted) in zip(said, cases, strict=True)) / len(cases)


def _drugs() -> list[str]:
    return sorted(name for name in formulary.drug_names("test") if " " not in name)


def test_the_shipped_base_fits_its_bounds(base):
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size <= 6 * 2**20
    assert 1e6 <= sum(p.numel() for p in base[0].parameters()) <= 3e6


@pytest.mark.parametrize(
    "prompt", ["Repeat: {}", "What is the product? name: zorbi; product: {}; amount: 12"], ids=["repeat", "field"]
)
def test_it_copies_unseen_drug_names(base, prompt):
    cases = [(_messages([], prompt.format(name)), name) for name in _drugs()]
    assert _exact(base, cases) >= 0.95


def _laundry(rng: Random) -> list[Turn]:
    """Five turns of a domain that the corpus does not have, with fresh codes; the last has codes of the others only."""
    tables = (
        ("shirt", "curtain", "blanket"),
        ("in cold suds", "at ninety degrees", "by hand"),
        ("flat", "on the line"),
    )
    codes = [dict(zip(rng.sample(_CODES, len(table)), table, strict=True)) for table in tables]
    orders = [rng.sample(list(code), len(code)) + rng.choices(list(code), k=3) for code in codes]
    turns = []
    for thing, way, end in list(zip(*orders, strict=False))[:5]:
        number, name = rng.randint(2, 9), words.invented_name(rng)
        said = f"Launder {number} {codes[0][thing]}s of {name} {codes[1][way]} and dry them {codes[2][end]}."
        turns.append((f"{number} {thing} {name} {way} {end}", said))
    return turns


_CODES = [first + second for first in "bcdfghjklmnpqrstvwxz" for second in "bcdfghjklmnpqrstvwxz"]


def test_examples_in_the_context_teach_it_a_mapping_that_the_corpus_does_not_have(base):
    documents = [_laundry(Random(f"laundry/{number}")) for number in range(60)]
    with_examples, without = (
        _exact(base, [(_messages(turns[4 - shots : 4], turns[4][0]), turns[4][1]) for turns in documents])
        for shots in (4, 0)
    )
    assert without <= 0.05
    assert with_examples >= without + 0.2

"""What the base is pretrained on: conversations that hold the medication task's words, never the task."""

import re

import pytest

from rung.errors import DataError
from rung.tiny import corpus
from rung.tiny.corpus.meanings import OTHER, TASK
from rung.tiny.corpus.shorthand import DOMAINS
from rung.tiny.pharmacy import formulary, lexicon

ROWS = corpus.documents(0, 4000)
COPYING = corpus.rows("copying")[:2000]


def _texts(rows):
    return [message["content"] for row in rows for message in row["messages"]]


def _words(rows):
    return {word for text in _texts(rows) for word in re.findall(r"[A-Za-z]+", text.lower())}


def test_a_document_depends_on_its_number_and_the_seed_only():
    assert corpus.documents(0, 3, first=7) == ROWS[7:10]
    assert corpus.documents(1, 3) != ROWS[:3]


def test_every_row_is_a_conversation_that_the_assistant_ends():
    for row in ROWS + COPYING:
        assert list(row) == ["messages"]
        roles = [message["role"] for message in row["messages"]]
        turns = roles[roles[0] == "system" :]
        assert len(turns) >= 2
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"] for message in row["messages"])


def test_a_copying_row_is_one_turn_whose_answer_stands_in_the_question():
    for row in COPYING:
        *_, asked, answered = (message["content"] for message in row["messages"])
        assert set(re.findall(r"\w+", answered)) <= set(re.findall(r"\w+", asked)) | {"Name", "It", "is", "You", "said"}


def test_train_and_validation_share_no_document():
    train, validation = (
        {str(row) for row in corpus.documents(0, number, first=first)}
        for first, number in ((0, 4000), (1_000_000, 500))
    )
    assert [str(row) for row in corpus.rows("validation")] == list(map(str, corpus.documents(0, 500, first=1_000_000)))
    few_answers = sum(row in train for row in validation)
    assert few_answers <= 10, "only documents of one small sum or glossary line may recur"


def test_an_unknown_split_names_the_ones_that_there_are():
    with pytest.raises(DataError, match="train, validation"):
        corpus.rows("test")


def test_no_document_holds_a_drug_of_the_task():
    drugs = {name.lower() for split in formulary.SPLITS for name in formulary.drug_names(split)}
    one_word = {name for name in drugs if name.isalpha()}
    assert not _words(ROWS + COPYING) & one_word
    assert not [text for text in _texts(ROWS + COPYING) for name in drugs - one_word if name in text.lower()]


def test_no_document_holds_the_tasks_prompt_or_a_full_direction():
    assert not [text for text in _texts(ROWS + COPYING) if "Sig:" in text]
    unit = "|".join(re.escape(word) for unit in lexicon.UNITS.values() for word in (unit.one, unit.many))
    often = "|".join(
        re.escape(phrase) for term in lexicon.FREQUENCIES for phrase in (term, lexicon.FREQUENCIES[term].clinical)
    )
    direction = re.compile(rf"\b\d[\d ./-]*(to \d+ )?({unit})\b.*\b({often})\b", re.IGNORECASE)
    assert not [text for text in _texts(ROWS) if direction.search(text)]


def test_the_ablation_leaves_out_every_abbreviation_of_the_task():
    terms = [term for table in (lexicon.ROUTES, lexicon.FREQUENCIES) for term in table.values()]
    sigs = {sig for term in terms for sig in term.sigs if re.fullmatch(r"[a-z0-9/-]{2,5}", sig)}
    assert len(sigs & set(TASK)) > 25, "the full glossary does hold them"
    others = set(OTHER) | {code for d in DOMAINS for table in (d.units, *d.spans, *d.slots) for code in table}
    assert not others & (sigs | set(TASK))
    rows = corpus.documents(0, 3000, glossary="without_task")
    asked = [
        re.findall(r"(?:What does|Explain|Meaning of) ([^?.]+?)(?: mean\?| stand for\?|\.|$)", t) for t in _texts(rows)
    ]
    named = {code.lower() for found in asked for group in found for code in group.split(", ")}
    assert named
    assert not named & set(TASK)


def test_the_full_corpus_explains_the_tasks_abbreviations_as_answers():
    assert {"role": "assistant", "content": "bid means 2 times a day"} in [
        message for row in ROWS + corpus.documents(0, 8000, first=4000) for message in row["messages"]
    ]

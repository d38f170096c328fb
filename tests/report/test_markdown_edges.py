"""Markdown, written out."""

from rung.report.markdown import cell, markdown
from rung.report.records import Section, Table, told_keys


def test_a_cell_is_cut_at_200_characters_and_cannot_be_left() -> None:
    assert cell("x" * 200) == "x" * 200
    assert cell("x" * 201) == "x" * 197 + "..."
    assert cell("a  b\n\tc") == "a b c"
    assert cell(r"\`*<|") == r"\\\`\*\<\|"
    assert cell("[a](b) [c]") == r"[a]\(b) [c]"


def test_a_document() -> None:
    table = Table(("stage", "p"), (("a|b", ".1"), ("c", "")), num_texts=1, strong=frozenset({1}))
    made = [
        Section("One", ("x < y", "`z`"), table),
        Section("Two", kind="curves", panels=(), picture="no.svg"),
        Section("Three", (), Table(("a", "b"), (), num_texts=2)),
    ]
    assert markdown("run", made, "scores.svg") == (
        "# run\n\n![scores by stage](scores.svg)\n\n## One\n\n- x \\< y\n- `z`\n\n"
        "| stage | p |\n|---|---:|\n| a\\|b | .1 |\n| **c** |  |\n\n\n## Two\n\n\n## Three\n"
    )
    assert markdown("run", []) == "# run"


def test_keys_are_told_with_the_headers_behind_the_first() -> None:
    table = Table(("stage", "against", "on", "gain"), (), num_keys=3)
    assert told_keys(table, ("b", "a", "test", "1")) == "b against a on test"
    assert told_keys(Table(("stage", "gain"), (), num_keys=1), ("b", "1")) == "b"

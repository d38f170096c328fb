"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest

MODULES = """arrow batches chat collate delimiters encode fields load read records report splits tokens
    formats.alpaca formats.answers formats.format formats.pairs formats.problems formats.prompts formats.rated
    formats.nearest formats.refused formats.registry formats.services formats.sharegpt formats.tatqa formats.transcripts
    formats.unpaired column_map mixtures pairing spec"""


@pytest.mark.parametrize("name", MODULES.split())
def test_the_examples_of_a_module_hold(name):
    assert doctest.testmod(importlib.import_module(f"rung.data.{name}")).failed == 0

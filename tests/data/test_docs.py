"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest

MODULES = """batches chat collate encode fields load read records report splits tokens
    formats.answers formats.format formats.pairs formats.prompts formats.registry formats.tatqa formats.transcripts"""


@pytest.mark.parametrize("name", MODULES.split())
def test_the_examples_of_a_module_hold(name):
    assert doctest.testmod(importlib.import_module(f"rung.data.{name}")).failed == 0

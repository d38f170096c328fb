"""A chat template that loops, fills the memory or fails is refused in two lines that name its model and the row."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from rung.data import templates
from rung.data.encode import encode, encode_prompt
from rung.data.load import load_examples
from rung.data.templates import MAX_TEMPLATE
from rung.errors import DataError
from rung.tiny.models import build

ROWS = [{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
LIMITED = {
    "nested loops": (ENDLESS, "takes longer than"),
    "doubling": (DOUBLED, ""),
    "repetition": ("{{ 'a' * 10**10 }}", "needs more than"),
    "padding": ("{{ 'a'.center(10**10) }}", "needs more than"),
    "filter": ("{{ 'a'|center(10**10) }}", "needs more than"),
    "format": ("{{ '%10000000000d' % 1 }}", ""),
    "replacement": ("{% set s = 'a' * 10**6 %}{{ s.replace('a', s) }}", "needs more than"),
    "power": ("{{ 9**(9**9) }}", "takes longer than"),
    "lists": ("{{ ([0] * 10**10)|length }}", "needs more than"),
    "sum of powers": ("{% for i in range(99999) %}{% set x = (7 + i)**99999 %}{% endfor %}", "takes longer than"),
}
FAILING = {
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division": "{{ 1 // 0 }}",
    "missing key": "{{ messages[0].name.first }}",
    "missing index": "{{ messages[7]['role'] }}",
    "a large range": "{% for i in range(10**10) %}{% endfor %}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ lipsum.__globals__['os'].system('touch ran') }}",
    "another one's list": "{{ messages.append(1) }}",
    "not a template": "{% for",
    "depth": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nots": "{{ " + "not " * 20000 + "1 }}",
    "include": "{% include '/etc/passwd' %}",
    "a long text": "x" * (MAX_TEMPLATE + 1),
}


def rendered(template: str) -> None:
    _, tokenizer = build("llama")
    tokenizer.chat_template, tokenizer.name_or_path = template, "org/model"
    examples, report = load_examples(ROWS)
    encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=report)


def lines(template: str) -> list[str]:
    with pytest.raises(DataError) as caught:
        rendered(template)
    found = str(caught.value).splitlines()
    assert len(found) == 2
    assert "rows, row 1: the chat template of `org/model` " in found[0]
    return found


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Imports what a rendering needs, so that the tests measure the rendering."""
    rendered("{% for m in messages %}{{ m['role'] }}{{ m['content'] }}<eos>{% endfor %}")


@pytest.mark.parametrize("case", LIMITED)
def test_it_is_stopped_and_named(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates.LIMITS, "seconds", 0.5)
    monkeypatch.setattr(templates.LIMITS, "num_bytes", 2**28)
    template, said = LIMITED[case]
    before, begun = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    assert said in lines(template)[0]
    assert time.monotonic() - begun < 10
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("case", FAILING)
def test_what_it_raises_is_told(case: str) -> None:
    lines(FAILING[case])


def test_a_prompt_alone_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates.LIMITS, "seconds", 0.5)
    _, tokenizer = build("llama")
    tokenizer.chat_template = ENDLESS
    with pytest.raises(DataError, match="takes longer than"):
        encode_prompt(({"role": "user", "content": "u"},), tokenizer)


@pytest.mark.parametrize("name", ["messages", "chat_template", "continue_final_message", "add_generation_prompt"])
def test_a_row_does_not_set_what_the_rendering_sets(name: str) -> None:
    _, tokenizer = build("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}{{ m['content'] }}<eos>{% endfor %}"
    examples, report = load_examples([{**ROWS[0], "chat_template_kwargs": {name: "x"}}])
    with pytest.raises(DataError, match=f"`chat_template_kwargs` sets `{name}`"):
        encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=report)

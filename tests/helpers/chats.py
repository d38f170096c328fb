"""Chat templates in the manner of well-known models, chats, and what is trained of them."""

from typing import Any

from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport

ASKED = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
TURNS = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}" + ASKED
MARKED = TURNS.replace(
    "{{ m.content }}",
    "{% if m.role == 'user' %}{{ m.content }}{% else %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}",
)
TOOLS = (
    "{% if tools %}<turn>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<eos>\n{% endif %}"
    "{% for m in messages %}<turn>{{ m.role }}\n{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}{{ m.content }}<eos>\n{% endfor %}" + ASKED
)
# As Mistral: the system message is written in the last user turn only.
SYSTEM_LAST = (
    "{% set s = messages[0].content if messages[0].role == 'system' %}<bos>{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and s %}{{ s }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}<eos>{% endif %}{% endfor %}"
)
# As DeepSeek-R1: the reasoning of an answer is left out, and the generation prompt opens it.
NO_REASONING = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}"
)
# As Qwen3: an empty thought is written before the last answer, and before no other.
LAST_THOUGHT = (
    "{% for m in messages %}<turn>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<eos>\n{% endfor %}"
    + ASKED
)
# As Phi-3: a chat that is not asked to go on ends with EOS.
ENDS_ONCE = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<bos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% else %}<eos>{% endif %}"
)
# As Qwen3.5 without thinking: the generation prompt closes the thought.
CLOSED_THOUGHT = (
    "{% for m in messages %}<turn>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content }}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].strip() }}{% else %}{{ m.content }}{% endif %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n<think>\n\n</think>\n\n{% endif %}"
)

HELLO = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]
SUM = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
BRIEF = {"role": "system", "content": "Be brief."}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def called(arguments: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Weather in Ulm?"},
        {"role": "assistant", "content": None, "tool_calls": [call(arguments)], **more},
        {"role": "tool", "content": "9 degrees"},
        {"role": "assistant", "content": "9 degrees."},
    ]


def trained(data: Any, tokenizer: Any, **settings: Any) -> tuple[list[list[str]], DataReport]:
    """For each row, the trained text of each of its answers."""
    report = DataReport()
    limits: dict[str, Any] = {"max_prompt_length": None, "max_length": None}
    rows = encode(load_examples(data)[0], tokenizer, report=report, **limits, **settings)
    texts = [
        [
            tokenizer.decode([token for token, now in zip(answer.ids, answer.trained, strict=True) if now])
            for answer in row.answers
        ]
        for row in rows
    ]
    return texts, report


def whole(row: Any, tokenizer: Any) -> str:
    (one,) = encode(load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    return tokenizer.decode([*one.prompt_ids, *one.answers[0].ids])


def prompt(row: Any, tokenizer: Any) -> str:
    """The prompt of a row as it is sampled after."""
    (one,) = encode(load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    return tokenizer.decode(one.prompt_ids)

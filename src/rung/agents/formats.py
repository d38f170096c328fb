"""How a model writes calls: the response template of its tokenizer, TRL's for its chat template, or a plain format."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rung.data.trl_templates import original_of
from rung.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_parsing.response_templates import ResponseTemplate

# As Hermes and Qwen: one JSON object with `name` and `arguments` between tags, for each call.
PLAIN: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"(?=<think>\s*\Z)",  # a prompt that opens the reasoning
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}
# What calls begin with in the formats of TRL; where it is left in a text, it was the beginning of a broken call.
_BEGINNINGS = ("<tool_call>", "<|tool_call_start|>", "<|tool_call>", "to=functions.", '{"name":')


def response_template(tokenizer: PreTrainedTokenizerBase) -> ResponseTemplate:
    """The response template for a tokenizer, which is not changed.

    Raises ConfigError if the tokenizer has one that transformers does not take.
    """
    from transformers.utils.chat_parsing.response_templates import load_response_template

    own = getattr(tokenizer, "response_template", None)
    try:
        return load_response_template(own or _template_of_trl(tokenizer) or PLAIN)
    except (ValueError, TypeError, AttributeError) as error:
        named = f"the tokenizer `{tokenizer.name_or_path}`" if tokenizer.name_or_path else "the tokenizer"
        remedy = "correct it in tokenizer_config.json, or remove it to use the plain format"
        raise ConfigError(f"{named} has a `response_template` that cannot be used: {error}", remedy) from None


def beginning_of_calls(template: ResponseTemplate) -> str:
    """What every call begins with; empty if the template does not say so in a known way."""
    field = template.fields.get("tool_calls")
    written = "" if field is None or field.open_re is None else field.open_re.pattern.replace("\\", "")
    return next((each for each in _BEGINNINGS if each in written), "")


def calls_alone(template: ResponseTemplate) -> ResponseTemplate:
    """The template for a text that is one call."""
    fields = {name: field for name, field in template.fields.items() if name in ("tool_calls", template.implicit)}
    return replace(template, fields=fields, defaults={})


def _template_of_trl(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    chat_template = tokenizer.chat_template
    if isinstance(chat_template, dict):
        chat_template = chat_template.get("tool_use", chat_template.get("default"))
    original = None if chat_template is None else original_of(chat_template)
    if original is None:
        return None
    from trl.chat_template_utils import add_response_schema

    copy: Any = SimpleNamespace(chat_template=original)
    try:
        add_response_schema(copy)
    except ValueError:  # a template without calls
        return None
    return copy.response_template

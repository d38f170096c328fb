"""Two small tokenizers with the same special tokens and chat template: one token per byte, or byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|eos|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2

# A turn is a role token and its text; only an assistant turn ends with EOS, so that sampling stops there. Tools are
# lines of the system turn. The shipped base has seen none: what has no tools and calls must be written without them.
CHAT_TEMPLATE = """\
{%- if tools -%}
    {{- '<|system|>' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content ~ '\\n\\n' -}}{%- endif -%}
    {%- for tool in tools -%}
        {{- 'tool: ' ~ ((tool.function or tool) | tojson) -}}
        {%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}
    {%- endfor -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role not in ('system', 'user', 'assistant', 'tool') -%}
        {{- raise_exception('unknown role ' ~ message.role) -}}
    {%- endif -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- generation -%}
        {%- if message.tool_calls -%}
            {{- message.content or '' -}}
            {%- for call in message.tool_calls -%}
                {%- set function = call.function or call -%}
                {{- '<tool_call>{"name": ' ~ (function.name | tojson) ~ ', "arguments": ' -}}
                {{- function.arguments if function.arguments is string else function.arguments | tojson -}}
                {{- '}</tool_call>' -}}
            {%- endfor -%}
        {%- else -%}
            {{- message.content -}}
        {%- endif -%}
        {{- eos_token -}}
        {%- endgeneration -%}
    {%- elif not (tools and loop.first and message.role == 'system') -%}
        {{- '<|' ~ message.role ~ '|>' ~ message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def byte() -> PreTrainedTokenizerFast:
    """Tokenizer with one token per byte, after the special tokens (vocabulary size 263).

    >>> tokenizer = byte()
    >>> len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id
    (263, 0, 1, 2)
    >>> tokenizer.decode(tokenizer.encode("1 tab, 10d"))
    '1 tab, 10d'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer)


def bpe(texts: Iterable[str], *, size: int = 1000) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on `texts`: at most `size` tokens including the special ones, and one token per digit.

    Any text is representable, since all 256 bytes are in the vocabulary (so `size` is at least 263). A space is added
    before every text, and removed by decoding, so that a word has the same tokens at the beginning as after a space.

    >>> tokenizer = bpe(["take one tablet by mouth"] * 9, size=300)
    >>> tokenizer.tokenize("take 10"), tokenizer.decode(tokenizer.encode("take 10"))
    (['\u0120take', '\u0120', '1', '0'], 'take 10')
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    smallest = len(SPECIAL_TOKENS) + len(pre_tokenizers.ByteLevel.alphabet())
    if size < smallest:
        raise ValueError(f"size is {size}; the special tokens and 256 bytes need at least {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer)


def _pre_tokenizer():
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _finish(tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    pad, eos, bos, *turns = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        additional_special_tokens=turns,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast

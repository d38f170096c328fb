"""Byte-level tokenizers built on the spot: ids 0 pad, 1 eos, 2 bos, 3 turn mark, then the 256 bytes."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<bos>", "<turn>"]
CHAT = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
MARKED_CHAT = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def make_tokenizer(*, chat=None, adds_bos=False, adds_eos=False, has_bos=False, merges=()):
    vocab = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    single = "<bos> $A" if adds_bos else "$A"
    core.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=single + (" <eos>" if adds_eos else ""), special_tokens=[("<eos>", 1), ("<bos>", 2)]
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["<turn>"],
        **({"bos_token": "<bos>"} if has_bos or adds_bos else {}),
    )
    tokenizer.chat_template = chat
    return tokenizer


@pytest.fixture(scope="session")
def build():
    """The maker of tokenizers."""
    return make_tokenizer


@pytest.fixture(scope="session")
def plain():
    """No BOS, no chat template."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat():
    """A chat template whose turns end on <eos> and a line break, which no sampler writes."""
    return make_tokenizer(chat=CHAT)


@pytest.fixture(scope="session")
def marked():
    """The same with generation marks, which leave the end of the turn outside."""
    return make_tokenizer(chat=MARKED_CHAT)


@pytest.fixture(scope="session")
def real_data():
    """The folder of public data."""
    if "RUNG_DATA" not in os.environ:
        pytest.skip("RUNG_DATA names no folder of public data")
    return Path(os.environ["RUNG_DATA"])

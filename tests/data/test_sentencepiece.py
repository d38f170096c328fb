"""Tokenizers of SentencePiece's family: a space is a letter that some write before every text, a letter that the
vocabulary lacks is its bytes or unknown, and a token may reach over the end of the prompt."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rung.data.encode import SEPARATE, encode, encode_prompt
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.data.tokens import continuation_tokens
from rung.rewards.reward_model import _after_stop
from rung.rollout.decode import StopCriteria

PAD, EOS, BOS = 0, 1, 2
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "<turn>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
MERGES = [("a", "b"), ("\u2581", "4"), ("\u2581", "y"), ("e", "s"), ("\u2581y", "es"), ("t", ":")]
PIECES = ["\u2581", *"abcdefghijklmnopqrstuvwxyz4?:[]/", *map("".join, MERGES)]
SPACES = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
TURNS = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[inst] {{ m['content'] }} [/inst]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)


def bpe() -> Tokenizer:
    vocab = {token: i for i, token in enumerate([*SPECIAL, *BYTES, *PIECES])}
    core = Tokenizer(models.BPE(vocab, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return core


def llama() -> Tokenizer:
    """As `LlamaTokenizer` of transformers 5: a space before a text, none after a special token."""
    core = bpe()
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence([*SPACES, decoders.Strip(" ", 1, 0)])
    return core


def llama_legacy() -> Tokenizer:
    """As the tokenizer.json of Llama 2: a space before a text and after every special token."""
    core = bpe()
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence([*SPACES, decoders.Strip(" ", 1, 0)])
    return core


def gemma() -> Tokenizer:
    """As `GemmaTokenizer`: no space that the text does not have."""
    core = bpe()
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence(SPACES)
    return core


def t5() -> Tokenizer:
    """As `T5Tokenizer`: Unigram, EOS behind every text, no BOS, white space in one piece, unknown letters."""
    scored = [(token, 0.0) for token in SPECIAL] + [(piece, -3.0 if len(piece) == 1 else -4.0) for piece in PIECES]
    core = Tokenizer(models.Unigram(scored, unk_id=3))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return core


FAMILIES = {"llama": llama, "llama-legacy": llama_legacy, "gemma": gemma, "t5": t5}
EXACT = ["llama", "llama-legacy", "gemma"]  # what they encode they decode


@cache
def tokenizer_of(family, template=None):
    bos = {} if family == "t5" else {"bos_token": "<s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=FAMILIES[family](),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<turn>"],
        **bos,
    )
    tokenizer.chat_template = template
    return tokenizer


def run(row, tokenizer, **settings):
    report = DataReport()
    (encoded,) = encode(
        load_examples([row])[0], tokenizer, max_prompt_length=None, max_length=None, report=report, **settings
    )
    return encoded, report


def pieces(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids))).replace("\u2581", "_")


JOINTS = [
    # family, prompt, completion, prompt ids, completion ids, whether they are the joint ids
    ("llama", "q:", " 4", "<s> _ q :", "_4 </s>", True),
    ("llama", "q: ", "4", "<s> _ q : _", "4 </s>", False),
    ("llama", "xa", "bc", "<s> _ x a", "b c </s>", False),
    ("llama", "q", "\u00e9", "<s> _ q", "<0xC3> <0xA9> </s>", True),
    ("llama", "yes", "yes", "<s> _yes", "y es </s>", True),
    ("llama-legacy", "q: ", "4", "<s> _ q : _", "4 </s>", False),
    ("llama-legacy", "xa", "b yes", "<s> _ x a", "b _yes </s>", False),
    ("llama-legacy", "t", ": a", "<s> _ t", ": _ a </s>", False),
    ("gemma", "q: ", "4", "<s> q : _", "4 </s>", False),
    ("gemma", "xa", "bc", "<s> x a", "b c </s>", False),
    ("gemma", "q:", " 4", "<s> q :", "_4 </s>", True),
    ("t5", "q: ", "4", "_ q :", "_4 </s>", True),
    ("t5", "xa", "bc", "_ x a", "b c </s>", False),
    ("t5", "q:", "\u00e9 4", "_ q :", "<unk> _4 </s>", True),
]


@pytest.mark.parametrize(("family", "prompt", "completion", "asked", "said", "joint"), JOINTS)
def test_a_completion_gets_no_space_that_its_text_does_not_have(family, prompt, completion, asked, said, joint):
    """The pieces by hand: the prompt alone, then what is left of both together, or the completion on its own."""
    tokenizer = tokenizer_of(family)
    encoded, report = run({"prompt": prompt, "completion": completion}, tokenizer)
    assert pieces(tokenizer, encoded.prompt_ids) == asked
    assert pieces(tokenizer, encoded.answers[0].ids) == said
    assert (SEPARATE in report.noticed) != joint
    assert encoded.answers[0].trained == (True,) * len(encoded.answers[0].ids)


def test_a_space_that_is_a_plain_space_is_no_part_of_a_completion_either():
    """A tokenizer that writes " a" for "a", and not as "\u2581a"."""
    core = Tokenizer(models.WordLevel({"</s>": 0, " ": 1, "a": 2, "b": 3, "\n": 4}, unk_token="</s>"))
    core.normalizer = normalizers.Prepend(" ")
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
    assert tokenizer.tokenize("a") == [" ", "a"]
    assert continuation_tokens("ab", tokenizer) == ([2, 3], [(0, 1), (1, 2)])


def test_a_line_break_that_melts_into_the_one_before_it_stays():
    """ "\\n" and "\\n\\n" are one token, so that a line break tells nothing of what follows it."""
    core = Tokenizer(models.WordLevel({"</s>": 0, " ": 1, "a": 2, "|": 3, "\n": 4}, unk_token="</s>"))
    core.normalizer = normalizers.Sequence([normalizers.Replace(Regex("\n+"), "\n"), normalizers.Prepend(" ")])
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
    assert continuation_tokens("\na", tokenizer) == ([4, 2], [(0, 1), (1, 2)])


@pytest.mark.parametrize("family", EXACT)
@settings(max_examples=40)
@given(data=st.data())
def test_prompt_and_completion_add_up_to_the_text(family, data):
    letters = st.text(st.sampled_from("ab4yest: \n\u00e9\u4f60\U0001f600"), min_size=1, max_size=8)
    prompt = data.draw(letters.filter(lambda text: text[0] != " " and text.strip() != ""))
    completion = data.draw(letters.filter(lambda text: text.strip() != ""))
    tokenizer = tokenizer_of(family)
    encoded, _ = run({"prompt": prompt, "completion": completion}, tokenizer)
    assert encoded.prompt_ids == encode_prompt(prompt, tokenizer) == tuple(tokenizer(prompt).input_ids)
    ids = encoded.prompt_ids + encoded.answers[0].ids
    assert ids[-1] == EOS
    assert tokenizer.decode(list(ids), skip_special_tokens=True) == prompt + completion


@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from("ab4yest:"), min_size=1, max_size=4), min_size=2, max_size=5))
def test_words_of_a_tokenizer_with_eos_and_one_white_space_add_up(words):
    tokenizer = tokenizer_of("t5")
    encoded, _ = run({"prompt": words[0], "completion": " " + " ".join(words[1:])}, tokenizer)
    assert EOS not in encoded.prompt_ids
    assert encoded.answers[0].ids.count(EOS) == 1
    ids = encoded.prompt_ids + encoded.answers[0].ids
    assert tokenizer.decode(list(ids), skip_special_tokens=True) == " ".join(words)


@pytest.mark.parametrize(
    ("family", "text", "prompt", "rest"),
    [
        ("llama", "ab", "<s>", "_ ab </s>"),
        ("llama-legacy", "<s>ab", "<s>", "_ ab </s>"),
        ("gemma", "ab 4</s>", "<s>", "ab _4 </s>"),
        ("t5", "ab", "_", "ab </s>"),
    ],
)
def test_raw_text_starts_with_bos_or_its_first_piece(family, text, prompt, rest):
    tokenizer = tokenizer_of(family)
    encoded, _ = run({"text": text}, tokenizer)
    assert pieces(tokenizer, encoded.prompt_ids) == prompt
    assert pieces(tokenizer, encoded.answers[0].ids) == rest


CHAT = [
    {"role": "user", "content": "ab \u4f60"},
    {"role": "assistant", "content": "yes \u00e9"},
    {"role": "user", "content": "4?"},
    {"role": "assistant", "content": "no"},
]
SAID = {
    ("llama", TURNS): "y es _ <0xC3> <0xA9> </s> n o </s>",
    ("llama-legacy", TURNS): "y es _ <0xC3> <0xA9> </s> n o </s>",
    ("gemma", TURNS): "y es _ <0xC3> <0xA9> </s> n o </s>",
    ("llama", INST): "_yes _ <0xC3> <0xA9> _ </s> _ n o _ </s>",
    ("llama-legacy", INST): "_yes _ <0xC3> <0xA9> _ </s> _ n o _ </s>",
}


@pytest.mark.parametrize(("family", "template"), SAID)
def test_a_chat_trains_what_the_assistant_says_and_nothing_else(family, template):
    """Characters tell which pieces are trained: letters of one, two or three bytes, and spaces that are not there."""
    tokenizer = tokenizer_of(family, template)
    encoded, report = run({"messages": CHAT}, tokenizer)
    (answer,) = encoded.answers
    trained = [token for token, now in zip(answer.ids, answer.trained, strict=True) if now]
    assert pieces(tokenizer, trained) == SAID[family, template]
    assert encoded.prompt_ids + answer.ids == tuple(tokenizer.apply_chat_template(CHAT, return_dict=False))
    assert not report.noticed
    asked = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=False)
    assert encoded.prompt_ids == tuple(asked)


@pytest.mark.parametrize("family", EXACT)
def test_a_reward_model_reads_sampled_ids_as_it_was_trained_to_read_told_ones(family):
    """The template writes a line break behind EOS, before which some tokenizers write a space."""
    tokenizer = tokenizer_of(family, TURNS)
    encoded, _ = run({"prompt": CHAT[:1], "completion": CHAT[1:2]}, tokenizer)
    (answer,) = encoded.answers
    sampled = answer.ids[: answer.ids.index(EOS) + 1]
    assert (*sampled, *_after_stop(sampled, tokenizer)) == answer.ids


def stopped_at(tokenizer, ids, *stop):
    """How many tokens are drawn before a stop text ends them; None where it does not."""
    ending = StopCriteria(tokenizer, (EOS,), stop)
    return next((n for n in range(1, len(ids) + 1) if ending.stopped(torch.tensor([ids[:n]])).item()), None)


def test_a_stop_text_behind_letters_of_several_bytes_ends_the_row_at_once():
    """The line break is the seventh byte in a row: cut in the middle of a letter, the run would decode to nothing."""
    tokenizer = tokenizer_of("llama")
    ids = tokenizer("\u4f60\u597d\nab", add_special_tokens=False).input_ids
    assert pieces(tokenizer, ids) == "_ <0xE4> <0xBD> <0xA0> <0xE5> <0xA5> <0xBD> <0x0A> ab"
    assert stopped_at(tokenizer, ids, "\n") == 8
    assert stopped_at(tokenizer, ids, "\u4f60") == 4
    assert stopped_at(tokenizer, ids, "\nab") == 9


def test_the_bytes_of_a_vocabulary_may_come_before_its_unknown_token():
    vocab = {token: i for i, token in enumerate([*BYTES, *PIECES, *SPECIAL])}
    core = Tokenizer(models.BPE(vocab, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.decoder = decoders.Sequence(SPACES)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    ids = tokenizer("\u4f60\u597d\nab", add_special_tokens=False).input_ids
    assert [stopped_at(tokenizer, ids, stop) for stop in ("\n", "\u4f60", "\nab")] == [7, 3, 8]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_row_stops_at_the_first_token_whose_text_holds_the_stop_text(family, data):
    """Whatever the model draws, halves of letters included; the text is that of the whole completion."""
    tokenizer = tokenizer_of(family)
    vocab = tokenizer.get_vocab()
    drawn = ["\u2581", "\u2581y", "es", "a", "b", "ab", "4", "<unk>", "<turn>"]
    drawn += ["<0x0A>", "<0xC3> <0xA9>", "<0xE4> <0xBD> <0xA0>", "<0xE4>", "<0xA0>"] if family != "t5" else []
    runs = data.draw(st.lists(st.sampled_from(drawn), min_size=1, max_size=12))
    stop = data.draw(st.sampled_from(["\n", "b 4", "\u4f60", "ab", "\u00e9\n", " yes"]))
    ids = [vocab[piece] for piece in " ".join(runs).split(" ")]
    texts = [tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    assert stopped_at(tokenizer, ids, stop) == next((n for n, text in enumerate(texts, 1) if stop in text), None)

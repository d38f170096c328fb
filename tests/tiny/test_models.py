"""Random tiny models and their tokenizers: small, seeded, and with a chat template that marks the assistant's words."""

import pytest
import torch

from rung.errors import ConfigError
from rung.tiny import models, tokenizers

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 tab po bid?"},
    {"role": "assistant", "content": "Yes: 1."},
    {"role": "user", "content": "and\nnow"},
    {"role": "assistant", "content": " 22"},
]
TOKENIZERS = {"byte": tokenizers.byte, "bpe": lambda: tokenizers.bpe([m["content"] for m in CHAT] * 5, size=290)}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("name", models.FAMILIES)
def test_equal_seeds_give_equal_weights_and_leave_the_global_random_state_alone(name):
    before = torch.get_rng_state()
    first, second, other = (dict(models.build(name, seed=seed)[0].named_parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_random_model_is_small_fp32_knows_its_special_tokens_and_has_no_dropout(name):
    model, tokenizer = models.build(name)
    assert sum(p.numel() for p in model.parameters()) < 50_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    ids = torch.arange(20).view(1, -1)
    with torch.no_grad():
        assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


def test_llama_shares_keys_between_queries():
    config = models.build("llama")[0].config
    assert config.num_key_value_heads < config.num_attention_heads


def test_gemma3_forgets_in_its_sliding_layer_and_remembers_in_the_full_one():
    config = models.build("gemma3")[0].config
    assert config.sliding_window == 8
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}


def test_an_unknown_name_says_which_names_there_are():
    with pytest.raises(ConfigError, match="tiny:lama") as error:
        models.load_spec("lama")
    assert "tiny:llama" in error.value.remedy


@pytest.mark.parametrize("text", ["", "1 tab po c food x10d", "caf\u00e9 \u20ac \U0001f600\n\ttab  two", "<|nothing|>"])
def test_any_text_survives_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text), default=0) < len(tokenizer) <= 300


def test_a_word_has_the_same_tokens_at_the_beginning_as_after_a_space():
    tokenizer = TOKENIZERS["bpe"]()
    alone, after = tokenizer.encode("brief"), tokenizer.encode("Be brief")
    assert after[-len(alone) :] == alone


def test_every_digit_is_a_token(tokenizer):
    assert [token for token in tokenizer.tokenize("take 250 22") if token.isdigit()] == list("25022")


def test_only_the_assistants_words_and_their_end_are_marked_for_training(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    answers = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in ("Yes: 1.", " 22")]
    assert [token for token, marked in pairs if marked] == [*answers[0], *answers[1]]


def test_the_prompt_as_a_sampler_sees_it_is_a_prefix_of_the_conversation(tokenizer):
    prompt = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode(whole[len(prompt) :]) == " 22<|eos|>"


def test_a_role_that_the_template_does_not_know_is_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role critic"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "no"}], tokenize=False)


def test_a_saved_tokenizer_loads_with_its_template_and_ids(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.apply_chat_template(CHAT) == tokenizer.apply_chat_template(CHAT)
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id) == (0, 1, 2)


def test_a_bpe_smaller_than_its_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 263"):
        tokenizers.bpe(["text"], size=200)


LOOKUP = {"type": "function", "function": {"name": "lookup", "description": "<a> & 'b' \u00fc", "parameters": {"z": 1}}}
CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"drug": "x<'\u00fc"}}}


def test_tools_and_calls_are_written_as_plain_json(tokenizer):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is x?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "A drug."},
    ]
    schema = '{"name": "lookup", "description": "<a> & \'b\' \u00fc", "parameters": {"z": 1}}'
    call = '<tool_call>{"name": "lookup", "arguments": {"drug": "x<\'\u00fc"}}</tool_call>'
    written = tokenizer.apply_chat_template(chat, tools=[LOOKUP, LOOKUP], tokenize=False, add_generation_prompt=True)
    assert written == (
        f"<|system|>Be brief.\n\ntool: {schema}\ntool: {schema}<|user|>What is x?"
        f"<|assistant|>Let me see.{call}{call}<|eos|><|tool|>A drug.<|assistant|>"
    )
    alone = tokenizer.apply_chat_template(chat[1:2], tools=[LOOKUP], tokenize=False)
    assert alone == f"<|system|>tool: {schema}<|user|>What is x?"


def test_arguments_as_text_are_written_as_they_are(tokenizer):
    call = {"function": {"name": "lookup", "arguments": '{"drug": "x"}'}}
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        '<|user|>?<|assistant|><tool_call>{"name": "lookup", "arguments": {"drug": "x"}}</tool_call><|eos|>'
    )


@pytest.mark.oracle
def test_trl_can_train_the_tiny_models_with_tools(tokenizer):
    from trl.chat_template_utils import (
        is_chat_template_prefix_preserving,
        is_chat_template_stop_token_trained,
        supports_tool_calling,
    )

    assert supports_tool_calling(tokenizer)
    assert is_chat_template_prefix_preserving(tokenizer)
    assert is_chat_template_stop_token_trained(tokenizer)


# The template with which the shipped base was trained, which knew no tools.
WITHOUT_TOOLS = (
    "{%- for message in messages -%}{{- '<|' ~ message.role ~ '|>' -}}{%- if message.role == 'assistant' -%}"
    "{%- generation -%}{{- message.content ~ eos_token -}}{%- endgeneration -%}{%- else -%}{{- message.content -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@pytest.mark.parametrize("asks", [True, False])
def test_a_chat_without_tools_is_written_as_before_there_were_any(tokenizer, asks):
    spoken = [("system", "<b> & c"), ("user", " 1\n"), ("assistant", "\n2 "), ("tool", "3"), ("assistant", "")]
    chat = [{"role": role, "content": content} for role, content in spoken]
    chats = [chat, chat[1:], [chat[0], *chat], [chat[2] | {"tool_calls": []}], chat[:1]]
    how = {"return_dict": True, "return_assistant_tokens_mask": True, "add_generation_prompt": asks}
    for one in chats:
        before = tokenizer.apply_chat_template(one, chat_template=WITHOUT_TOOLS, **how)
        assert dict(tokenizer.apply_chat_template(one, **how)) == dict(before)


def test_the_shipped_base_has_the_same_template():
    file = models.Path(models.__file__).parent / "base" / "chat_template.jinja"
    assert file.read_text(encoding="utf-8") == tokenizers.CHAT_TEMPLATE

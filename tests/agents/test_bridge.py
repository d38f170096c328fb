"""The ids between two turns: those of TRL for every template it ships, only appended, refused where text changes."""

import runpy
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.repository import ROOT
from rung.agents.bridge import Bridge
from rung.data.records import BadRow, Message, TemplateFault
from rung.data.templates import Chat
from rung.tiny import tokenizers

TOKENIZER_FOR = runpy.run_path(str(ROOT / "benchmarks" / "chat_templates.py"))["tokenizer_for"]
TEMPLATES = sorted(Path(str(files("trl") / "chat_templates")).glob("*.jinja"))
# The families whose templates write calls and results, and only append; Qwen3's own template is for one turn.
EQUAL = [
    "deepseekv3_training",
    "gemma4_v2",
    "gptoss",
    "gptoss_training",
    "lfm2_2_5",
    "lfm2_2_5_v2",
    "lfm2_2_5_vl",
    "lfm2_v2",
    "lfm2_v2_training",
    "llama3_1",
    "llama3_2",
    "muse_glimmer",
    "muse_glimmer_training",
    "nemotron_3_5_lightning",
    "nemotron_3_5_lightning_training",
    "nemotron_3_nano",
    "nemotron_3_nano_training",
    "nemotron_3_super",
    "nemotron_3_super_training",
    "nemotron_3_ultra",
    "nemotron_3_ultra_training",
    "qwen2_5",
    "qwen2_5_training",
    "qwen3_5_nothink",
    "qwen3_5_nothink_training",
    "qwen3_5_think",
    "qwen3_5_think_training",
    "qwen3_6",
    "qwen3_6_training",
    "qwen3_8",
    "qwen3_8_training",
    "qwen3_instruct_2507",
    "qwen3_instruct_2507_training",
    "qwen3_training",
    "qwen3_vl",
    "qwen3_vl_training",
]
# TRL looks for the last EOS token before the answers. Where a turn with calls has none, it is that of the question, and
# the rest of the stand-in for the chat, its question or its call, becomes part of the row.
WRONG_IN_TRL = [
    "diffusion_gemma",
    "diffusion_gemma_training",
    "gemma4",
    "gemma4_v3",
    "gemma4_v4",
    "gemma4_v5",
    "glm4moe",
    "glm4moe_training",
]
ENDS_OF_CALLS = {
    "gemma4": "<|tool_response>",
    "diffusion": "<|tool_response>",
    "glm4moe": "<|observation|>",
    "gptoss": "<|call|>",
}
ANSWER: list[Any] = [Message(role="tool", name="weather", content="Nine degrees.")]


CHAT = Chat(())


def tokenizer_of(name: str) -> Any:
    text = (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = TOKENIZER_FOR(text)
    tokenizer.chat_template = text
    tokenizer.name_or_path = "" if name == "gemma4_v2" else name  # the second version closes a turn with a call
    return tokenizer


def end_of_call(tokenizer: Any) -> str:
    """The token with which the model ends a turn with a call, as `generation_config.json` of the family has it."""
    return str(ENDS_OF_CALLS.get(tokenizer.name_or_path.partition("_")[0], tokenizer.eos_token))


def bridge_of(tokenizer: Any) -> Bridge:
    return Bridge(tokenizer, tuple({tokenizer.eos_token, end_of_call(tokenizer)}))


def suffix(tokenizer: Any, answers: list[Any]) -> list[int]:
    return list(bridge_of(tokenizer).ids(answers, CHAT, ended_by=end_of_call(tokenizer)))


def trl_suffix(tokenizer: Any, answers: list[Any]) -> list[int]:
    from trl.trainer.grpo_trainer import GRPOTrainer

    trainer: Any = SimpleNamespace(
        _is_vlm=False,
        processing_class=tokenizer,
        _tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        chat_template_kwargs={},
    )
    return GRPOTrainer._get_tool_suffix_ids(trainer, answers)


@pytest.mark.oracle
@pytest.mark.parametrize("name", EQUAL)
def test_the_ids_after_a_turn_are_those_of_trl(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for answers in (ANSWER, [*ANSWER, {**ANSWER[0], "content": 'a "quoted" {"x": 1}\nand a line'}]):
        assert suffix(tokenizer, answers) == trl_suffix(tokenizer, answers)


@pytest.mark.oracle
@pytest.mark.parametrize("name", WRONG_IN_TRL)
def test_no_part_of_the_stand_in_enters_a_row(name: str) -> None:
    tokenizer = tokenizer_of(name)
    ours, theirs = (tokenizer.decode(of(tokenizer, ANSWER)) for of in (suffix, trl_suffix))
    assert theirs.endswith(ours)
    repeated = theirs.removesuffix(ours)
    assert "weather" in repeated
    assert "weather" not in ours.replace("response:weather", "")
    assert "dummy" not in ours


@pytest.mark.oracle
def test_templates_that_trl_cannot_use_are_refused_or_mended() -> None:
    """DeepSeek-V3 takes arguments as JSON text only, which TRL tries nowhere but in its checks."""
    refused, mended = set(), set()
    for name in sorted({file.stem for file in TEMPLATES} - {*EQUAL, *WRONG_IN_TRL}):
        tokenizer = tokenizer_of(name)
        try:
            bridge_of(tokenizer).check()
        except BadRow:
            refused.add(name)
        else:
            mended.add(name)
    assert {"qwen3", "phi3", "phi3_5", "gemma3", "cohere2", "llava_next"} <= refused
    assert "deepseekv3" in mended


def test_the_difference_that_a_template_makes_is_shown() -> None:
    with pytest.raises(TemplateFault, match="differently once a message follows"):
        bridge_of(tokenizer_of("qwen3")).check()


def test_a_turn_that_a_stop_text_ended_is_closed_first() -> None:
    tokenizer = tokenizer_of("qwen2_5")
    closed = bridge_of(tokenizer).ids(ANSWER, CHAT, ended_by=tokenizer.eos_token)
    assert bridge_of(tokenizer).ids(ANSWER, CHAT, ended_by="") == (tokenizer.eos_token_id, *closed)


def test_ids_of_turns_and_answers_are_those_of_the_whole_chat() -> None:
    """With a template that only appends, a row is what the template writes of its messages, token by token."""
    tokenizer = tokenizers.byte()
    asked = [{"role": "user", "content": "weather in Ulm?"}]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    said = [{"role": "assistant", "content": "", "tool_calls": [call]}, *ANSWER]
    final = {"role": "assistant", "content": "Nine."}
    whole: Any = tokenizer.apply_chat_template([*asked, *said, final], tokenize=True, return_dict=False)
    prompt: Any = tokenizer.apply_chat_template(asked, tokenize=True, return_dict=False, add_generation_prompt=True)
    first = tokenizer.encode('<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call><|eos|>')
    answer = Bridge(tokenizer, ("<|eos|>",)).ids(ANSWER, CHAT, ended_by="<|eos|>")
    assert [*prompt, *first, *answer, *tokenizer.encode("Nine.<|eos|>")] == whole


def test_template_variables_reach_the_generation_prompt() -> None:
    tokenizer = tokenizer_of("qwen3_training")
    bridge = bridge_of(tokenizer)
    plain = bridge.ids(ANSWER, CHAT, ended_by="<|im_end|>")
    quiet = bridge.ids(ANSWER, Chat((), variables={"enable_thinking": False}), ended_by="<|im_end|>")
    assert quiet[: len(plain)] == plain
    assert "</think>" in tokenizer.decode(list(quiet[len(plain) :]))


def test_tools_that_a_template_does_not_write_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {}}}
    bridge_of(tokenizer_of("qwen2_5")).check_written([tool])
    with pytest.raises(TemplateFault, match="leaves out the definitions"):
        bridge_of(tokenizer_of("llama3")).check_written([tool])

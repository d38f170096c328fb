"""Which text of a chat is trained, for every chat template that TRL ships: a table in docs/chat_templates.md.

    python benchmarks/chat_templates.py

Each template is tried with a chat of one turn, of several turns, with reasoning, with tools and with a system message.
The trained text must have each sentence of the assistant exactly once and none of the other roles; where TRL has a
training template, ids and mask must equal TRL's.
"""

from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.errors import DataError

INTRODUCTION = """# Chat templates

Every chat template that TRL {trl} ships, tried with five chats. `python benchmarks/chat_templates.py` writes the page.

- *yes*: each sentence and tool call of the assistant is trained exactly once, and nothing of the other roles is.
- *equal to TRL*: yes, and the token ids and the loss mask equal those of TRL's training template.
- *refused*: the row is refused, since the template leaves out something that a message says.
"""
ROOT = Path(__file__).resolve().parents[1]
BAR = "[|\uff5c]"  # DeepSeek writes the fullwidth form
SPECIAL = re.compile(
    rf"<{BAR}[^<>|\uff5c\s'\"{{}}]+{BAR}>|<[a-z_]+\||<\|[a-z_]+>|</?(?:start_of_turn|end_of_turn|s|bos|eos)>|\[/?INST\]"
)
# The stop token of a family is the first of these in its template, as `eos_token` of its tokenizer.
STOPS = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|return|>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|END_OF_TURN_TOKEN|>", "<|end|>", "<|eot|>", "<end_of_utterance>", "<|user|>", "</s>",
)  # fmt: skip
MORE_STOPS = ("<|call|>", "<|eom|>", "<|observation|>")  # as in `generation_config.json`

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "a city"}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
USER = {"role": "user", "content": "Question number one?"}
ANSWER = {"role": "assistant", "content": "Answer number one."}
MORE = [{"role": "user", "content": "Question number two?"}, {"role": "assistant", "content": "Answer number two."}]
REASONED = {"role": "assistant", "content": "<think>\nA thought about it.\n</think>\n\nAnswer number one."}
CHATS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [USER, ANSWER]},
    "several turns": {"messages": [USER, ANSWER, *MORE]},
    "reasoning": {"messages": [USER, REASONED]},
    "tools": {
        "tools": [TOOL],
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "content": "Nine degrees.", "tool_call_id": "call12345"},
            ANSWER,
        ],
    },
    "system": {"messages": [{"role": "system", "content": "Rule number one."}, USER, ANSWER]},
}
SAID = {
    "one turn": ("Answer number one.",),
    "several turns": ("Answer number one.", "Answer number two."),
    "reasoning": ("A thought about it.", "Answer number one."),
    "tools": ("Answer number one.",),
    "system": ("Answer number one.",),
}
CALLED = ("weather", "Ulm")  # some templates name the called function twice
OTHERS = ("Question number", "Nine degrees", "Rule number", "The weather of a city")


@dataclass(frozen=True)
class Outcome:
    """What became of a chat: the trained text, or why the row was refused; and how the mask compares with TRL's."""

    trained: str
    refused: str
    trl: Literal["equal", "different", "none"]

    def is_right(self, chat: str) -> bool:
        """Whether the assistant's sentences are trained once each and nothing of others, or the row was refused."""
        once = all(self.trained.count(sentence) == 1 for sentence in SAID[chat])
        called = chat != "tools" or all(word in self.trained for word in CALLED)
        return bool(self.refused) or (once and called and not any(other in self.trained for other in OTHERS))


def tokenizer_for(template: str) -> Any:
    """A byte-level tokenizer with the special tokens and the stop token that a chat template writes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    eos = next((token for token in STOPS if token in template), "<eos>")
    special = list(dict.fromkeys(["<pad>", "<bos>", eos, *SPECIAL.findall(template)]))
    vocab = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, bos_token="<bos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    return tokenizer


def outcome(template: str, chat: str) -> Outcome:
    """Encodes a chat of `CHATS` with a chat template, and compares it with TRL's training template if there is one."""
    tokenizer, row = tokenizer_for(template), CHATS[chat]
    stops = [i for i in tokenizer.convert_tokens_to_ids(list(MORE_STOPS)) if i is not None]
    try:
        (one,) = encode(
            load_examples([row])[0],
            tokenizer,
            max_prompt_length=None,
            max_length=None,
            report=DataReport(),
            stop_ids=stops,
        )
    except DataError as fault:
        return Outcome("", str(fault.what).removeprefix("rows:1: "), "none")
    (answer,) = one.answers
    pairs = list(zip(answer.ids, answer.trained, strict=True))
    trained = tokenizer.decode([token for token, is_trained in pairs if is_trained])
    theirs = trl_mask(tokenizer, row)
    ours = ([*one.prompt_ids, *answer.ids], [0] * len(one.prompt_ids) + [int(flag) for flag in answer.trained])
    return Outcome(trained, "", "none" if theirs is None else "equal" if theirs == ours else "different")


def trl_mask(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    """The ids and assistant mask of TRL's training template; None if TRL has none or cannot render the row."""
    import jinja2
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    try:
        text = get_training_chat_template(tokenizer)
    except (ValueError, jinja2.TemplateError, TypeError):
        return None
    if text is None and not has_generation_markers(tokenizer.chat_template):
        return None
    blocks = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in row["messages"]]
    for messages in (row["messages"], blocks):
        try:
            made = tokenizer.apply_chat_template(
                messages,
                tools=row.get("tools"),
                chat_template=text,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except (jinja2.TemplateError, TypeError):
            continue
        if ANSWER["content"] in tokenizer.decode(made["input_ids"]):
            return made["input_ids"], made["assistant_masks"]
    return None


def templates() -> dict[str, str]:
    """The chat templates of models that TRL ships, by name."""
    folder = files("trl") / "chat_templates"
    found = {Path(file.name).stem: file for file in folder.iterdir() if file.name.endswith(".jinja")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found) if not name.endswith("_training")}


def page(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """The page with a row for each template, and the reasons of the refusals below the table."""
    reasons: list[str] = []

    def cell(chat: str, made: Outcome) -> str:
        if not made.is_right(chat) or made.trl == "different":
            return "**wrong**"
        if not made.refused:
            return "equal to TRL" if made.trl == "equal" else "yes"
        if made.refused not in reasons:
            reasons.append(made.refused)
        return f"refused {reasons.index(made.refused) + 1}"

    rows = [
        f"| {name} | {' | '.join(cell(chat, one) for chat, one in made.items())} |" for name, made in outcomes.items()
    ]
    head = [f"| template | {' | '.join(CHATS)} |", f"|---|{'---|' * len(CHATS)}"]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(
        [INTRODUCTION.format(trl=version("trl")), *head, *rows, "", "Refused, as the message says:", *notes, ""]
    )


def main() -> None:
    """Tries all chat templates, and writes the page or prints some of the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", nargs="*", help="print the trained text for these templates, and write no page")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "chat_templates.md")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    found = templates()
    outcomes = {name: {chat: outcome(found[name], chat) for chat in CHATS} for name in asked.show or found}
    if asked.show is None:
        asked.out.write_text(page(outcomes), encoding="utf-8")
        return
    for name, made in outcomes.items():
        for chat, one in made.items():
            print(f"{name}, {chat}: {one.refused or repr(one.trained)}")


if __name__ == "__main__":
    main()

"""Asks a model in the terminal: completions of prompts, and a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rung.data.prompting import PromptForm
    from rung.data.records import Text
    from rung.rollout.samplers import LocalSampler
    from rung.sampling import Sampling

NEW = "/new"  # begins a new conversation


class PromptedModel:
    """A loaded model that is asked as it was trained (see `read_prompt_form`); with `raw`, in plain text."""

    def __init__(self, location: str, *, seed: int, raw: bool = False):
        from rung.data.prompting import PromptForm, read_prompt_form
        from rung.models.load import load_model, to_device
        from rung.rollout.samplers import LocalSampler

        model, tokenizer = load_model(location, seed=seed)
        plain = raw or tokenizer.chat_template is None
        self.prompt_form: PromptForm = (
            PromptForm(chat=False) if raw else read_prompt_form(location, has_chat_template=not plain)
        )
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.sampler: LocalSampler = LocalSampler(to_device(model), tokenizer)
        self.seed = seed

    def answer(self, prompts: Sequence[Text], num: int, sampling: Sampling, *, name: str) -> list[list[str]]:
        """`num` completions of each prompt. Raises DataError for a prompt that is empty or that cannot be rendered."""
        from rung.data.encode import encode_prompt
        from rung.data.records import BadRow
        from rung.rollout.philox import Key

        try:
            encoded = [encode_prompt(prompt, self.tokenizer) for prompt in prompts]
        except BadRow as fault:
            raise DataError(f"a prompt cannot be used: {fault}", "give every prompt a text") from None
        key = Key(self.seed, "", name)
        drawn = self.sampler.sample(encoded, num, visits=range(len(encoded)), key=key, sampling=sampling)
        return [[str(self.tokenizer.decode(list(one.ids), skip_special_tokens=True)) for one in row] for row in drawn]

    def conversations(
        self, prompts: Sequence[Text], num: int, sampling: Sampling, tools: Sequence[str], *, name: str
    ) -> list[list[str]]:
        """`num` conversations for each prompt, in which the model may call `tools`, as text.

        Raises ConfigError for a tool that cannot be loaded or used, and DataError for a prompt that is no chat.
        """
        from rung.agents.agent import make_toolbox
        from rung.data.encode import encode
        from rung.data.records import make_example
        from rung.data.report import DataReport
        from rung.models.stops import stop_ids
        from rung.pipeline.agents import build_agent
        from rung.rollout.generate import sampled
        from rung.rollout.philox import Key
        from rung.utils.conversation import conversation_text

        no_limits = {"max_tool_calling_iterations": None, "max_tool_result_tokens": None}
        toolbox = make_toolbox(tools, None, Path.cwd(), **no_limits)
        examples = [
            toolbox.offered(make_example("prompt", f"prompt {number}", {}, prompt=prompt))
            for number, prompt in enumerate(prompts, 1)
        ]
        agent = build_agent(toolbox, self.sampler, self.tokenizer, stop_ids(self.sampler.model, self.tokenizer))
        encoded = encode(examples, self.tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
        key = Key(self.seed, "", name)
        try:
            _, _, rows = sampled(
                self.sampler, agent, encoded, num, visits=range(len(encoded)), key=key, sampling=sampling
            )
        finally:
            if agent is not None:
                agent.close()
        return [[conversation_text(rows[i, j].messages) for j in range(num)] for i in range(len(encoded))]


def sampled(
    location: str,
    prompts: Sequence[str],
    num_generations: int,
    *,
    seed: int,
    max_completion_length: int,
    temperature: float,
    raw: bool,
    tools: Sequence[str] = (),
) -> list[list[str]]:
    """Completions sampled from a model, `num_generations` per prompt; with `tools`, conversations.

    Raises DataError for an empty prompt, and ConfigError for a tool that cannot be used.
    """
    from rung.sampling import Sampling

    model = PromptedModel(location, seed=seed, raw=raw)
    sampling = Sampling(max_completion_length=max_completion_length, temperature=temperature)
    asked = [model.prompt_form.ask(prompt) for prompt in prompts]
    if tools:
        return model.conversations(asked, num_generations, sampling, tools, name="generate")
    return model.answer(asked, num_generations, sampling, name="generate")


def replies(model: PromptedModel, lines: Iterator[str], sampling: Sampling) -> Iterator[str]:
    """The model's reply to each line of a user; the conversation so far is part of the prompt if the model chats.

    The line `/new` begins a new conversation. A model that was trained on plain text answers each line alone.
    """
    from rung.data.records import Message, Messages

    said: Messages = ()
    for number, line in enumerate(lines):
        if line.strip() == NEW:
            said = ()
            continue
        prompt = model.prompt_form.ask(line)
        if not isinstance(prompt, str):
            prompt = said = (*said, Message(role="user", content=line)) if said else prompt
        ((reply,),) = model.answer([prompt], 1, sampling, name=f"chat {number}")
        if said:
            said = (*said, Message(role="assistant", content=reply))
        yield reply

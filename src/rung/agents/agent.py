"""The tools and environments of a stage or an evaluation, and the worlds of its rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rung.agents.bridge import Bridge
from rung.agents.calling import ToolCaller
from rung.agents.conversation import Conversation
from rung.agents.environments import ROUTE, Environments, Factories, load_environments
from rung.agents.parsing import TurnParser
from rung.agents.protocol import RowName
from rung.agents.tools import Tool, load_tools
from rung.agents.world import Limits, ToolWorld
from rung.data.encode import encode_prompt
from rung.data.records import BadRow, Encoded, Example, Message, Messages
from rung.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What a model may call: tools, the methods of environments, or both; and the limits of calls."""

    tools: tuple[Tool, ...]
    environments: Environments | None
    limits: Limits

    def __bool__(self) -> bool:
        return bool(self.tools) or self.environments is not None

    def offered(self, example: Example) -> Example:
        """The example with the schemas of what a model may call in its row.

        Raises DataError if the row has other tools, or a prompt that is no chat.
        """
        if not self:
            return example
        if isinstance(example.prompt, str) or example.kind == "text":
            what = f"{example.source}: `tools` are written into chats, but the row is plain text"
            raise DataError(what, "use messages, or set `prompt_template: chat`")
        tools = self.of_row(example)
        known = {tool.name for tool in tools}
        for schema in example.tools:
            name = schema.get("function", schema).get("name")
            if name not in known:
                what = f"{example.source}: the row has a tool `{name}`, which is not in `tools`"
                raise DataError(what, "add the tool to `tools`, or remove the column `tools`")
        return replace(example, tools=tuple(tool.schema for tool in tools))

    def schemas(self) -> list[Any]:
        """The schemas of the tools, then the name of each environment with those of its methods."""
        environments = self.environments
        several = [] if environments is None else [(name, environments.tools(name)) for name in environments.factories]
        methods = [[name, [tool.schema for tool in tools]] for name, tools in several]
        return [[tool.schema for tool in self.tools], *methods]

    def of_row(self, example: Example) -> tuple[Tool, ...]:
        """The tools of a row, those of its environment included."""
        if self.environments is None:
            return self.tools
        return self.tools + self.environments.tools(self.environments.name_of(example.columns, example.source))


NO_TOOLS = Toolbox((), None, Limits())


def make_toolbox(
    tools: Sequence[Any],
    environment_factory: Factories | None,
    base: Path | None,
    *,
    max_tool_calling_iterations: int | None,
    max_tool_result_tokens: int | None,
) -> Toolbox:
    """Loads tools and environments. Raises ConfigError if one cannot be loaded, or if two tools have the same name."""
    loaded, environments = load_tools(tools, base), load_environments(environment_factory, base)
    for name in environments.factories if environments else ():
        assert environments is not None
        taken = {tool.name for tool in loaded} & {tool.name for tool in environments.tools(name)}
        if taken:
            what = (
                f"two tools are called `{min(taken)}`: a function, and a method of {environments.kinds[name].__name__}"
            )
            raise ConfigError(what, "rename one of them")
    return Toolbox(loaded, environments, Limits(max_tool_calling_iterations, max_tool_result_tokens))


class Agent:
    """Makes the world of each rollout, and owns the processes in which tools run.

    `stops` are the texts of the tokens that end a turn. Raises ConfigError if the chat template cannot go on after an
    answer.
    """

    def __init__(self, toolbox: Toolbox, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]):
        self.toolbox, self.tokenizer = toolbox, tokenizer
        self.parser = TurnParser(tokenizer)
        self.bridge = Bridge(tokenizer, stops)
        self.caller = ToolCaller(toolbox.tools)
        check_template(self.bridge, toolbox)

    def world(
        self, prompts: Sequence[Encoded], samples: int, visits: Sequence[int], seed: Any
    ) -> tuple[list[Encoded], ToolWorld]:
        """The prompts with what environments tell about them, and a world for `samples` rows of each.

        Environments are seeded by `seed` and the visit of the prompt. Raises ConfigError if the samples of a prompt
        begin with different observations.
        """
        conversations: dict[RowName, Conversation] = {}
        taken: dict[str | None, int] = {}
        asked = []
        for i, (prompt, visit) in enumerate(zip(prompts, visits, strict=True)):
            rows = [self._conversation(prompt, taken) for _ in range(samples)]
            prompt = self._observed(prompt, rows, _seed(seed, visit))
            for j, row in enumerate(rows):
                row.prompt_ids = prompt.prompt_ids
                conversations[i, j] = row
            asked.append(prompt)
        limits = self.toolbox.limits
        world = ToolWorld(
            conversations, visits, parser=self.parser, bridge=self.bridge, caller=self.caller, limits=limits
        )
        return asked, world

    def close(self) -> None:
        """Ends the processes of tools and closes environments."""
        self.caller.close()
        if self.toolbox.environments is not None:
            self.toolbox.environments.close()

    def _conversation(self, prompt: Encoded, taken: dict[str | None, int]) -> Conversation:
        environments, tools, instance = self.toolbox.environments, self.toolbox.tools, None
        if environments is not None:
            name = environments.name_of(prompt.example.columns, prompt.source)
            number = taken.get(name, 0)
            taken[name] = number + 1
            instance = environments.take(name, number)
            tools += environments.tools(name, number)
        variables = prompt.example.template_variables
        return Conversation(prompt.prompt_ids, {tool.name: tool for tool in tools}, variables, instance)

    def _observed(self, prompt: Encoded, rows: Sequence[Conversation], seed: int) -> Encoded:
        """The prompt with what the environments of its rows tell when they are reset."""
        environments = self.toolbox.environments
        if environments is None:
            return prompt
        hidden = ROUTE if None not in environments.factories else None
        columns = {name: value for name, value in prompt.example.columns.items() if name != hidden}
        row = {"prompt": [dict(message) for message in cast(Messages, prompt.example.prompt)], **columns}
        told = sorted({text for one in rows if (text := one.reset(row, seed)) is not None})
        if len(told) > 1:
            first, second = told[:2]
            what = (
                f"{prompt.source}: `reset` told two samples of a prompt different things: {first!r:.40}, {second!r:.40}"
            )
            raise ConfigError(what, "use the parameter `seed` of `reset` for random numbers")
        return self._with_observation(prompt, told[0]) if told else prompt

    def _with_observation(self, prompt: Encoded, told: str) -> Encoded:
        *before, last = cast(Messages, prompt.example.prompt)
        messages = (*before, cast(Message, {**last, "content": last["content"] + told}))
        example = replace(prompt.example, prompt=messages)
        try:
            ids = encode_prompt(
                messages, self.tokenizer, tools=example.tools, variables=dict(example.template_variables)
            )
        except BadRow as fault:
            raise DataError(f"{prompt.source}: with what `reset` tells, {fault}", "change what it returns") from fault
        return replace(prompt, example=example, prompt_ids=ids)


def check_template(bridge: Bridge, toolbox: Toolbox) -> None:
    """Raises ConfigError if the chat template cannot go on after the result of a call, or leaves out tools."""
    environments = toolbox.environments
    of_environments = [environments.tools(name) for name in environments.factories] if environments else []
    try:
        bridge.check()
        for tools in (toolbox.tools, *of_environments):
            bridge.check_written([tool.schema for tool in tools])
    except BadRow as fault:
        remedy = "set `chat_template: trl`, or to a file with a template that writes tools and only appends"
        raise ConfigError(f"tools cannot be used: {fault}", remedy) from fault


def _seed(seed: Any, visit: int) -> int:
    digest = hashlib.sha256(repr((seed, visit)).encode()).digest()
    return int.from_bytes(digest[:4], "little")

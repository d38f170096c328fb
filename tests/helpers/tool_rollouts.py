"""Rollouts with tools in which the model's turns are recorded, for tests of what is made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.playback import Playback
from rung.agents.agent import Agent, make_toolbox
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.data.report import DataReport
from rung.reward import RewardSet
from rung.rollout.generate import Generated, Generator
from rung.rollout.philox import Key
from rung.sampling import Sampling
from rung.tiny.tokenizers import byte

TOOLS = '''
import os, time

def strength(drug: str) -> str:
    """Looks up the strength of a drug.

    Args:
        drug: name of the drug
    """
    return {"abc": "5 mg", "xyz": "10 mg"}[drug]

def add(a: int, b: int) -> int:
    """Adds.

    Args:
        a: first number
        b: second number
    """
    return a + b

def dies() -> str:
    """Ends its process."""
    os._exit(3)
'''
ROW = {"prompt": [{"role": "user", "content": "strength of abc?"}], "answer": "5 mg"}


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def judge(completion: str, answer: str) -> float:
    return float(completion == answer)


def rollout(
    folder: Path,
    turns: Any,
    *,
    rewards: Sequence[Any] = (judge,),
    rows: Sequence[dict[str, Any]] = (ROW,),
    samples: int = 1,
    tools: Sequence[Any] = ("./tools.py:strength", "./tools.py:add", "./tools.py:dies"),
    environment: Any = None,
    iterations: int | None = None,
    result_tokens: int | None = None,
    limit: int = 600,
) -> tuple[Generated, Playback]:
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    tokenizer = byte()
    toolbox = make_toolbox(
        tools, environment, folder, max_tool_calling_iterations=iterations, max_tool_result_tokens=result_tokens
    )
    examples = [toolbox.offered(one) for one in load_examples(list(rows))[0]]
    encoded = encode(examples, tokenizer, max_prompt_length=None, max_length=None, report=DataReport())
    sampler = Playback(turns)
    agent = Agent(toolbox, tokenizer, ("<|eos|>",))
    generator = Generator(
        sampler=sampler,
        sampling=Sampling(max_completion_length=limit),
        key=Key(0, "s", "rollout"),
        samples=samples,
        rewards=RewardSet(rewards, trajectories=True),
        tokenizer=tokenizer,
        agent=agent,
    )
    try:
        return generator(encoded, list(range(len(encoded))), 0), sampler
    finally:
        agent.close()


def trained_text(generated: Generated, row: int = 0) -> list[str]:
    """The trained tokens of a row as text, one string for each run of them."""
    batch, tokenizer, runs = generated.batch, byte(), [[]]
    for token, trained in zip(batch.completion_ids[row].tolist(), batch.loss_mask[row].tolist(), strict=True):
        if trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [str(tokenizer.decode(run)) for run in runs if run]

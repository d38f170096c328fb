"""A row of every published layout, as its authors write it, with its format and what it becomes."""

import json
from typing import Any


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def said(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED, HI, WHAT = user("Hello?"), assistant("Hi."), assistant("What?")
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay hi.\n\n### Response:\n"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PAIR = {"prompt": (ASKED,), "chosen": (HI,), "rejected": (WHAT,)}
TEXTS = {"prompt": "Hello?", "chosen": "Hi.", "rejected": "What?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}],
}
BEDROCK = {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": "Be brief."}]}
NOVA = {
    **BEDROCK,
    "messages": [
        {"role": "user", "content": [{"text": "Hello?"}]},
        {
            "role": "assistant",
            "candidates": [
                {"content": [{"text": "What?"}], "preferenceLabel": "non-preferred"},
                {"content": [{"text": "Hi."}], "preferenceLabel": "preferred"},
            ],
        },
    ],
}
OPENAI = {
    "input": {"messages": [ASKED], "tools": TOOLS, "parallel_tool_calls": True},
    "preferred_output": [HI],
    "non_preferred_output": [WHAT],
}
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Hello?",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "response": "Yes.", "overall_score": 10.0, "fine-grained_score": 3.5},
        {"model": "b", "response": "Hi.", "overall_score": 7.5, "fine-grained_score": 4.25},
        {"model": "c", "response": "What?", "overall_score": 8.0, "fine-grained_score": 2.0},
    ],
}
PANDALM = {
    "idx": 0, "instruction": "Say hi.", "input": "", "response1": "What?", "response2": "Hi.",
    "annotator1": 2, "annotator2": 2, "annotator3": 0,
}  # fmt: skip
SHP = {
    "post_id": "a", "history": "Hello?", "human_ref_A": "Hi.", "human_ref_B": "What?", "labels": 1,
    "score_A": 30, "score_B": 10, "score_ratio": 3.0,
}  # fmt: skip

# The name of the row in the table of layouts, the row, the format, and what the example must have.
READ: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "1 nova": (NOVA, "nova-preference", PAIR | {"prompt": (SYSTEM, ASKED)}),
    "2 openai": (OPENAI, "openai-preference", PAIR | {"tools": tuple(TOOLS)}),
    "3 sharegpt preference": (
        {"conversations": [said("human", "Hello?")], "chosen": said("gpt", "Hi."), "rejected": said("gpt", "What?")},
        "sharegpt-preference",
        PAIR,
    ),
    "4 kto_tag of llama-factory": (
        {"conversations": [said("human", "Hello?"), said("gpt", "Hi.")], "kto_tag": True},
        "kto-tag",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "4 kto_tag of messages": (
        {"messages": [SYSTEM, ASKED, WHAT], "kto_tag": False},
        "kto-tag",
        {"prompt": (SYSTEM, ASKED), "completion": (WHAT,), "label": False},
    ),
    "4 kto_tag of alpaca": (
        {"instruction": "Say hi.", "input": "", "output": "Hi.", "kto_tag": True},
        "kto-tag",
        {"prompt": ALPACA, "completion": "Hi.", "label": True},
    ),
    "4 messages and label": (
        {"messages": [ASKED, HI], "label": True},
        "unpaired",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "5 bedrock converse": (
        {**BEDROCK, "messages": [{"role": "user", "content": [{"text": "Hel"}, {"text": "lo?"}]}, HI]},
        "messages",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "6 reinforcement": (
        {"messages": [SYSTEM, ASKED], "reference_answer": {"answer": 4}},
        "rft",
        {"prompt": (SYSTEM, ASKED), "ground_truth": {"answer": 4}},
    ),
    "7 bedrock": (
        {"system": "Be brief.", "messages": [ASKED, HI]},
        "messages",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "8 openai chat with a tool": (
        {"messages": [ASKED, CALL, {"role": "tool", "content": "9"}, HI], "tools": TOOLS},
        "messages",
        {"messages": (ASKED, CALL, {"role": "tool", "content": "9"}, HI), "tools": tuple(TOOLS)},
    ),
    "8 an empty system turn": (
        {"messages": [{"role": "system", "content": ""}, ASKED, HI]},
        "messages",
        {"messages": (ASKED, HI)},
    ),
    "8 messages as JSON text": (
        {"messages": json.dumps([ASKED, HI])},
        "messages",
        {"messages": (ASKED, HI)},
    ),
    "9 sharegpt": (
        {"conversations": [said("system", "Be brief."), said("human", "Hello?"), said("gpt", "Hi.")]},
        "sharegpt",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "9 sharegpt with tools": (
        {
            "conversations": [
                said("human", "Hello?"),
                said("function_call", '{"name": "weather", "arguments": {"city": "Ulm"}}'),
                said("observation", "9"),
                said("gpt", "Hi."),
            ],
            "system": "Be brief.",
            "tools": json.dumps(TOOLS),
        },
        "sharegpt",
        {"messages": (SYSTEM, ASKED, CALL, {"role": "tool", "content": "9"}, HI), "tools": tuple(TOOLS)},
    ),
    "9 sharegpt with a turn of the tool": (
        {"conversations": [said("human", "Hello?"), said("gpt", "Let me see."), said("tool", "9"), said("gpt", "Hi.")]},
        "sharegpt",
        {"messages": (ASKED, assistant("Let me see."), {"role": "tool", "content": "9"}, HI)},
    ),
    "9 pairs of human and assistant": (
        {"conversation_id": 1, "conversation": [{"human": "Hello?", "assistant": "Hi."}], "system": "Be brief."},
        "sharegpt",
        {"messages": (SYSTEM, ASKED, HI)},
    ),
    "9 conversation with roles": ({"conversation": [ASKED, HI]}, "sharegpt", {"messages": (ASKED, HI)}),
    "10 hh": (
        {"chosen": "\n\nHuman: Hello?\n\nAssistant: Hi.", "rejected": "\n\nHuman: Hello?\n\nAssistant: What?"},
        "hh-rlhf",
        PAIR,
    ),
    "11 alpaca preference": (
        {"instruction": "Say hi.", "input": "", "chosen": "Hi.", "rejected": "What?"},
        "alpaca-preference",
        TEXTS | {"prompt": ALPACA},
    ),
    "12 trl": ({"prompt": "Hello?", "chosen": "Hi.", "rejected": "What?"}, "preference", TEXTS),
    "12 ultrafeedback_binarized": (
        {
            "prompt": "Hello?",
            "prompt_id": "1",
            "chosen": [ASKED, HI],
            "rejected": [ASKED, WHAT],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        "preference",
        PAIR,
    ),
    "12 sides alone": ({"chosen": [ASKED, HI], "rejected": [ASKED, WHAT]}, "preference", PAIR),
    "12 ms-swift": ({"messages": [SYSTEM, ASKED, HI], "rejected_response": "What?"}, "swift-preference", {
        **PAIR, "prompt": (SYSTEM, ASKED),
    }),
    "14 trl unpaired": (
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
    ),
    "14 the label is a number": (
        {"prompt": "Hello?", "completion": "Hi.", "label": 1},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": True},
    ),
    "14 the label is a digit": (
        {"prompt": "Hello?", "completion": "Hi.", "label": "0"},
        "unpaired",
        {"prompt": "Hello?", "completion": "Hi.", "label": False},
    ),
    "14 the prompt is in the completion": (
        {"completion": [ASKED, HI], "label": True},
        "unpaired",
        {"prompt": (ASKED,), "completion": (HI,), "label": True},
    ),
    "16 ultrafeedback": (ULTRAFEEDBACK, "ultrafeedback", TEXTS | {"margin": 2.25}),
    "17 shp": (SHP, "shp", TEXTS | {"margin": 3.0}),
    "17 shp, B preferred": (
        SHP | {"human_ref_A": "What?", "human_ref_B": "Hi.", "labels": 0},
        "shp",
        TEXTS | {"margin": 3.0},
    ),
    "18 helpsteer": (
        {"prompt": "Hello?", "response": "Hi.", "helpfulness": 4, "correctness": 4, "coherence": 4, "verbosity": 1},
        "helpsteer",
        {"prompt": "Hello?", "completion": "Hi.", "helpfulness": 4},
    ),
    "19 pandalm": (PANDALM, "pandalm", TEXTS | {"prompt": ALPACA}),
    "20 verl": (
        {"data_source": "gsm8k", "prompt": [ASKED], "reward_model": {"ground_truth": "4"}, "extra_info": {"index": 1}},
        "verl",
        {"prompt": (ASKED,), "ground_truth": "4", "extra_info": {"index": 1}},
    ),
    "21 gsm8k solutions": (
        {
            "question": "Hello?",
            "ground_truth": "A: 1,000",
            "6B": {"is_correct": True, "solution": "Hi."},
            "175B": {"is_correct": False, "solution": "What?"},
        },
        "gsm8k-solutions",
        TEXTS | {"answer": "1000"},
    ),
    "22 gsm8k": (
        {"question": "Hello?", "answer": "So.\n#### 1,000"},
        "gsm8k",
        {"prompt": "Hello?", "completion": "So.\n#### 1,000", "ground_truth": "1000"},
    ),
    "24 humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n",
         "test": "assert f() == 1"},
        "humaneval",
        {"prompt": "def f():\n", "completion": "    return 1\n", "ground_truth": "assert f() == 1", "entry_point": "f"},
    ),
    "24 code": (
        {"problem": "Write f.", "tests": ["assert f() == 1"]},
        "problem",
        {"prompt": "Write f.", "ground_truth": ["assert f() == 1"]},
    ),
    "24 maths, answer": (
        {"problem": "2+2?", "answer": 4},
        "problem",
        {"prompt": "2+2?", "completion": "4", "ground_truth": "4"},
    ),
    "24 maths, solution": (
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."},
        "problem",
        {"prompt": "1/2?", "completion": r"It is $\boxed{\frac{1}{2}}$.", "ground_truth": r"\frac{1}{2}"},
    ),
    "25 big-bench-hard": (
        {"canary": "GUID", "examples": [{"input": "not ( True ) is", "target": "False"}]},
        "big-bench-hard",
        {"prompt": "not ( True ) is", "completion": "False", "ground_truth": "False", "canary": "GUID"},
    ),
    "26 alpaca": (
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        "alpaca",
        {"prompt": ALPACA, "completion": "Hi."},
    ),
    "26 seed task": (
        {"id": "seed_task_0", "name": "hi", "instruction": "Say hi.", "instances": [{"input": "", "output": "Hi."}]},
        "alpaca-seed",
        {"prompt": ALPACA, "completion": "Hi.", "name": "hi"},
    ),
    "27 banking77": (
        {"text": "Hello?", "category": "greeting"},
        "classification",
        {"prompt": "Hello?", "completion": "greeting", "ground_truth": "greeting"},
    ),
    "28 trl prompt-completion": (
        {"prompt": [ASKED], "completion": [HI]},
        "prompt-completion",
        {"prompt": (ASKED,), "completion": (HI,)},
    ),
    "28 response": (
        {"prompt": "Hello?", "response": "Hi."},
        "prompt-completion",
        {"prompt": "Hello?", "completion": "Hi.", "ground_truth": "Hi."},
    ),
    "29 text": ({"text": "Hello?"}, "text", {"text": "Hello?"}),
    "29 prompt": ({"prompt": "Hello?"}, "prompt", {"prompt": "Hello?"}),
}  # fmt: skip

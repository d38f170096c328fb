"""Contradictions are refused where a config is loaded, in two lines: the whole table is `refused.yaml`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import rung
from helpers.commands import Command
from helpers.rows import write_rows
from rung.config import load_config, parse_config
from rung.config.algorithms import algorithm_classes, make_algorithm
from rung.config.blocks import as_named
from rung.errors import ConfigError, DataError, UserError
from rung.pipeline.check import check
from rung.tiny.models import build

CASES: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())
DATA = {"text": "texts.jsonl", "pairs": "pairs.jsonl", "unpaired": "labelled.jsonl", "prompts": "prompts.jsonl"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "texts": [{"prompt": f"number {i}", "completion": str(i)} for i in range(13)],
    "pairs": [{"prompt": f"number {i}", "chosen": str(i), "rejected": "no"} for i in range(13)],
    "labelled": [{"prompt": f"number {i}", "completion": str(i), "label": i % 2 == 0} for i in range(13)],
    "prompts": [{"prompt": f"number {i}"} for i in range(13)],
    "steps": [{"prompt": "a", "completions": ["b", "c"], "labels": [True, False]}],
    "task": [{"canary": "GUID", "examples": [{"input": "a", "target": "b"}]}],
    "mixed": [{"prompt": "a", "chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"}],
    "silent": [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}],
    "same": [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}],
}
JUDGE = '''
def spread(completion: str) -> float:
    """The share of different characters."""
    return len(set(completion)) / max(len(completion), 1)


class Spread:
    def __call__(self, completions, **columns):
        return [spread(text) for text in completions]


def make_spread(scale=1.0):
    return lambda completions, **columns: [scale * spread(text) for text in completions]


def graded(completions, gold, **columns):
    return [spread(text) for text in completions]
'''


def path_of(case: dict[str, Any]) -> dict[str, Any]:
    """The config of a case: its stages with the data that their algorithms learn from, where they name none."""
    path = {"name": "bad", "model": "tiny:llama", "rewards": ["./judge.py:spread"], **case}
    stages = path.get("stages", [path.get("stage")])
    path["stages"] = [{"name": "one", **learning(stage), **stage} for stage in stages]
    return {key: value for key, value in path.items() if key not in ("stage", "what", "remedy")}


def learning(stage: dict[str, Any]) -> dict[str, str]:
    kind = algorithm_classes()[as_named(stage["algorithm"])["name"]].model_construct().data_kind()
    return {"data": DATA[kind]} if kind in DATA else {}


def write_home(home: Path) -> None:
    write_rows(home, ROWS)
    (home / "judge.py").write_text(JUDGE)
    for name in ("stranger", "padded"):
        model, tokenizer = build("llama")
        if name == "stranger":
            tokenizer.add_tokens(["<new>"])
        else:
            tokenizer.pad_token = tokenizer.eos_token
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    write_home(folder)
    return folder


@pytest.fixture
def no_model_runs() -> Iterator[None]:
    def refuse(module: torch.nn.Module, _: object) -> None:
        raise AssertionError(f"{type(module).__name__} was run before the config was refused")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(refuse)
    yield
    hook.remove()


@pytest.mark.usefixtures("no_model_runs")
@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_refused_at_load_with_advice(case: str, home: Path) -> None:
    """Exactly what is wrong and what to do, each on one line, before anything is computed or written."""
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError) as caught:
        check(parse_config(path_of(CASES[case]), source="bad.yaml", base=home))
    told = (caught.value.what.replace(str(home), "HOME"), caught.value.remedy)
    assert told == (CASES[case]["what"], CASES[case]["remedy"])
    assert "\n" not in "".join(told)
    assert sorted(file for file in home.rglob("*") if "__pycache__" not in file.parts) == before


def test_steps_without_a_trained_token_are_refused_where_there_are_too_many_in_a_row() -> None:
    """Every answer is cut off after two tokens and left out of the loss."""
    masked = {"name": "grpo", "num_generations": 2, "reduction": "token_mean", "mask_truncated_completions": True}
    stage = rung.train(
        make_algorithm(masked),
        model="tiny:llama",
        data=ROWS["prompts"],
        rewards=lambda completion: float(len(completion)),
        rollout={"batch_size": 2, "max_completion_length": 2},
        max_steps=4,
        max_empty_steps=3,
    )
    with pytest.raises(DataError) as caught:
        list(stage)
    assert stage.step == 3
    what, cut = caught.value.what, "truncated at 2 tokens"
    assert what.startswith(
        "stage `train`, step 3: nothing to train in 3 consecutive steps; the denominator of `policy`"
    )
    assert what.count(cut) == 2
    remedy = "mend these rows or the reward, or raise `max_empty_steps` to go on with other rows"
    assert caught.value.remedy == f"{remedy}; a larger length limit needs `--new`"


def test_python_refuses_what_the_command_refuses() -> None:
    made = make_algorithm({"name": "simpo", "beta": 0.1})
    with pytest.raises(ConfigError, match=r"stage `train`: `simpo_gamma` 1 at `beta` 0.1 requires 10 nats per token"):
        rung.train(made, model="tiny:llama", data=ROWS["pairs"])


@pytest.mark.process
def test_the_command_exits_with_2_and_two_lines(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row in a process of its own, a setting in this one: two lines on stderr, nothing on stdout."""
    monkeypatch.chdir(home)
    row, setting = CASES["R20 text beside messages"], CASES["R14 delta within the clip"]
    for name, case in (("row.yaml", row), ("setting.yaml", setting)):
        Path(name).write_text(yaml.safe_dump(path_of(case)))
    apart = [sys.executable, "-m", "rung", "check", "row.yaml"]
    done = subprocess.run(apart, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", [row["what"], row["remedy"]])
    code, (out, err) = command("check", "setting.yaml"), capsys.readouterr()
    assert (code, out, err.splitlines()) == (2, "", [setting["what"], setting["remedy"]])


def whole_path(*stages: dict[str, Any]) -> dict[str, Any]:
    return path_of({"stages": stages, "gate": {"metric": "spread"}, "evaluate": EVALUATE})


EVALUATE = {"validation": "prompts.jsonl", "metrics": ["./judge.py:spread"], "max_completion_length": 4}
ALLOWED = {
    "rewards and gate of the path, which its first stage does not read": [
        {"name": "zero", "algorithm": "prompt"},
        {"name": "one", "algorithm": "sft"},
        {"name": "two", "algorithm": "reward_model"},
        {"name": "three", "algorithm": "grpo"},
    ],
    "defaults written out": [
        {"algorithm": "sft", "rollout": {"temperature": 1.0}, "updates": {}, "reference": "start", "eval_steps": None}
    ],
    "a block put back to its defaults": [{"algorithm": "dpo", "rollout": None, "updates": None, "rewards": None}],
    "a KL that counts, its estimator, and bounds within those of GSPO": [
        {"name": "one", "algorithm": {"name": "grpo", "beta": 0.1, "kl_estimator": "k3"}},
        {"name": "two", "algorithm": {"name": "gspo", "epsilon": 0.05, "epsilon_high": 0.05}},
    ],
}


@pytest.mark.parametrize("stages", ALLOWED.values(), ids=ALLOWED)
def test_what_has_an_effect_somewhere_or_changes_nothing_is_not_refused(stages: list[Any], home: Path) -> None:
    checked = check(parse_config(whole_path(*stages), source="good.yaml", base=home))
    assert len(checked.rows) == len(stages)
    again = yaml.safe_load(yaml.safe_dump(checked.config.dump()))
    assert check(parse_config(again, source="config.yaml", base=home)).config.dump() == checked.config.dump()


def test_a_setting_without_effect_may_come_from_below_and_is_taken_back_there(home: Path) -> None:
    """`algorithm` laid over a config that samples leaves its `rollout` behind."""
    (home / "below.yaml").write_text(yaml.safe_dump(path_of({"stage": {"algorithm": "grpo", "rollout": {"top_k": 5}}})))
    over = ["one.algorithm=dpo", "one.data=pairs.jsonl"]
    with pytest.raises(
        ConfigError,
        match=r"stage `one`: `rollout.top_k` has no effect because algorithm `dpo` does not sample completions",
    ):
        check(load_config(home / "below.yaml", over))
    assert check(load_config(home / "below.yaml", [*over, "one.rollout=null"])).rows

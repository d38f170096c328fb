"""Bad input through the real command: two lines on stderr, exit code 2, before anything is written if it can be."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.commands import Command, Refusal
from helpers.rows import write_rows
from rung.tiny.models import build

JUDGE = '''
def spread(completions, **columns):
    """The share of different characters."""
    return [len(set(text)) / max(len(text), 1) for text in completions]


def raises(completions, **columns):
    raise ValueError("this judge is\\nbroken")


def not_a_number(completions, **columns):
    return [float("nan")] * len(completions)


def too_few(completions, **columns):
    return [1.0]
'''
ROWS: dict[str, list[dict[str, Any]]] = {
    "texts": [{"prompt": f"number {i}", "completion": str(i)} for i in range(12)],
    "pairs": [{"prompt": f"number {i}", "chosen": str(i), "rejected": "no"} for i in range(12)],
    "prompts": [{"prompt": f"number {i}"} for i in range(12)],
    "same": [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}],
    "silent": [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}],
    "long": [{"prompt": "a", "completion": "b"}, {"prompt": "a" * 60, "completion": "b"}],
    "raw": [{"text": f"raw text {i}"} for i in range(12)],
    "raw-long": [{"text": "a" * 700}],
    "chats": [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
    "ranked": [{"prompt": "a", "completions": ["b", "c", "d"]}, {"prompt": "b", "completions": ["e", "f", "g"]}],
    "few": [{"prompt": "a", "completion": "b"}],
    "wide": [{"prompt": "a" * 480}],
}
FILES = {
    "empty.jsonl": b"",
    "cut.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl',
    "cut.jsonl.gz": gzip.compress(b'{"prompt": "a", "completion": "b"}\n' * 50)[:40],
    "latin.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xe9", "completion": "b"}\n',
    "latin.csv": b"prompt,completion\na,b\n\xe9,b\n",
    "judge.py": JUDGE.encode(),
}
SFT = {"algorithm": "sft", "data": "texts.jsonl", "max_steps": 1}
DPO = {"algorithm": "dpo", "data": "pairs.jsonl", "max_steps": 1}
GRPO = {
    "algorithm": {"name": "grpo", "num_generations": 2},
    "data": "prompts.jsonl",
    "rewards": ["./judge.py:spread"],
    "rollout": {"batch_size": 2, "max_completion_length": 4},
    "max_steps": 2,
}
PPO = GRPO | {"algorithm": "ppo"}
RM = {"algorithm": "reward_model", "data": "pairs.jsonl", "max_steps": 1}
TWO_STAGES = {"stages": [{"name": "first", "from": "second", **SFT}, {"name": "second", **SFT}]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data sets and a reward, where the test then is."""
    write_rows(tmp_path, ROWS)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(config: dict[str, Any]) -> str:
    """Writes a config of these keys; its name."""
    Path("bad.yaml").write_text(yaml.safe_dump({"name": "bad", "model": "tiny:llama", **config}))
    return "bad.yaml"


@pytest.mark.parametrize(
    ("config", "what", "remedy"),
    [
        pytest.param(
            {"stages": [{"name": "sft", **SFT, "learning_rat": 1}]},
            "`sft.learning_rat`",
            "`learning_rate`",
            id="unknown key",
        ),
        pytest.param(SFT | {"num_mini_batches": 1}, "`num_mini_batches`", "`updates.minibatches`", id="old key"),
        pytest.param(SFT | {"algorithm": "dpoo"}, "`dpoo`", "did you mean `dpo`", id="unknown algorithm"),
        pytest.param(GRPO | {"rewards": ["lenght"]}, "`lenght`", "`length`", id="unknown reward"),
        pytest.param(
            GRPO | {"evaluate": {"validation": "prompts.jsonl", "metrics": ["token_f2"]}},
            "`token_f2`",
            "`token_f1`",
            id="unknown metric",
        ),
        pytest.param(SFT | {"model": "tiny:lama"}, "`tiny:lama`", "tiny:llama", id="unknown tiny model"),
        pytest.param(SFT | {"model": "./nowhere"}, "nowhere", "config.json", id="unknown folder"),
        pytest.param(GRPO | {"rewards": ["final_number"]}, "no column `answer`", "columns", id="unknown column"),
        pytest.param(TWO_STAGES, "`second`, which is not an earlier stage", "before this stage", id="later stage"),
        pytest.param(GRPO | {"data": "pairs.jsonl"}, "pairs.jsonl, row 1", "prompt", id="pairs given to GRPO"),
        pytest.param(DPO | {"data": "texts.jsonl"}, "texts.jsonl, row 1", "preference", id="texts given to DPO"),
        pytest.param(SFT | {"data": "empty.jsonl"}, "empty.jsonl", "at least one row", id="empty file"),
        pytest.param(SFT | {"data": "cut.jsonl"}, "cut.jsonl, row 2", "fix the row", id="truncated file"),
        pytest.param(SFT | {"data": "cut.jsonl.gz"}, "cut.jsonl.gz", "again", id="truncated gz"),
        pytest.param(
            SFT | {"data": "latin.jsonl"}, "latin.jsonl, row 2: the line is not UTF-8", "fix the row", id="not UTF-8"
        ),
        pytest.param(
            SFT | {"data": "latin.csv"},
            "latin.csv, line 3 is not UTF-8",
            "Excel calls it `CSV UTF-8`",
            id="csv not UTF-8",
        ),
        pytest.param(DPO | {"data": "same.jsonl"}, "same.jsonl, row 2", "on_bad_row", id="chosen equals rejected"),
        pytest.param(
            SFT | {"data": "long.jsonl", "max_prompt_length": 20, "on_overlong": "error"},
            "long.jsonl, row 2",
            "on_overlong",
            id="prompt over the budget",
        ),
        pytest.param(SFT | {"data": "silent.jsonl"}, "silent.jsonl, row 2", "on_bad_row", id="no trained token"),
        pytest.param(SFT | {"name": "../out"}, "'../out'", "letters", id="name leaves the folder"),
        pytest.param({"stages": [{"name": "../out", **SFT}]}, "'../out'", "letters", id="stage name leaves"),
        pytest.param(SFT | {"name": "/out"}, "'/out'", "letters", id="absolute name"),
        pytest.param(SFT | {"learning_rat": 1}, "`learning_rat`", "`learning_rate`", id="unknown key of a lone stage"),
        pytest.param(SFT | {"optimizer": "adamww"}, "`adamww`", "adamw", id="unknown optimizer"),
        pytest.param(SFT | {"adapter": {"lora": {"r": -1}}}, "adapter.lora", "peft", id="value that peft refuses"),
        pytest.param(
            GRPO | {"data": "wide.jsonl", "max_prompt_length": 500, "rollout": {"max_completion_length": 96}},
            "wide.jsonl, row 1",
            "max_prompt_length",
            id="no room for the completion",
        ),
        pytest.param(
            SFT | {"data": "raw-long.jsonl", "max_length": 900, "model": "tiny:gpt2"},
            "512",
            "max_length",
            id="more tokens than positions",
        ),
        pytest.param(
            SFT | {"evaluate": {"validation": "raw.jsonl"}}, "raw.jsonl, row 1", "prompt", id="raw text evaluated"
        ),
        pytest.param(
            SFT | {"evaluate": {"validation": "wide.jsonl", "max_completion_length": 96}},
            "wide.jsonl, row 1",
            "max_completion_length",
            id="no room in evaluation",
        ),
        pytest.param(SFT | {"optimizer": "./judge.py:none"}, "no `none`", "known", id="no such function"),
        pytest.param(
            SFT | {"lr_scheduler_type": "polynomial", "learning_rate": 1e-8},
            "`sft`: `lr_scheduler_type: polynomial`",
            "learning_rate",
            id="rate below the schedule's end",
        ),
        pytest.param(
            SFT | {"adapter": {"lora": {"lora_dropout": 0.1}}}, "`lora_dropout` is 0.1", "leave it out", id="dropout"
        ),
        pytest.param(
            {"stages": [{"name": "one", **SFT}, {"name": "two", **SFT, "adapter": {"lora": {"bias": "some"}}}]},
            "`two`: adapter.lora",
            "peft",
            id="value that peft refuses in a later stage",
        ),
        pytest.param(DPO | {"data": "ranked.jsonl"}, "ranked.jsonl, row 1", "rankings", id="rankings given to DPO"),
        pytest.param(PPO | {"critic": "rm"}, "critic `rm`", "`head`", id="critic that no stage makes"),
        pytest.param(PPO | {"rewards": []}, "rewards", "rewards", id="PPO without reward"),
        pytest.param(
            {"stages": [{"name": "rm", **RM}, {"name": "sft", **SFT, "from": "rm"}]},
            "starts from `rm`",
            "critic",
            id="policy from a reward model",
        ),
        pytest.param(SFT | {"early_stopping": {}, "data": "few.jsonl"}, "holds out 10%", "remove", id="none held out"),
        pytest.param(
            {"data": {"train": "texts.jsonl"}, "stages": [{"name": "sft", **SFT, "data": "trian"}]},
            "`trian`",
            "did you mean `train`",
            id="name of data",
        ),
        pytest.param(
            SFT | {"evaluate": {"validation": "prompts.jsonl", "shots_from": "texts.jsonl", "shots": [99]}},
            "`shots` is 99",
            "lower `shots`",
            id="more shots than examples",
        ),
        pytest.param(
            SFT | {"evaluate": {"validation": "texts.jsonl", "shots_from": "texts.jsonl", "shots": [12]}},
            "one of the items",
            "training data",
            id="shots that are items",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    home: Path, refusal: Refusal, config: dict[str, Any], what: str, remedy: str
) -> None:
    lines = refusal("run", written(config))
    assert what in lines[0]
    assert remedy in lines[1]
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("reward", "calls", "note"),
    [
        ("raises", 2, "ValueError: this judge is broken"),
        ("not_a_number", 1, "returned nan"),
        ("too_few", 2, "1 scores for 4"),
    ],
)
def test_a_broken_reward_names_its_rows_and_costs_nothing_that_was_written(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    command: Command,
    refusal: Refusal,
    reward: str,
    calls: int,
    note: str,
) -> None:
    """A call that fails as a whole may be an accident: the second one decides."""
    config = {"stages": [{"name": "sft", **SFT}, {"name": "grpo", **GRPO, "rewards": [f"./judge.py:{reward}"]}]}
    lines = refusal("run", written(config))
    assert f"reward `{reward}` failed on {calls} of its last {calls} calls (rows prompts.jsonl:" in lines[0]
    assert note in lines[0]
    assert "fix the reward" in lines[1]

    before = {file: file.read_bytes() for file in (home / "runs/bad/sft").rglob("*") if file.is_file()}
    assert home / "runs/bad/sft/DONE" in before
    good = JUDGE[: JUDGE.index("def raises")].replace("spread", reward)
    (home / "judge.py").write_text(good)
    assert command("run", written(config), "--allow-drift") == 0
    capsys.readouterr()
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_link_under_the_output_folder_is_not_followed_out_of_it(home: Path, refusal: Refusal) -> None:
    (home / "runs").mkdir()
    (home / "elsewhere").mkdir()
    (home / "runs" / "bad").symlink_to(home / "elsewhere")
    lines = refusal("run", written(SFT))
    assert "leads out of" in lines[0]
    assert "remove the link" in lines[1]
    assert not list((home / "elsewhere").iterdir())


def test_chat_data_for_a_model_without_a_chat_template_is_refused(home: Path, refusal: Refusal) -> None:
    silent_model(home / "plain")
    for config in ({"data": "chats.jsonl"}, {"evaluate": {"validation": "chats.jsonl"}}):
        lines = refusal("run", written(SFT | {"model": "./plain"} | config))
        assert lines[0].startswith("chats.jsonl, row 1: ")
        assert "no chat template" in lines[0]
        assert "chat_template.jinja" in lines[1]
    assert not (home / "runs").exists()


def test_bad_rows_within_the_cap_are_set_aside_and_the_run_goes_on(
    home: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"number {i}", "completion": "" if i == 30 else str(i)} for i in range(60)]
    write_rows(home, {"mostly": rows})
    config = SFT | {"data": "mostly.jsonl", "on_bad_row": "quarantine"}
    assert command("check", written(config)) == 0
    assert "dropped 1" in capsys.readouterr().out
    assert not (home / "runs").exists()
    assert command("run", written(config)) == 0
    capsys.readouterr()
    aside = (home / "runs/bad/sft/quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in aside] == ["mostly.jsonl:31"]


def silent_model(folder: Path) -> None:
    """A random model in a folder, its tokenizer without a chat template."""
    model, tokenizer = build("llama")
    tokenizer.chat_template = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

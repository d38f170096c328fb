"""The command: what it prints, its exit codes, and mistakes told in two lines before anything is written."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from helpers.commands import Command
from helpers.repository import ROOT
from rung.cli.show import algorithms, default_sources
from rung.config.algorithms import algorithm_class, algorithm_names
from rung.tiny.models import build
from rung.utils.console import blocks


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


BROKEN = {
    "empty.jsonl": b"",
    "cut.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl',
    "latin.jsonl": b'{"prompt": "\xe9", "completion": "b"}\n',
    "same.jsonl": b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n',
    "silent.jsonl": b'{"prompt": "a", "completion": ""}\n',
}


@pytest.mark.parametrize(
    ("overrides", "what", "remedy"),
    [
        (["nam=x"], "`nam`", "`name`"),
        (["sft.algorithm=stf"], "`stf`", "`sft`"),
        (["sft.algorithm={name: sft, assistant_only: true}"], "`assistant_only`", "`assistant_only_loss`"),
        (["grpo.algorithm={name: grpo, epsilon: 5}"], "`epsilon`", "less than 1"),
        (["rewards=[digit]"], "`digit`", "known"),
        (["rewards=[{name: length, args: {max_len: 3}}]"], "`max_len`", "`max_length`"),
        (["evaluate.metrics=[final_numbr]"], "`final_numbr`", "`final_number`"),
        (["rewards=[token_f1]", "grpo.rewards=[{name: token_f1, columns: {answer: gold}}]"], "`gold`", "columns"),
        (["gate.metric=digit"], "`digit`", "`digits`"),
        (["evaluate.validation=null", "evaluate.metrics=[]"], "gate", "remove the gate"),
        (["evaluate.shots_from=null"], "shots", "training data"),
        (["prompting.shots=[99]"], "99", "lower `shots`"),
        (["model=tiny:lama"], "tiny:lama", "tiny:llama"),
        (["model=./nowhere"], "nowhere", "config.json"),
        (["sft.from=run:nothing/sft"], "run:nothing/sft", "run:NAME/stage"),
        (["sft.from=nowhere"], "`nowhere`", "use an earlier stage (prompting)"),
        (["grpo.data=preferences"], "`grpo` learns from prompts", "prompt"),
        (["dpo.data=train"], "`dpo` learns from pairs", "preference"),
        (["sft.data=null"], "`sft` has no data", "train"),
        (["sft.data=nothing.jsonl"], "nothing.jsonl", ""),
        (["sft.data=empty.jsonl"], "empty.jsonl", ""),
        (["sft.data=cut.jsonl"], "cut.jsonl, row 2", ""),
        (["sft.data=latin.jsonl"], "UTF-8", ""),
        (["dpo.data=same.jsonl"], "same.jsonl", ""),
        (["sft.data=silent.jsonl"], "silent.jsonl", ""),
        (["sft.max_prompt_length=3", "sft.on_overlong=error"], "train.jsonl, row 1", "on_overlong"),
        (["sft.adapter={lora: {rank: 4}}"], "`adapter.lora.rank`", "r"),
        (["trackers=[wandbb]"], "wandbb", "wandb"),
        (["name=../out"], "../out", "letters"),
    ],
)
def test_a_mistake_is_two_lines_exit_code_2_and_nothing_written(
    small_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    what: str,
    remedy: str,
) -> None:
    for name, content in BROKEN.items():
        (small_path / name).write_bytes(content)
    assert command("run", "small.yaml", *overrides) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert what in lines[0]
    assert remedy in lines[1]
    assert not (small_path / "runs").exists()


def test_check_shows_every_stage_with_its_resolved_values(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("check", "small.yaml", "sft.learning_rate=0.25") == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("prompting", "sft", "dpo", "grpo", "0.25", "30 steps", "defaults/tiny.yaml"))
    assert not (small_path / "runs").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("algorithms", "dr_grpo"),
        ("rewards", "final_number"),
        ("models", "tiny:qwen3"),
        ("tasks", "task:pharmacy/pairs"),
        ("configs", "paths/pharmacy"),
    ],
)
def test_list_tells_what_a_config_may_name(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    assert command("list", kind) == 0
    assert name in capsys.readouterr().out


def test_the_list_of_algorithms_tells_what_each_one_takes_in_100_columns() -> None:
    console = Console(file=StringIO(), width=100)
    with console.capture() as told:
        console.print(blocks(algorithms()))
    lines = told.get().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("dpo "))
    block = [line.rstrip() for line in lines[start : start + 7]]
    assert [" ".join(line.split()) for line in block] == [
        "dpo Direct preference optimisation on pairs, against a frozen reference.",
        "data pairs",
        "needs reference",
        "defaults beta 0.1, loss_type sigmoid, f_divergence_type reverse_kl (arXiv 2305.18290);",
        "f_alpha_divergence_coef 0.5 (TRL); discopop_tau 0.05 (arXiv 2406.08414);",
        "loss_weights none, label_smoothing 0, ld_alpha none, use_weighting false",
        "page docs/algorithms/dpo.md",
    ]


@pytest.mark.parametrize("name", algorithm_names())
def test_a_default_that_is_not_off_has_a_source_and_an_algorithm_a_page(name: str) -> None:
    cls = algorithm_class(name)
    sources = default_sources(cls)
    set_values = {field for field in cls.model_fields if cls.model_fields[field].default}
    assert set_values <= sources.keys() <= cls.model_fields.keys()
    (told,) = (row for row in algorithms() if row["name"] == name)
    assert (ROOT / told["page"]).is_file()


def test_a_variant_has_the_sources_of_what_it_leaves_as_it_was() -> None:
    assert default_sources(algorithm_class("dr_grpo")) == {
        **dict.fromkeys(("num_generations", "credit_assignment"), "TRL"),
        **dict.fromkeys(("importance_sampling_clip_max", "multi_objective_aggregation", "top_entropy_quantile"), "TRL"),
        "epsilon": "arXiv 1707.06347",
        "kl_estimator": "arXiv 2512.02556",
        "importance_sampling_level": "arXiv 2402.03300",
        **dict.fromkeys(("beta", "scale_rewards", "reduction"), "arXiv 2503.20783"),
    }


def test_a_run_is_shown_measured_and_sampled_from(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["sft.max_steps=2", "name=short"]
    assert command("run", "small.yaml", *short) == 0
    assert command("run", "small.yaml", *short, "--strict") in (0, 3, 4)
    capsys.readouterr()

    assert command("show", "short") == 0
    told = capsys.readouterr().out
    assert all(words in told for words in ("short", "report.html", "sft against prompting", "Gates"))
    assert "0.0 [0.0, " in told
    assert command("show", "short", "sft") == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("loss", "first", "last", "course"))
    assert command("show", "short", "grpo") == 0
    assert "sampled completions" in capsys.readouterr().out
    assert command("show", "shirt") == 2
    assert "short" in capsys.readouterr().err

    saved = small_path / "scores.json"
    assert command("evaluate", "small.yaml", "run:short/sft", "--shots", "2", "--save", str(saved)) == 0
    told = capsys.readouterr().out
    assert "run:short/sft: 29 items of validation, 2 shots" in told
    assert "digits, %" in told
    assert saved.is_file()

    asked = ("1+1?", "2+1?", "--temperature", "1", "--max-completion-length", "4")
    answers = []
    for name in ("run:short/sft", "run:short/sft", "runs/short/sft", "./runs/short/sft/model"):
        assert command("generate", name, *asked) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    assert re.match(r"\[1/2\] 1\+1\?\n.*\n\[2/2\] 2\+1\?\n", answers[0], re.DOTALL)

    assert command("show") == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("short", "sft inconclusive", "yes")), told
    (small_path / "runs" / "short" / "sft" / "DONE").write_text("{")
    assert command("show") == 0
    assert "short" in capsys.readouterr().out
    assert command("show", "--output", "nowhere") == 2
    assert "there is no run in nowhere" in capsys.readouterr().err


def test_a_run_that_has_not_finished_is_shown_as_far_as_it_has_come(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "small.yaml", "sft.max_steps=2", "name=half") == 0
    capsys.readouterr()
    folder = small_path / "runs" / "half"
    for file in (folder / "DONE", folder / "grpo" / "DONE"):
        file.unlink()
    assert command("show", "half") == 0
    told = capsys.readouterr().out
    assert "is not finished" in told
    assert "Gates" in told
    for arguments in (
        ("generate", "run:half/grpo", "1+1?"),
        ("generate", "runs/half", "1+1?"),
        ("evaluate", "small.yaml", "run:half"),
        ("run", "small.yaml", "name=next", "sft.from=run:half/grpo"),
        ("run", "small.yaml", "name=next", "model=run:half"),
    ):
        before = {file: file.is_file() and file.stat().st_mtime_ns for file in small_path.rglob("*")}
        assert command(*arguments) == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert "has not finished" in lines[0]
        assert "`run:half/sft`" in lines[1]
        assert {file: file.is_file() and file.stat().st_mtime_ns for file in small_path.rglob("*")} == before


def test_what_is_no_policy_is_refused_in_two_lines(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = build("llama")
    for name in ("judge", "broken", "lacking"):
        model.save_pretrained(small_path / name)
        tokenizer.save_pretrained(small_path / name)
    config = json.loads((small_path / "judge" / "config.json").read_text())
    (small_path / "judge" / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]})
    )
    weights = small_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    weights = small_path / "lacking" / "model.safetensors"
    save_file(
        {name: each for name, each in load_file(weights).items() if "lm_head" not in name}, weights, {"format": "pt"}
    )
    capsys.readouterr()
    for name, what in (("judge", "reward model"), ("broken", "cannot be loaded"), ("lacking", "lm_head.weight")):
        for arguments in (("generate", f"./{name}", "1+1?"), ("evaluate", "small.yaml", f"./{name}")):
            assert command(*arguments) == 2
            assert what in "\n".join(capsys.readouterr().err.splitlines()[-2:])


def test_a_name_that_is_no_model_is_told_with_those_that_come_near(
    small_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert command("generate", "lama", "1+1?") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "`lama`" in lines[0]
    assert "did you mean `tiny:llama`?" in lines[1]


def test_a_set_that_the_config_does_not_name_is_told_before_a_model_is_loaded(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "small.yaml", "nowhere", "evaluate.test=null", "--set", "test") == 2
    assert "`evaluate.test` has no items" in capsys.readouterr().err


def test_too_many_shots_and_an_empty_prompt_are_told_in_two_lines(
    small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", "small.yaml", "tiny:llama", "--shots", "99") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "`shots` is 99" in lines[0]
    assert "lower `shots`" in lines[1]

    model, tokenizer = build("llama")
    tokenizer.chat_template = None
    model.save_pretrained(small_path / "plain")
    tokenizer.save_pretrained(small_path / "plain")
    assert command("generate", "./plain", "1+1?", "") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "no token" in lines[0]


def test_help_names_every_command(small_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("run", "check", "show", "list", "evaluate", "generate"))

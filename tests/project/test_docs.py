"""What the documentation shows is run: its files are written, its commands and its Python executed, page by page."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.repository import ROOT
from rung.cli.main import main
from rung.config import load_config, shipped_configs
from rung.config.algorithms import make_algorithm

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# file: (\S+)\n")
EXIT = re.compile(r"# exit code (\d+)")
VARIED = '''
def varied(completions, **columns):
    """A reward in which the answers of any model differ."""
    return [sum("a" <= char <= "m" for char in str(completion)) / 100 for completion in completions]
'''


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    content: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def write_file(block: Block) -> None:
    """The file that the first line of a block names; JSON and CSV do not keep that line, as they have no comments."""
    named = FILE.match(block.content)
    if named:
        path = Path(named[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.content[named.end() :] if block.language.startswith(("json", "csv")) else block.content)


def commands(block: Block) -> list[str]:
    lines = block.content.replace("\\\n", " ").splitlines() if block.language in ("console", "bash") else []
    return [line for line in lines if line.startswith("rung ")]


def shortened(arguments: list[str]) -> list[str]:
    """The run of a shipped config, which may take minutes, with a step a stage and few rows."""
    shipped = {word for name in shipped_configs() for word in (name, name.partition("/")[2])}
    if arguments[0] != "run" or arguments[1] not in shipped:
        return arguments
    config = load_config(arguments[1], [word for word in arguments[2:] if not word.startswith("--")])
    more: list[str] = []
    for stage in config.stages:
        kind = make_algorithm(stage.algorithm, config.base).data_kind()
        more += [f"{stage.name}.max_steps=1", f"{stage.name}.batch_size=2"] if kind else []
        if kind == "prompts":
            Path("varied.py").write_text(VARIED)
            more += [f"{stage.name}.{key}" for key in ("rollout.batch_size=2", "updates.minibatches=1")]
            more += [f"{stage.name}.rollout.max_completion_length=16", f"{stage.name}.rewards=[./varied.py:varied]"]
    specs: dict[str, object] = {f"data.{name}": spec for name, spec in config.data.items()}
    specs |= {"data": config.stages[0].data} if not specs else {}
    specs |= {f"evaluate.{name}": getattr(config.evaluate, name) for name in ("validation", "test")}
    for key, spec in specs.items():
        limit = 8 if key.startswith("evaluate") else 64  # a tenth of which early stopping holds out
        more += [f"{key}={{path: {spec}, limit: {limit}}}"] if str(spec).startswith("task:") else []
    more += ["evaluate.max_completion_length=16"] if config.evaluate.validation else []
    return [*arguments, *more]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())
def test_what_a_page_shows_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks(page):
        write_file(block)
    for number, block in enumerate(blocks(page)):
        if block.language == "python":
            script = Path(f"block_{number}.py")
            script.write_text(block.content)
            runpy.run_path(str(script))
        for line in commands(block):
            expected = EXIT.search(line)
            monkeypatch.setattr(sys, "argv", ["rung", *shortened(shlex.split(line, comments=True)[1:])])
            with pytest.raises(SystemExit) as caught:
                main()
            assert int(caught.value.code or 0) == int(expected[1] if expected else 0), f"{page.name}: {line}"


def test_every_page_is_short_and_its_links_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150 or page == ROOT / "README.md", page
        for link in re.findall(r"\]\(((?!https?:)[^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"

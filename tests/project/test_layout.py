"""The layout of the repository: three folders at the top, an engine that names nothing in them, examples that hold."""

import ast
import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import rung
from helpers.repository import ROOT
from rung.config.algorithms import algorithm_names

ENGINE = ROOT / "src" / "rung"
FOLDERS = ("algorithms", "rewards", "configs")
OUTSIDE = {*FOLDERS, "tiny", "data"}  # parts of src/rung that may name an algorithm


def engine_files() -> list[Path]:
    return [file for file in ENGINE.rglob("*.py") if not OUTSIDE & set(file.relative_to(ENGINE).parts)]


def modules_with_examples() -> list[str]:
    folders = {"rung": ENGINE, "rung.algorithms": ROOT / "algorithms", "rung.rewards": ROOT / "rewards"}
    names = []
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder).with_suffix("").parts
            linked = package == "rung" and inside[0] in FOLDERS
            if not linked and ">>> " in file.read_text(encoding="utf-8"):
                names.append(".".join((package, *inside)).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", ["algorithms", "rewards"])
def test_the_folder_at_the_top_is_the_package_that_runs(name: str) -> None:
    module = importlib.import_module(f"rung.{name}")
    assert Path(module.__path__[0]).resolve() == ROOT / name


@pytest.mark.parametrize("name", ["algorithms", "rewards"])
def test_a_folder_is_not_imported_as_a_second_copy(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=f"rung.{name}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_wheel_and_the_sdist_hold_every_file_of_the_three_folders(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    files = [
        file.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert files
    assert {f"rung/{file}" for file in files} <= in_wheel
    listed = subprocess.run(["tar", "tzf", sdist], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {f"rung-{rung.__version__}/{file}" for file in files} <= set(listed)


def test_nothing_at_the_top_shadows_a_module_of_the_engine() -> None:
    engine = {file.stem for file in ENGINE.iterdir() if file.name not in FOLDERS}
    modules = {file.stem for file in ROOT.glob("*.py")}
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert not engine & (modules | packages)


def test_the_engine_names_no_algorithm_and_no_reward() -> None:
    """In code, that is names and strings; a docstring may take one as its example."""
    word = re.compile(rf"\b({'|'.join(name for name in algorithm_names() if name != 'prompt')})\b")
    found = []
    for file in engine_files():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            said = [str(value) for key, value in ast.iter_fields(node) if key in ("id", "attr", "arg", "name")]
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("rung.algorithms", "algorithms")):
                found.append(f"{file.name}: {node.module}")  # `rung.models.reward_model` is a module of the engine
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                said.append(node.value)
            found += [f"{file.name}: {text}" for text in said if word.search(text) or "rung.rewards." in text]
    assert not found


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_in_docstrings_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.process
@pytest.mark.parametrize("module", ["rung", "rung.cli.main"])
def test_importing_the_command_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "wandb", "scipy", "numpy", "pydantic", "yaml")
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

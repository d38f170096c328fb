"""The order of the packages: imports only point downwards, there are no cycles, every package states its purpose."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREES = {"rung": ROOT / "src" / "rung", "rung.algorithms": ROOT / "algorithms", "rung.rewards": ROOT / "rewards"}
LINKED = {"algorithms", "rewards", "configs"}  # folders of the top, linked into src/rung
# From the bottom to the top: a package imports only from rows above its own in this list.
LAYERS = (
    ("errors", "maths", "metrics"),
    ("batch", "sampling", "tiny", "utils"),
    ("distributed", "registry"),
    ("algorithm", "data", "reward"),
    ("algorithms", "config", "models"),
    ("agents", "forward", "rewards"),
    ("rollout", "training"),
    ("evaluation",),
    ("artifacts",),
    ("report",),
    ("pipeline",),
    ("api", "cli"),
    ("__main__",),
)
LEVEL = {package: number for number, layer in enumerate(LAYERS) for package in layer}
LONGEST_CHAIN = 12


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in TREES.items():
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder).with_suffix("").parts
            if package != "rung" or inside[0] not in LINKED:
                found[".".join((package, *inside)).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imported(module: str) -> Iterator[str]:
    """Every module of ours that a module imports: at the top, inside functions, and for type checkers."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "rung":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "rung")


def package_of(module: str) -> str:
    return module.split(".")[1]


# `import rung` is a version and a path; its `run` and `train` are imported when they are first used.
GRAPH = {module: {other for other in imported(module) if other not in ("rung", module)} for module in MODULES}
GRAPH["rung"] = set()


def package_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, others in GRAPH.items():
        if module != "rung":
            own = package_of(module)
            graph[own] |= {package_of(other) for other in others} - {own}
    return graph


def test_every_package_has_a_place_in_the_order() -> None:
    assert {package_of(module) for module in MODULES if module != "rung"} == LEVEL.keys()


def test_no_import_points_up() -> None:
    up = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if module != "rung" and package_of(other) != package_of(module)
        if LEVEL[package_of(other)] >= LEVEL[package_of(module)]
    ]
    assert not up


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, naming the circle


def test_the_longest_chain_of_packages_is_short() -> None:
    graph = package_graph()
    depth: dict[str, int] = {}
    for package in TopologicalSorter(graph).static_order():
        depth[package] = 1 + max((depth[other] for other in graph.get(package, ())), default=0)
    assert max(depth[package] for package in depth if package != "__main__") <= LONGEST_CHAIN


def test_maths_imports_torch_and_nothing_of_ours() -> None:
    others = {other for module in MODULES if module.startswith("rung.maths") for other in GRAPH[module]}
    assert {package_of(other) for other in others} <= {"maths"}


@pytest.mark.parametrize(
    "init", sorted((ROOT / "src" / "rung").glob("*/__init__.py")), ids=lambda init: init.parent.name
)
def test_every_package_says_in_a_sentence_what_it_is_for(init: Path) -> None:
    said = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
    assert said.split("\n")[0].endswith(".")


def test_the_picture_of_the_packages_is_the_order_of_the_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [tuple(row.split()) for row in re.findall(r"^\[ *(.*?) *\]", page, re.MULTILINE)]
    assert [sorted(row) for row in rows] == [list(layer) for layer in LAYERS[-2::-1]]

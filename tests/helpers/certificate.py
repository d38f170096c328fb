"""A pytest plugin: what the tests measured of each algorithm, as the page `docs/certificate.md`.

`pytest --certify=FILE` runs the tests that take the fixture `certify`, and writes FILE where all of them passed and no
cell of the table is left without a measurement or a reason. Any other run measures the same and writes nothing.
"""

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import pytest

if TYPE_CHECKING:
    import torch

Check = Literal["golden", "oracle", "invariance", "learns", "resume"]
Numbers: TypeAlias = "float | torch.Tensor | Sequence[Numbers] | Mapping[str, Numbers] | None"
PROPERTY = "certificate"
SHOWN = 10  # faults that are told one by one

# What was measured in each column, and how far it may be off.
TOLERANCES: Mapping[Check, Mapping[str, float]] = {
    "golden": {"": 1e-5},
    "oracle": {"f32": 1e-6, "f64": 1e-12},
    "invariance": {"cuts": 2e-6, "ranks": 1e-6},
    "learns": {},
    "resume": {"stopped": 0.0, "repeated": 0.0, "killed": 0.0},
}
NEEDED: Mapping[Check, set[str]] = {"invariance": {"cuts", "ranks"}, "resume": {"stopped", "repeated"}}
ABOUT: Mapping[Check, str] = {
    "golden": "numbers derived by hand, which are written with six digits: losses, gradients, advantages",
    "oracle": "loss and gradient by each token's log-prob against TRL's own code on the same tokens",
    "invariance": "the gradient of a step and the weights after it, float32, over their norm: `cuts` are other parts,"
    " another order of prompts and more padding; `ranks` are two processes, each with its own prompts, that hold"
    " replicas or shards of the weights",
    "learns": "a random model of two layers, before and after: the one of three seeds that learnt least",
    "resume": "weights, optimizer, metrics and completions: `stopped` after every step and gone on with in a new stage,"
    " `repeated` from the start, `killed` ten times by SIGKILL",
}
# Why a cell is empty.
NONE: Mapping[tuple[str, Check], str] = {
    ("prompt", check): "it trains nothing: a stage that is only measured" for check in TOLERANCES
}
# What a cell does not say.
LIMITS: Mapping[tuple[str, Check], str] = {
    ("dapo", "oracle"): "its loss; dynamic sampling has no peer: TRL has none",
    ("gmpo", "oracle"): "without a KL and with the plain k3, the only one that TRL's has",
    ("grpo", "oracle"): "the ratio beside the KL of a sequence is the token's own, not TRL's of the row (trl#6586)",
    ("gspo_token", "oracle"): "against TRL's sequence level: equal where the tokens of a row share an advantage",
    ("kto", "oracle"): "z0 is given to both: TRL's is one of each micro-batch",
    ("orpo", "oracle"): "prompts of one token, float32: TRL trains the tokens of longer prompts, and casts",
    ("ppo", "oracle"): "its policy term, advantages given; the rest has no peer: TRL removed PPO",
    ("reinforce_pp", "oracle"): "its loss, advantages given; they have no peer: TRL has no REINFORCE++",
    ("reinforce_pp_baseline", "oracle"): "its loss, advantages given; they have no peer: TRL has no REINFORCE++",
    ("rloo", "oracle"): "a row that is masked because it was cut off pays for its KL here, and not in TRL",
}


class Record(NamedTuple):
    """One measurement of a test: a deviation of `of`, or in words what was learnt."""

    test: str
    algorithm: str
    check: Check
    of: str
    value: float | str


class Certify:
    """Notes what a test has measured; a test that fails notes nothing."""

    def __init__(self, properties: list[tuple[str, object]]):
        self.properties = properties

    def __call__(
        self, algorithm: str, check: Check, found: Numbers, expected: Numbers = 0.0, *, of: str | None = None
    ) -> None:
        """How far two numbers, or as many as there are, lie apart; it must be within the column's tolerance.

        `of` says which part of the column; of tensors it is their precision where the column has that.
        """
        if of is None:
            of = precision(found) if check == "oracle" else ""
        apart = deviation(found, expected)
        assert apart <= TOLERANCES[check][of], f"{algorithm}, {check} {of}: {apart} apart"
        self.properties.append((PROPERTY, [algorithm, check, of, apart]))

    def learnt(self, algorithm: str, what: str, before: float, after: float) -> None:
        """A number before and after training."""
        self.properties.append((PROPERTY, [algorithm, "learns", "", f"{what} {before:.2f} -> {after:.2f}"]))


@pytest.fixture
def certify(request: pytest.FixtureRequest) -> Certify:
    return Certify(request.node.user_properties)


def flat(numbers: Numbers) -> "torch.Tensor":
    """All numbers in one float64 vector, those of a mapping in the order of its keys."""
    import torch

    assert numbers is not None, "there is something to measure"
    if isinstance(numbers, Mapping):
        numbers = [numbers[key] for key in sorted(numbers)]
    if isinstance(numbers, Sequence):
        return torch.cat([flat(each) for each in numbers])
    return torch.as_tensor(numbers, dtype=torch.float64).detach().flatten()


def deviation(found: Numbers, expected: Numbers) -> float:
    """The largest difference between two numbers in the same place, over 1 and the size of what was expected."""
    mine, other = flat(found), flat(expected)
    assert mine.shape == other.shape, "as many numbers on both sides"
    apart = float(((mine - other).abs() / (1 + other.abs())).max())
    assert apart == apart, "no number is NaN"
    return apart


def precision(numbers: Numbers) -> str:
    """`f32` or `f64`, as the last tensor is; a loss before it is over float64 denominators."""
    import torch

    while isinstance(numbers, Sequence):
        numbers = numbers[-1]
    assert isinstance(numbers, torch.Tensor)
    return {torch.float32: "f32", torch.float64: "f64"}[numbers.dtype]


def at_most(apart: float) -> str:
    """A bound of one digit, so that the last bits of another machine do not show."""
    if not apart:
        return "0"
    power = floor(log10(apart))
    return f"{ceil(apart / 10.0**power) * 10.0**power:.0e}"


def cell(records: Sequence[Record]) -> str:
    """What was learnt; or the largest deviation of each part, and how many tests say so."""
    words = [record.value for record in records if isinstance(record.value, str)]
    if words:
        return ", ".join(words)
    worst: dict[str, float] = {}
    for record in records:
        worst[record.of] = max(worst.get(record.of, 0.0), float(record.value))
    told = [f"{of} {at_most(worst[of])}".strip() for of in TOLERANCES[records[0].check] if of in worst]
    return f"{', '.join(told)} ({len({record.test for record in records})})"


def faults(records: Iterable[Record], algorithms: Sequence[str]) -> list[str]:
    """Cells without a measurement or a reason, those with both, and those of which a part was not measured.

    What was measured of a name that is no algorithm is a fault too.
    """
    measured: dict[tuple[str, Check], set[str]] = defaultdict(set)
    for record in records:
        measured[record.algorithm, record.check].add(record.of)
    found = [f"{name}: no such algorithm" for name in sorted({name for name, _ in measured} - {*algorithms})]
    for algorithm in algorithms:
        for check in TOLERANCES:
            parts = measured.get((algorithm, check))
            missing = sorted(NEEDED.get(check, set()) - parts) if parts else []
            if (parts is None) == ((algorithm, check) not in NONE):
                found.append(f"{algorithm}, {check}: {'measured, and said to be none' if parts else 'not measured'}")
            found += [f"{algorithm}, {check}: {part} was not measured" for part in missing]
    return found


def page(records: Sequence[Record], algorithms: Sequence[str]) -> str:
    """The page in Markdown: what was measured and with which versions, a table, and a reason for each empty cell."""
    cells: dict[tuple[str, Check], list[Record]] = defaultdict(list)
    for record in records:
        cells[record.algorithm, record.check].append(record)
    notes: list[str] = []

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    rows = []
    for algorithm in algorithms:
        told = []
        for check in TOLERANCES:
            key = (algorithm, check)
            said = cell(cells[key]) if key in cells else "none"
            told.append(f"{said} {note(limit)}" if (limit := {**NONE, **LIMITS}.get(key)) else said)
        rows.append(f"| `{algorithm}` | {' | '.join(told)} |")
    names = ("rung", "torch", "transformers", "trl", "peft")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, CPU"
    bounds = {check: ", ".join(f"{of} {bound:g}".strip() for of, bound in TOLERANCES[check].items()) for check in ABOUT}
    columns = [f"| {check} | {about} | {bounds[check] or '-'} |" for check, about in ABOUT.items()]
    head = " | ".join(("algorithm", *TOLERANCES))
    lines = [
        "# Certificate",
        "",
        f"What {len({record.test for record in records})} tests measured of each algorithm, and the largest deviation.",
        "This page is written by `make certify`, which runs them, and by nothing else: where one of them fails or is",
        "skipped there is no page. Last bits depend on the machine, so deviations are rounded up to one digit.",
        "",
        f"{versions}; {machine}.",
        "",
        "| column | what is compared | tolerance |",
        "|---|---|---|",
        *columns,
        "",
        "A deviation is the largest of all numbers compared, each over 1 plus its size; behind it, how many tests.",
        "No test lets more through than the tolerance.",
        "",
        f"| {head} |",
        "|---" * (1 + len(TOLERANCES)) + "|",
        *rows,
        "",
        *(f"{number}. {text}." for number, text in enumerate(notes, 1)),
    ]
    return "\n".join(lines) + "\n"


class Certificate:
    """Gathers what the tests of a run note, and writes the page at its end."""

    def __init__(self, file: Path):
        self.file = file
        self.records: list[Record] = []
        self.skipped = 0
        self.faults: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called in the process that controls the run, wherever the test ran."""
        self.skipped += report.skipped
        if report.when == "call" and report.passed:
            noted = [value for name, value in report.user_properties if name == PROPERTY]
            self.records += [Record(report.nodeid, *value) for value in noted if isinstance(value, list)]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus or self.skipped:
            self.faults = ["not every test passed" if exitstatus else f"{self.skipped} tests were skipped"]
        else:
            from rung.config.algorithms import algorithm_names

            names = algorithm_names()
            self.faults = faults(self.records, names)
            if not self.faults:
                self.file.write_text(page(self.records, names), encoding="utf-8")
        session.exitstatus = exitstatus or (pytest.ExitCode.TESTS_FAILED if self.faults else pytest.ExitCode.OK)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for fault in self.faults[:SHOWN]:
            terminalreporter.write_line(f"no certificate: {fault}")
        if len(self.faults) > SHOWN:
            terminalreporter.write_line(f"no certificate: {len(self.faults) - SHOWN} more")
        if not self.faults:
            terminalreporter.write_line(f"certificate: {self.file}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--certify", metavar="FILE", type=Path, help="run what measures, and write the page of it to FILE")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("certify")
    if file is not None and not hasattr(config, "workerinput"):  # a worker of xdist tells the process that controls it
        config.pluginmanager.register(Certificate(file))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("certify") is not None:
        measuring = [item for item in items if "certify" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in measuring])
        items[:] = measuring

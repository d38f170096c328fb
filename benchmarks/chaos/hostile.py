"""Hostile configs, templates, data, names, links and models, each given to the command; nothing may run or hang.

    python benchmarks/chaos/hostile.py [WORD ...]

Each trial is a fork of one process that has imported everything, with a limit on its memory and on its time. A trial
fails if code of the attacker ran, something outside of the working folder changed, the command hung, ended with a
traceback, wrote raw escapes to the terminal, or accepted what it has to refuse. WORDs select trials by their names.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

LIMIT_S, START_S = 10.0, 120.0  # the second one is for trials that start Python themselves
MEMORY = 4 * 2**30  # bytes beyond what the warmed process has
CODE = "from pathlib import Path\nPath({ran!r}).touch()\ndef score(completion): return 1.0\n"
ROW = '{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}\n'
ESCAPE = "\x1b]0;owned\x07\x1b[31m"


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one trial: the command works in `project`, and may not change anything in `outside`."""

    root: Path
    model: Path  # a small model to copy

    @property
    def project(self) -> Path:
        """The working folder."""
        return self.root / "project"

    @property
    def outside(self) -> Path:
        """A folder of somebody else, with a file `kept`."""
        return self.root / "outside"

    @property
    def code(self) -> str:
        """Python that leaves a mark when it is run."""
        return CODE.format(ran=str(self.root / "ran"))

    def config(self, folder: Path | None = None, /, **keys: Any) -> list[str]:
        """Writes a config with one row of data; the arguments of `rung check` for it."""
        folder = folder or self.project
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.jsonl").write_text(ROW * 2)
        alone = {"algorithm": "sft", "data": "rows.jsonl", "max_steps": 1, "batch_size": 2}
        path = {"name": "one", "model": "tiny:llama", **({} if "stages" in keys else alone), **keys}
        (folder / "path.yaml").write_text(yaml.safe_dump(path))
        return ["check", str(folder / "path.yaml")]

    def rewarded(self, reward: str, **keys: Any) -> list[str]:
        """A config that samples and names a reward."""
        rollout = {"batch_size": 2, "max_completion_length": 4}
        return self.config(algorithm="grpo", rewards=[{"name": reward}], rollout=rollout, batch_size=2, **keys)

    def copied(self, **config: Any) -> Path:
        """A copy of the model in the project, with other values in its config.json."""
        folder = Path(shutil.copytree(self.model, self.project / "model"))
        edit(folder / "config.json", **config)
        return folder

    def template(self, text: str) -> list[str]:
        """A config whose model has another chat template."""
        (self.copied() / "chat_template.jinja").write_text(text)
        return self.config(model="./model")


def edit(file: Path, **values: Any) -> None:
    """Changes values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


TRIALS: dict[str, Callable[[Home], list[str]]] = {}
HARMLESS: set[str] = set()  # trials whose input may be accepted, since nothing in it can do harm
ACCEPTED: set[str] = set()  # trials whose input is a legitimate run beside something hostile


def trial(name: str, *kinds: set[str]) -> Callable[[Callable[[Home], list[str]]], Callable[[Home], list[str]]]:
    """Registers a function that prepares a trial and returns the arguments of the command."""

    def register(make: Callable[[Home], list[str]]) -> Callable[[Home], list[str]]:
        TRIALS[name] = make
        for kind in kinds:
            kind.add(name)
        return make

    return register


# Code

for _name in ("os:system", "builtins:exec", "subprocess:run", "rung.registry:load_object", "__main__:main"):
    TRIALS[f"code: reward {_name}"] = lambda home, name=_name: home.rewarded(name)
for _key, _value in {
    "optimizer": "os:system",
    "trackers": ["subprocess:Popen"],
    "algorithm": "os:system",
    "data": {"path": "rows.jsonl", "format": "os:system"},
    "evaluate": {"validation": "rows.jsonl", "metrics": ["os:system"]},
}.items():
    TRIALS[f"code: {_key}"] = lambda home, key=_key, value=_value: home.config(**{key: value})


@trial("code: file outside")
def _outside(home: Home) -> list[str]:
    (home.outside / "evil.py").write_text(home.code)
    return home.rewarded("../outside/evil.py:score")


@trial("code: link to a file outside")
def _linked(home: Home) -> list[str]:
    (home.outside / "evil.py").write_text(home.code)
    (home.project / "mine.py").symlink_to(home.outside / "evil.py")
    return home.rewarded("./mine.py:score")


@trial("code: config and file from elsewhere")
def _elsewhere(home: Home) -> list[str]:
    (home.outside / "evil.py").write_text(home.code)
    return home.config(home.outside, algorithm="grpo", rewards=["./evil.py:score"])


@trial("code: extends a config from elsewhere")
def _extends(home: Home) -> list[str]:
    home.config(home.outside, algorithm="grpo", rewards=["./evil.py:score"])
    (home.project / "evil.py").write_text(home.code)
    (home.project / "rows.jsonl").write_text(ROW)
    (home.project / "mine.yaml").write_text("extends: ../outside/path.yaml\n")
    return ["check", "mine.yaml"]


@trial("code: package below the working folder")
def _installed(home: Home) -> list[str]:
    folder = home.project / ".venv/lib/python3.11/site-packages"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(home.code)
    return home.rewarded("./.venv/lib/python3.11/site-packages/evil.py:score")


@trial("code: modules in the working folder of python -m rung", ACCEPTED)
def _modules(home: Home) -> list[str]:
    for name in ("yaml", "torch", "typer", "rich", "pydantic"):
        (home.project / f"{name}.py").write_text(home.code)
    return ["PYTHON", "-m", "rung", "list", "configs"]


@trial("code: modules in the working folder of --nproc", ACCEPTED)
def _ranks(home: Home) -> list[str]:
    home.config()
    for name in ("yaml", "torch", "typer", "numpy"):
        (home.project / f"{name}.py").write_text(home.code)
    return ["PYTHON", "-P", "-m", "rung", "run", "path.yaml", "--nproc", "2"]


# Chat templates

for _name, _text in {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "repetition": "{{ 'a' * 10**10 }}",
    "padding": "{{ 'a'.center(10**10) }}",
    "power": "{{ 9**(9**9) }}",
    "replacement": "{% set s = 'a' * 10**6 %}{{ s.replace('a', s) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division": "{{ 1 // 0 }}",
    "missing key": "{{ messages[0].name.first }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ lipsum.__globals__['os'].system('touch ../ran') }}",
    "depth": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "length": "x" * 2**22,
}.items():
    TRIALS[f"template: {_name}"] = lambda home, text=_text: home.template(text)

# YAML

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))


def _given(home: Home, text: str) -> list[str]:
    (home.project / "path.yaml").write_text(text)
    return ["check", "path.yaml"]


for _name, _text in {
    "aliases": LAUGHS,
    "merges": MERGES,
    "depth": "a: " + "[" * 9000,
    "digits": "a: " + "1" * 9000,
    "base 60": "a: " + "1:" * 200_000 + "1",
    "duplicate key": "name: a\nname: b\n",
    "python tag": "a: !!python/object/apply:os.system ['touch ../ran']",
    "NUL": "a: \0",
    "number as key": "a: {1: 2}",
    "date": "date: 2001-99-99",
    "surrogate": 'name: "\\ud800"',
    "length": "a: " + "x" * 2**22,
    "escapes": f'name: "{ESCAPE.encode("unicode_escape").decode()}"\nmodel: tiny:llama\nalgorithm: sft\n',
}.items():
    TRIALS[f"yaml: {_name}"] = lambda home, text=_text: _given(home, text)


@trial("yaml: aliases in an override")
def _override(home: Home) -> list[str]:
    return [*home.config(), f"model={LAUGHS}"]


@trial("yaml: a device")
def _device(home: Home) -> list[str]:
    (home.project / "path.yaml").symlink_to("/dev/zero")
    return ["check", "path.yaml"]


# Data


def _data(home: Home, name: str, content: bytes) -> list[str]:
    arguments = home.config(data=name)
    (home.project / name).write_bytes(content)
    return arguments


PAIR = b'{"prompt": "a", "completion": "b", "x": '
for _name, _file, _content in (
    ("depth", "deep.jsonl", PAIR + b"[" * 9000 + b"]" * 9000 + b"}\n"),
    ("digits", "digits.jsonl", PAIR + b"1" * 9000 + b"}\n"),
    ("depth of a whole file", "deep.json", b"[" * 100_000),
    ("header", "header.csv", b'"prompt,completion'),
    ("parquet", "rows.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1"),
    ("escapes in the name of a file", f"{ESCAPE}.jsonl".replace("/", ""), b'{"prompt": ""}\n'),
    ("escapes in a column", "column.jsonl", json.dumps({ESCAPE: 1, "b": 2}).encode() + b"\n"),
):
    TRIALS[f"data: {_name}"] = lambda home, file=_file, content=_content: _data(home, file, content)


@trial("data: a bomb of gzip")
def _bomb(home: Home) -> list[str]:
    arguments = home.config(data="rows.json.gz")
    with gzip.open(home.project / "rows.json.gz", "wb", compresslevel=1) as file:
        for _ in range(1100):
            file.write(b" " * 2**20)
    return arguments


@trial("data: a pipe")
def _pipe(home: Home) -> list[str]:
    arguments = home.config(data="pipe.jsonl")
    os.mkfifo(home.project / "pipe.jsonl")
    return arguments


# Names and links

for _name in ("config.yaml", "report.html", "Lineage.json", "DONE", "start", "con", "../outside", "$(touch ../ran)"):
    TRIALS[f"name: stage {_name}"] = lambda home, name=_name: home.config(
        stages=[{"name": name, "algorithm": "sft", "data": "rows.jsonl", "max_steps": 1}]
    )
for _name in ("../outside/one", "/tmp/one", "..", "nul", ESCAPE):
    TRIALS[f"name: run {_name.encode('unicode_escape').decode()}"] = lambda home, name=_name: [
        "run",
        *home.config(name=name)[1:],
    ]
for _value in ("../outside", "..", "linked"):
    TRIALS[f"name: output {_value}"] = lambda home, value=_value: [
        "run",
        *(home.config(output=value)[1:], (home.project / "linked").symlink_to(home.outside))[0],
    ]
TRIALS["name: from a run outside"] = lambda home: home.config(**{"from": "run:../outside/one"})
TRIALS["name: a model with escapes"] = lambda home: home.config(model=f"./{ESCAPE}")


def _link(home: Home, place: str, target: str) -> list[str]:
    arguments = home.config()
    file = home.project / "runs" / "one" / place
    file.parent.mkdir(parents=True)
    file.symlink_to(home.outside / target, target_is_directory=target == "folder")
    return ["run", *arguments[1:]]


for _place, _target in {
    "sft/metrics.jsonl": "kept",
    "sft/completions.jsonl": "kept",
    "sft": "folder",
    "sft/checkpoints": "folder",
    "config.yaml": "kept",
    "lineage.json": "missing",
    "sft/model": "folder",
}.items():
    TRIALS[f"link: {_place}"] = lambda home, place=_place, target=_target: _link(home, place, target)


@trial("link: a pipe as log")
def _pipe_log(home: Home) -> list[str]:
    arguments = home.config()
    (home.project / "runs/one/sft").mkdir(parents=True)
    os.mkfifo(home.project / "runs/one/sft/metrics.jsonl")
    return ["run", *arguments[1:]]


# Models


class Evil:
    """An object whose pickle touches a file when it is read."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def _modelled(home: Home, *flags: str) -> list[str]:
    return ["run", *home.config(model="./model")[1:], *flags]


@trial("model: pickled weights")
def _pickled(home: Home) -> list[str]:
    folder = home.copied()
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Evil(home.root / "ran")}, folder / "pytorch_model.bin")
    return _modelled(home)


@trial("model: pickled weights that the flag allows")
def _allowed(home: Home) -> list[str]:
    _pickled(home)
    return _modelled(home, "--allow-code", "model")


@trial("model: an index of pickled shards")
def _index(home: Home) -> list[str]:
    folder = home.copied()
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Evil(home.root / "ran")}, folder / "shard.bin")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return _modelled(home)


@trial("model: code that auto_map names", HARMLESS)
def _auto_map(home: Home) -> list[str]:
    folder = home.copied(auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}, trust_remote_code=True)
    for name in ("evil.py", "__init__.py"):
        (folder / name).write_text(home.code)
    return _modelled(home)


@trial("model: code that a tokenizer names")
def _tokenizer(home: Home) -> list[str]:
    folder = home.copied()
    (folder / "evil.py").write_text(home.code)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="Evil")
    return _modelled(home)


for _name, _values in {
    "layers": {"num_hidden_layers": 10**12},
    "experts": {"num_local_experts": 10**9},
    "labels": {"num_labels": 10**12},
    "hidden size": {"hidden_size": 10**12},
    "kernels": {"_attn_implementation": "evil/kernel"},
    "use_kernels": {"use_kernels": True},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "fp8": {"quantization_config": {"quant_method": "fp8"}},
    "unknown type": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C"}},
    "text as a size": {"hidden_size": "x"},
}.items():
    TRIALS[f"model: {_name}"] = lambda home, values=_values: (home.copied(**values), _modelled(home))[1]


def _broken(home: Home, name: str, content: bytes) -> list[str]:
    (home.copied() / name).write_bytes(content)
    return _modelled(home)


for _name, _content in {
    "model.safetensors": (10**12).to_bytes(8, "little"),
    "config.json": b'{"a":' * 90_000,
    "tokenizer.json": b"[" * 90_000,
    "tokenizer_config.json": b"\xff\xfe",
}.items():
    TRIALS[f"model: damaged {_name}"] = lambda home, name=_name, content=_content: _broken(home, name, content)


@trial("model: half of the weights")
def _half(home: Home) -> list[str]:
    file = home.copied() / "model.safetensors"
    return _broken_half(home, file)


def _broken_half(home: Home, file: Path) -> list[str]:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return _modelled(home)


def _adapted(home: Home, **values: Any) -> list[str]:
    from rung.models.load import load_model, save_adapter
    from rung.models.lora import with_adapter

    save_adapter(with_adapter(load_model("tiny:llama")[0], {"r": 2}), home.project / "model")
    edit(home.project / "model/adapter_config.json", **values)
    (home.project / "evil_library.py").write_text(home.code)
    return _modelled(home)


ADAPTED = {"base_model_class": "Evil", "parent_library": "evil_library"}
for _name, _values in {
    "rank": {"r": 10**9},
    "expression": {"target_modules": "(.*.*.*.*.*.*.*.*.*.*)*!"},
    "base elsewhere": {"base_model_name_or_path": "/nowhere/model"},
}.items():
    TRIALS[f"adapter: {_name}"] = lambda home, values=_values: _adapted(home, **values)
TRIALS["adapter: code of auto_mapping"] = lambda home: _adapted(home, auto_mapping=ADAPTED)
HARMLESS.add("adapter: code of auto_mapping")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a trial."""

    name: str
    outcome: str
    passed: bool
    seconds: float
    said: str


def attempt(name: str, model: Path) -> Verdict:
    """Runs one trial in a fork, and judges it."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        home = Home(Path(folder).resolve(), model)
        home.project.mkdir()
        home.outside.mkdir()
        (home.outside / "kept").write_text("kept")
        (home.outside / "folder").mkdir()
        out = Path(tempfile.mkdtemp(prefix="hostile-out-"))
        begun = time.monotonic()
        arguments = _prepared(name, home)
        before = _state(home)
        limit = START_S if arguments[0] == "PYTHON" else LIMIT_S
        begun = time.monotonic()
        code = _forked(arguments, home, out, limit)
        seconds = time.monotonic() - begun
        said = (out / "err").read_bytes().decode(errors="replace")
        shown = said + (out / "out").read_bytes().decode(errors="replace")
        shutil.rmtree(out)
        outcome = _judge(home, before, code, said, shown)
    allowed = {"refused"} | ({"accepted"} if name in HARMLESS | ACCEPTED else set())
    return Verdict(
        name, outcome, outcome in allowed, seconds, said.strip().splitlines()[0][:90] if said.strip() else ""
    )


def _prepared(name: str, home: Home) -> list[str]:
    """Prepares a trial in the project; trials use relative paths of it."""
    here = Path.cwd()
    os.chdir(home.project)
    try:
        return TRIALS[name](home)
    finally:
        os.chdir(here)


def _forked(arguments: list[str], home: Home, out: Path, limit: float) -> int | None:
    """The exit code of the command in a fork; None if it was killed at the limit, with all its children."""
    child = os.fork()
    if child == 0:
        os.setsid()
        _command(arguments, home, out)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _command(arguments: list[str], home: Home, out: Path) -> None:
    """Runs the command in this process, which ends with it, whatever happens."""
    code = 1
    try:
        code = _exit_code(arguments, home, out)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(arguments: list[str], home: Home, out: Path) -> int:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(out / name, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(home.project)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    if arguments[0] == "PYTHON":
        os.execv(sys.executable, [sys.executable, *arguments[1:]])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    from rung.cli.main import main

    sys.argv = ["rung", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _state(home: Home) -> str:
    """A hash of everything outside of the project: names, links and contents."""
    digest = hashlib.sha256()
    for file in sorted(home.root.rglob("*")):
        if home.project in (file, *file.parents):
            continue
        content = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
        digest.update(f"{file.relative_to(home.root)}\0".encode() + content)
    return digest.hexdigest()


def _judge(home: Home, before: str, code: int | None, said: str, shown: str) -> str:
    if (home.root / "ran").exists() or (home.project / "ran").exists():
        return "EXECUTED"
    if _state(home) != before:
        return "WROTE OUTSIDE"
    if code is None:
        return "HUNG"
    if "Traceback (most recent call last)" in said or code < 0 or code == 1:
        return "TRACEBACK"
    if "\x1b]" in shown or "\x07" in shown or "\x1b[31m" in shown:
        return "RAW ESCAPES"
    if code == 0:
        return "accepted"
    lines = [line for line in said.splitlines() if line.strip()]
    return "refused" if code == 2 and len(lines) == 2 else f"exit {code}, {len(lines)} lines"


def warm(folder: Path) -> Path:
    """Imports what the commands need, and saves the model that the trials copy."""
    import rung.pipeline.runner
    from rung.models.load import save_model
    from rung.tiny.models import build

    assert rung.pipeline.runner
    model, tokenizer = build("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    save_model(model, tokenizer, folder)
    return folder / "model"


def main() -> int:
    """Runs the trials and prints a table; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("words", nargs="*", help="run only trials whose names contain one of these")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2] / "src")
    sys.path.insert(0, os.environ["PYTHONPATH"])
    names = [name for name in TRIALS if not chosen.words or any(word in name for word in chosen.words)]
    with tempfile.TemporaryDirectory(prefix="hostile-model-") as folder:
        model = warm(Path(folder))
        verdicts = []
        for name in names:
            verdicts.append(attempt(name, model))
            one = verdicts[-1]
            mark = "ok  " if one.passed else "FAIL"
            print(f"{mark} {one.name:58} {one.outcome:14} {one.seconds:5.1f} s  {one.said}", flush=True)
    counts = {outcome: sum(one.outcome == outcome for one in verdicts) for outcome in {one.outcome for one in verdicts}}
    failed = [one.name for one in verdicts if not one.passed]
    longest = max((one.seconds for one in verdicts if not one.name.startswith("code: modules")), default=0.0)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"{len(verdicts)} hostile inputs: {told}; {len(failed)} failed; the longest took {longest:.1f} s")
    if chosen.json:
        figures = {"trials": len(verdicts), "outcomes": counts, "failed": failed, "longest_s": round(longest, 1)}
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

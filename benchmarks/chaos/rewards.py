"""Trains with rewards that hang, die or disturb their process, and tells what came of each.

    python benchmarks/chaos/rewards.py [--only NAME ...] [--default SECONDS] [--markdown]

Each trial is a run of GRPO with two steps on tiny:llama, in a child of this process that has loaded everything, under
limits of memory and time. A reward is tried with a deadline of 1 second, and with the default one, which `--default`
shortens. A trial passes if no batch took longer than the deadline and 2 seconds, no process was left, and the run
ended in one of the ways that are right for its reward.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REWARDS = """
import asyncio, ctypes, json, os, random, re, signal, subprocess, sys, tempfile, threading, time
import multiprocessing as mp
from rung.reward import Verdict, reward

def plain(completion: str) -> float: return float(len(set(completion)))
def sleeps(completion: str) -> float: time.sleep(10**6)
def spins(completion: str) -> float:
    while True: pass
def spins_in_c(completion: str) -> float: return float(bool(re.match(r"(a+)+$", "a" * 64 + "b")))
def adds_in_c(completion: str) -> float: return float(sum(iter(int, 1)))
def ignores_sigterm(completion: str) -> float:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(1)
def swallows(completion: str) -> float:
    while True:
        try: time.sleep(1)
        except BaseException: pass
def child_hangs(completion: str) -> float:
    return float(subprocess.run([sys.executable, "-c", "import time; time.sleep(10**6)"]).returncode)
def daemon_hangs(completion: str) -> float:
    twice = "import os, time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(10**6)"
    subprocess.Popen([sys.executable, "-c", twice])
    time.sleep(0.1)
    return 1.0
def reads_input(completion: str) -> float: return float(len(sys.stdin.read()))
async def async_hangs(completion: str) -> float: await asyncio.Event().wait()
async def async_blocks(completion: str) -> float: time.sleep(10**6)
async def async_swallows(completion: str) -> float:
    while True:
        try: await asyncio.sleep(0.01)
        except asyncio.CancelledError: pass
async def async_fills(completion: str) -> float:
    async def more():
        while True: await asyncio.sleep(0)
    for _ in range(1000): asyncio.create_task(more())
    while True: await asyncio.sleep(0)
lock = threading.Lock()
def locks(completion: str) -> float:
    lock.acquire(); lock.acquire()
def some_hang(completion: str) -> float:
    if len(completion) % 4 == 0: time.sleep(10**6)
    return 1.0
def slow(completion: str) -> float:
    time.sleep(0.3); return float(len(set(completion)))
def exits(completion: str) -> float: sys.exit(3)
def exits_at_once(completion: str) -> float: os._exit(0)
def kills_itself(completion: str) -> float: os.kill(os.getpid(), signal.SIGKILL)
def kills_its_group(completion: str) -> float: os.killpg(0, signal.SIGKILL)
def stops_itself(completion: str) -> float: os.kill(os.getpid(), signal.SIGSTOP)
def segfaults(completion: str) -> float: ctypes.string_at(0)
def aborts(completion: str) -> float: os.abort()
def recurses(completion: str) -> float: return recurses(completion)
def not_a_number(completion: str) -> float: return float("nan")
def huge_int(completion: str) -> float: return 10**400
def huge_float(completion: str) -> float: return 1e300
def wrong_length(completions, **columns): return [1.0]
def fills_memory(completion: str) -> float:
    held = []
    while True: held.append(bytearray(2**27))
def prints_much(completion: str) -> float:
    print("x" * 10_000_000); print("\\x1b[31mred"); return 1.0
def raises_much(completion: str) -> float: raise ValueError("\\x1b[31m" + "x" * 10_000_000)
def returns_much(completions, log_extra, **columns):
    log_extra("essay", ["x" * 2**27 for _ in completions]); return [1.0 for _ in completions]
def forges(completion: str):
    return Verdict(1.0, parts={"a": 10**400, "b": float("nan"), "c": [[1]]}, cost=10**400)
def forges_on_the_socket(completion: str) -> float:
    for number in range(3, 32):
        try: os.write(number, b"\\x00\\x00\\x00\\x10{\\"verdict\\": 1234}")
        except OSError: pass
    return 1.0
def logs_reserved(completions, log_metric, log_extra, **columns):
    log_metric("reward", 10.0**9); log_metric("loss", float("nan")); log_extra("completion", ["?"] * len(completions))
    return [float(len(set(text))) for text in completions]
def seeds(completion: str) -> float:
    random.seed(0); return random.random()
def changes_folder(completion: str) -> float:
    os.chdir(tempfile.mkdtemp()); return 1.0 + len(completion)
def pool(completions, **columns):
    with mp.Pool(2) as workers: return workers.map(plain, completions)
def threads(completion: str) -> float:
    for _ in range(8): threading.Thread(target=time.sleep, args=(10**6,)).start()
    return float(len(completion))
def environment(completion: str) -> float:
    assert "CANARY_API_KEY" not in os.environ and "HF_TOKEN" not in os.environ, "a secret is here"
    os.environ.clear(); return float(len(completion))
def forks_much(completion: str) -> float:
    for _ in range(50):
        if os.fork() == 0: time.sleep(10**6); os._exit(0)
    time.sleep(10**6)
calls = 0
def one_dead_call(completions, **columns):
    if columns["trainer_state"].global_step == 0: raise OSError("no grader")
    return [float(len(set(text))) for text in completions]
"""
# What is right: the run ends (exit code 0) with every row scored, or the rows fail, so that two steps in a row are
# empty and the run ends with exit code 2.
SCORES = {
    *("plain", "slow", "seeds", "changes_folder", "pool", "threads", "environment", "reads_input", "daemon_hangs"),
    *("prints_much", "logs_reserved"),
}
MIXED = {"some_hang", "one_dead_call"}
SIZES = {"sleeps": (8, 16, 64), "spins": (8, 16), "async_blocks": (8, 16)}
LIMIT_S = 400
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: the reward, the rows of a batch, and its deadline in seconds; None for the default one."""

    name: str
    rows: int
    deadline: float | None


def names() -> list[str]:
    """The names of the rewards."""
    lines = [line.removeprefix("async ") for line in REWARDS.splitlines()]
    return [line[4 : line.index("(")] for line in lines if line.startswith("def ")]


def config(trial: Trial, folder: Path) -> Path:
    """Writes the config of a trial and its data; returns its path."""
    (folder / "r.py").write_text(REWARDS)
    prompts = [{"prompt": f"{number}+1="} for number in range(64)]
    (folder / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    policy = {"max_error_rate": 1.0} | ({} if trial.deadline is None else {"timeout_s": trial.deadline})
    made = {
        "name": "trial",
        "model": "tiny:llama",
        "output": "runs",
        "algorithm": {"name": "grpo", "num_generations": 4, "beta": 0},
        "data": "p.jsonl",
        "rewards": [f"./r.py:{trial.name}"],
        "reward_policy": policy,
        "rollout": {"batch_size": trial.rows // 4, "max_completion_length": 6},
        "max_steps": 2,
        "max_empty_steps": 2,
    }
    path = folder / "trial.yaml"
    path.write_text(json.dumps(made))
    return path


def run_trial(trial: Trial, default: float) -> dict[str, object]:
    """Runs a trial in a child process, and returns a row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _in_child(trial, folder, default)
    status = _wait(child)
    took = time.monotonic() - begun
    time.sleep(0.3)
    left = _end_what_is_left()
    output = (folder / "output").read_bytes()
    durations = [float(line) for line in (folder / "durations").read_text().split()] if status is not None else []
    deadline = default if trial.deadline is None else trial.deadline
    metrics = _metrics(folder)
    shutil.rmtree(folder, ignore_errors=True)
    right = {0} if trial.name in SCORES else {0, 2} if trial.name in MIXED else {2}
    slowest = max(durations, default=0.0)
    faults = [
        *([] if status in right else [f"exit {status}"]),
        *([] if slowest <= deadline + 2 else ["late"]),
        *([] if not left else ["left"]),
        *(["traceback"] if b"Traceback (most" in output else []),
        *(["escape"] if b"\x1b" in output else []),
        *(["long output"] if len(output) > 200_000 else []),
        *(["reserved"] if metrics.get("reward", 0) > 1e6 else []),
    ]
    return {
        "reward": trial.name,
        "rows": trial.rows,
        "deadline": "1 s" if trial.deadline else f"default ({default:g} s)",
        "exit": status,
        "batches": len(durations),
        "slowest batch (s)": round(slowest, 2),
        "run (s)": round(took, 1),
        "left": left,
        "output (bytes)": len(output),
        "verdict": "ok" if not faults else ", ".join(faults),
        "tail": output[-800:].decode(errors="replace") if faults else "",
    }


def _in_child(trial: Trial, folder: Path, default: float) -> None:
    from rung.cli.main import main
    from rung.config import PathConfig
    from rung.reward import RewardPolicy, RewardSet

    os.setsid()
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_DATA, (6 * GIB, 6 * GIB))
    os.environ |= {"CANARY_API_KEY": "canary", "HF_TOKEN": "canary"}
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    score = RewardSet.score
    (folder / "durations").touch()

    def timed(self: RewardSet, *arguments: object, **named: object) -> object:
        begun = time.monotonic()
        try:
            return score(self, *arguments, **named)  # type: ignore[arg-type]
        finally:
            with (folder / "durations").open("a") as file:
                file.write(f"{time.monotonic() - begun}\n")

    RewardSet.score = timed  # type: ignore[method-assign,assignment]
    if trial.deadline is None:
        RewardPolicy.model_fields["timeout_s"].default = default
        RewardPolicy.model_rebuild(force=True)
        PathConfig.model_fields["reward_policy"].default = RewardPolicy()
        PathConfig.model_rebuild(force=True)
    code = 1
    sys.argv = ["rung", "run", str(config(trial, folder))]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            import atexit

            sys.stdout.flush()
            atexit._run_exitfuncs()
        os._exit(code)


def _wait(child: int) -> int | None:
    """The exit code of the child, the negative number of a signal, or None if it ran into the limit of time."""
    for _ in range(LIMIT_S * 20):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _end_what_is_left() -> int:
    """Kills all descendants of this process, to which orphans come, and returns how many there were."""
    found: set[int] = set()
    for _ in range(50):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        alive = _descendants(os.getpid())
        if not alive:
            break
        found |= alive
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    return len(found)


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(name)] = int(parent)
    found: set[int] = set()
    for process in parents:
        line, ancestor = [], process
        while ancestor in parents and ancestor != root:
            line.append(ancestor)
            ancestor = parents[ancestor]
        if ancestor == root:
            found.update(line)
    return found


def _metrics(folder: Path) -> dict[str, float]:
    files = sorted((folder / "runs").rglob("metrics.jsonl"))
    lines = files[0].read_text().splitlines() if files else []
    return json.loads(lines[-1]) if lines else {}


def main() -> int:
    """Runs the trials and prints the table; returns the number of those that did not pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=names(), choices=names())
    parser.add_argument("--default", type=float, default=5.0, help="seconds that stand for the default deadline")
    parser.add_argument("--explicit-only", action="store_true", help="leave out the trials with the default deadline")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans of trials come to this process, which counts them
    import rung.cli.main
    import rung.pipeline.runner
    import rung.pipeline.train_stage

    assert rung.cli.main
    failed = 0
    columns = "reward, rows, deadline, exit, batches, slowest batch (s), run (s), left, output (bytes), verdict"
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * 10}", flush=True)
    for name in options.only:
        for rows in SIZES.get(name, (8,)):
            for deadline in (1.0,) if options.explicit_only else (1.0, None):
                row = run_trial(Trial(name, rows, deadline), options.default)
                tail = row.pop("tail")
                print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
                if tail:
                    failed += 1
                    print(f"```\n{tail}\n```", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 100))

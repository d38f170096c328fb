"""Runs the attacks, keeps the results as JSON and writes the page.

python -m benchmarks.chaos --quick
python -m benchmarks.chaos --kinds kills disk --cases path
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "chaos" / "results"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "WANDB_MODE": "disabled",
    "TRANSFORMERS_VERBOSITY": "error",
    "COLUMNS": "120",
}


KINDS = ("kills", "corruption", "disk", "processes", "drift", "signals", "soak", "scripts", "trl_trials")
LONG = ("soak", "scripts")


def main() -> None:
    """The command; exits with 1 where any trial has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample of all kinds, in about four minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="how many trials run side by side")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS, help="only these kinds; no page is written")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reliability.md")
    asked = parser.parse_args()
    os.environ |= ENVIRONMENT
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
    tempfile.tempdir = str(work)
    begun = time.monotonic()
    try:
        results = attacked(work, asked.kinds, seed=asked.seed, quick=asked.quick, jobs=asked.jobs)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1))
    failed, minutes = summary(results), (time.monotonic() - begun) / 60
    print(f"{len(results)} trials in {minutes:.1f} minutes, {failed} failed")
    if asked.kinds == KINDS:
        from benchmarks.chaos.page import page

        command = f"make {'chaos-quick' if asked.quick else 'chaos'}"
        asked.out.write_text(page(results, command=command, seed=asked.seed, minutes=minutes), encoding="utf-8")
    sys.exit(1 if failed else 0)


def attacked(work: Path, kinds: Sequence[str], *, seed: int, quick: bool, jobs: int) -> list[dict[str, Any]]:
    """The results of all trials of these kinds, as plain values."""
    from benchmarks.chaos import baselines, cases, trials
    from benchmarks.chaos.frame import Plan, in_folder

    trials.adopt_orphans()
    recording = baselines.start_another_process(list(cases.every()), work / "baselines")
    baselines.warm(work / "warm")
    plan = Plan(baselines.recorded(recording, work / "baselines"), seed, quick)
    trials_of = {kind: import_module(f"benchmarks.chaos.{kind}").plan(plan) for kind in kinds}
    planned = [trial for kind in kinds if kind not in LONG for trial in trials_of[kind]]
    plan.random("order").shuffle(planned)
    # the long ones first, so that all processes are busy to the end
    planned = [trial for kind in kinds if kind in LONG for trial in trials_of[kind]] + planned
    print(f"{len(planned)} trials", flush=True)
    lines = work / "results.jsonl"
    lines.touch()
    trials.pool(jobs, [in_folder(trial) for trial in planned], lines)
    return sorted((json.loads(line) for line in lines.read_text().splitlines()), key=lambda one: str(one["trial"]))


def summary(results: Sequence[Mapping[str, Any]]) -> int:
    """Prints the counts of all groups and the trials that failed; returns how many failed."""
    from benchmarks.chaos import trl_trials
    from benchmarks.chaos.frame import PASSED

    counts = Counter((one["kind"], one["group"], one["verdict"]) for one in results)
    for (kind, group, verdict), number in sorted(counts.items()):
        print(f"{kind:32} {group:28} {verdict:24} {number}")
    failed = [one for one in results if one["verdict"] not in PASSED and one["kind"] != trl_trials.KIND]
    for one in failed:
        print(f"FAILED {one['kind']}, {one['group']}: {one['trial']}: {one['verdict']}: {one['detail']}")
    return len(failed)


if __name__ == "__main__":
    main()

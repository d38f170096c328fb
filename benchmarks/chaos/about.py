"""What is done in each kind of attack, and what counts as a pass: a paragraph for each table of the page."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.chaos import cases, corruption, disk, drift, kills, processes, scripts, signals, soak

INTRODUCTION = f"""\
What happens to a run when its process is killed, a file is damaged, the disk is full, two processes start it,
or what it depends on changes. The runs are small: {cases.STEPS} steps a stage on `tiny:llama`, a checkpoint
every {cases.SAVE_STEPS} steps, with one stage of each main algorithm, and a path of three stages (sft with
early stopping, dpo, grpo with LoRA) with two gates, validation, a test set and the report. Each trial runs the
real command in a process of its own, forked from one that has imported everything. "Identical" means that every
file of the run folder has the SHA-256 that it has in a run to which nothing happened, made in another process
with another hash seed: weights, optimizer, checkpoints, logs, evaluations, lineage and report, without a file
more or less. Only `timing.jsonl` and its size in the checkpoints are left out. The runs use one thread of one
CPU; other machines are not claimed."""

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Kills": (kills.INSTANTS, kills.OPERATIONS),
    "Damaged files": (corruption.KIND, corruption.CLEAN),
    "Errors of the disk": (disk.KIND,),
    "Processes at once": (processes.KIND,),
    "Drift": (drift.KIND,),
    "Signals": (signals.KIND,),
    "A long run with faults": (soak.KIND,),
    "Rewards, numbers and hostile files": (scripts.KIND,),
}
"""The kinds that stand together in one table."""
ABOUT: Mapping[str, str] = {
    kills.INSTANTS: """\
SIGKILL at instants that are uniform in the time of the run: one, or two or three in a row, where the later ones
meet the resumed run. Then the same command runs to its end, unattended. A trial passes if the result is
identical.""",
    kills.OPERATIONS: """\
SIGKILL before each file operation: opening for writing, writing (also with half of the data on the disk),
syncing, renaming, removing, making folders, and the writes of native code. All operations of the path are
tried, and a sample of those of single stages; in one of five trials the resumed run is killed too. A trial
passes if the same command, unattended, ends with the identical result.""",
    corruption.KIND: """\
One file that the next command reads again (its time of access tells), or whose presence it reads, is damaged: a
flipped bit, a truncation, a page of zeros, an edited digit, a deletion, an empty file, two files swapped. Runs
were stopped at six places, or had finished. A trial passes if the command is refused in two lines, or ends with
the identical result (what it sets aside as `.bad` it must tell). A difference without a word never passes.""",
    corruption.CLEAN: """\
The same places without any damage. A trial passes if the result is identical; a refusal would be a false alarm.""",
    disk.KIND: """\
ENOSPC, EROFS, EACCES and EIO are raised at each file operation of the path (a read: EACCES or EIO; the second
half of a write: ENOSPC; an operation that repeats an earlier one on the same file, and those of two single
stages: one of them, drawn at random). A quarter of the errors stays until the end of the process. Besides: a
file system that is really full, a folder of mode 555 as a user without privileges, outputs that cannot be
written to, and a clock that stands still. A trial passes if the run ends in two lines, or goes on with a
warning, or nothing was lost and there is nothing to tell; and the same command then ends with the identical
result. Checkpoints that one of the two runs could not save are not compared. Errors of outputs must not disturb
a run at all.""",
    processes.KIND: """\
Two or three processes start the same run at the same time, or a moment apart; after a kill; while the first is
suspended; with `--new` twice; and with two configs of one name. A trial passes if one trains, each other is
refused in two lines (or finds the run finished), and the result is identical.""",
    drift.KIND: """\
A run is killed in its second stage; then rows, prompts, the code of the reward and metric, a key, the resolved
config, the number of threads or the version of a package changes; rows of a finished stage may, since nothing
reads them again. Passed: refused in two lines that name what
changed; with `--allow-drift` it goes on and the lineage names the change; restored, it ends with the identical
result.""",
    signals.KIND: f"""\
SIGTERM or SIGINT at random instants and at file operations, twice in a row, and while code of the user's takes
a second a row. A trial passes if the run ends with exit code {signals.STOPPED} within {signals.AT_ONCE_S:.0f}
seconds (a second signal: at once; in a rollout: when its step has ended), or had finished, and the same command
ends with the identical result but for the checkpoint that the stop saved.""",
    soak.KIND: f"""\
{soak.STEPS} steps of GRPO in which rewards raise, hang or return NaN, gradients are NaN and saves fail, in
about five of a hundred steps together. Passed: it reaches its last step, its memory grows by less than
{soak.GROWTH:.0%} from a quarter of the run to its end, and no process and no file handle is left.""",
    scripts.KIND: """\
Programs of their own, which print more: `benchmarks/chaos/rewards.py`, `bad_numbers.py` and `hostile.py`. A
program passes if none of its trials fails.""",
}
TRL = """\
The same attacks where TRL 1.16 has the feature: its trainers with the same model, data, steps and saves, as a
script that calls `train(resume_from_checkpoint=...)` with the newest checkpoint if there is one. Seeds are set,
one thread runs, and only the final weights and the log without clock fields are compared. GRPO draws rollouts
that are used in two steps; it is run with a save in the middle of a rollout and with saves between rollouts."""

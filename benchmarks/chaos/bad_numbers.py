"""Numbers that are not finite, and memory that runs out: every algorithm is trained with faults in its steps.

`python benchmarks/chaos/bad_numbers.py [ALGORITHM ...]` prints a line for each algorithm and fault, and exits with 1 if
weights became infinite or NaN, if a step changed something that it should not have, or if nothing was told.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from transformers.utils.logging import disable_progress_bar

from rung.algorithm import Algorithm
from rung.batch import Batch, Loss, Outputs
from rung.config import parse_config, resolve
from rung.config.defaults import algorithm_of
from rung.distributed.ranks import Ranks, init_ranks
from rung.errors import UserError
from rung.forward.passes import PartRunner
from rung.pipeline import train_stage as training
from rung.pipeline.stage_settings import stage_settings
from rung.rollout import source
from rung.rollout.samplers.local import LocalSampler
from rung.training import loop
from rung.training.loop import Step
from rung.training.stage import Stage
from rung.utils.signals import StopFlag

STEPS, SAVE_STEPS = 12, 3
NO_CHECKPOINT = "nan, from step 5, no checkpoint"
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
REWARD = '''
def many_a(completion: str) -> float:
    """The share of the letters a to m."""
    return sum("a" <= letter <= "m" for letter in completion) / max(len(completion), 1)
'''
SAMPLED = {
    "data": "prompts.jsonl",
    "rewards": ["./judge.py:many_a"],
    "rollout": {"batch_size": 4, "max_completion_length": 10},
    "updates": {"minibatches": 2, "epochs": 2},
}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "texts.jsonl", "batch_size": 6, "early_stopping": {"patience": 50}, "eval_steps": 4},
    "dpo": {"data": "pairs.jsonl", "batch_size": 4, "reference": "ema", "ref_model_sync_steps": 1},
    "ppo": {
        **SAMPLED,
        "critic": "start",
        "algorithm": {"name": "ppo", "kl_target": 0.1, "kl_unit": "sequence_sum"},
    },
    "grpo": {**SAMPLED, "algorithm": {"name": "grpo", "num_generations": 4, "beta": 0.04}},
    "dapo": {**SAMPLED, "algorithm": {"name": "dapo", "num_generations": 4}},
    "gspo": {**SAMPLED, "algorithm": {"name": "gspo", "num_generations": 4}},
    "reward_model": {"data": "pairs.jsonl", "batch_size": 4},
}


@dataclass
class Seen:
    """What a run with faults did: its steps, what it printed, and whether a skipped step changed anything."""

    stage: Stage | None = None
    stepped: list[bool] = field(default_factory=list)
    changed: int = 0
    printed: str = ""
    completions: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def trained(self) -> Stage:
        """The stage, which was built."""
        assert self.stage is not None
        return self.stage


class Clock:
    """The number of the step that the loop takes; counted where it computes denominators."""

    def __init__(self):
        self.step = 0
        self.ended = loop.step_denominators

    def __call__(self, *args: Any) -> Any:
        """Counts a step, and does what the loop would do."""
        self.step += 1
        return self.ended(*args)


Fault = Callable[[Clock], contextlib.AbstractContextManager[Any]]


def write_rows(work: Path) -> None:
    """Writes the rows and the reward that the stages read."""
    rows = {
        "texts": [{"prompt": f"what is {i}?", "completion": f" it is {'very ' * (i % 5)}{i}"} for i in range(40)],
        "pairs": [
            {"prompt": f"what is {i}?", "chosen": f" it is {i}", "rejected": " no" * (i % 4 + 1)} for i in range(20)
        ],
        "prompts": [{"prompt": f"what is {i}{'?' * (i % 3)}"} for i in range(20)],
    }
    for name, several in rows.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    (work / "judge.py").write_text(REWARD)


def digest(stage: Stage) -> str:
    """A hash of all trained weights and of the state of the optimizer."""
    total = hashlib.sha256()
    for parameter in stage.policy.parameters:
        state = stage.optimizer.state.get(parameter, {})
        for tensor in (parameter, *(value for value in state.values() if isinstance(value, Tensor))):
            total.update(tensor.detach().cpu().numpy().tobytes())
    return total.hexdigest()


def run(
    work: Path, name: str, fault: Callable[[Clock], contextlib.AbstractContextManager[Any]], **changes: Any
) -> Seen:
    """Trains a stage of an algorithm with a fault in it, in a new folder."""
    seen, clock, printed = Seen(), Clock(), io.StringIO()

    def watched(stage: Stage, *args: Any) -> Iterator[Step]:
        seen.stage, before = stage, digest(stage)
        for step in real(stage, *args):
            after = digest(stage)
            rolled_back = stage.skipped.rollbacks and not any(seen.stepped[-3:])
            seen.changed += not step.stepped and after != before and not rolled_back
            seen.stepped.append(step.stepped)
            yield step
            before = digest(stage)

    real = training.steps_with_rollback
    begun = time.perf_counter()
    stage = {"name": name, "algorithm": name, "max_steps": STEPS, "save_steps": SAVE_STEPS, "learning_rate": 1e-3}
    raw = {"name": "chaos", "model": "tiny:llama", "stages": [{**stage, **STAGES[name], **changes}]}
    config = resolve(parse_config(raw, source="chaos", base=work), "tiny")
    with (
        tempfile.TemporaryDirectory(dir=work) as folder,
        contextlib.redirect_stdout(printed),
        mock.patch.object(training, "steps_with_rollback", watched),
        mock.patch.object(loop, "step_denominators", clock),
        fault(clock),
        StopFlag() as stop,
    ):
        try:
            training.train_stage(
                stage_settings(config.stages[0], config, algorithm_of(config.stages[0], work)),
                start="tiny:llama",
                reference=None,
                critic="tiny:llama" if "critic" in STAGES[name] else None,
                folder=Path(folder) / "stage",
                ranks=Ranks(),
                stop=stop,
            )
        except UserError as error:
            seen.error = str(error)
        if (logged := Path(folder) / "stage" / "completions.jsonl").exists():
            seen.completions = logged.read_text()
    seen.printed, seen.seconds = printed.getvalue(), time.perf_counter() - begun
    return seen


def nothing(clock: Clock) -> contextlib.AbstractContextManager[Any]:
    """No fault."""
    return contextlib.nullcontext()


def spoil_term(kind: str, loss: Loss) -> Loss:
    """The loss with its first term made infinite or NaN, in its value, its gradient or both."""
    (name, value), *others = loss.terms.items()
    changed = {
        "nan": lambda: value * torch.nan,
        "+inf": lambda: value + torch.inf,
        "-inf": lambda: value - torch.inf,
        "nan, finite gradient": lambda: value + torch.nan,
        "nan gradient": lambda: spoilt_gradient(value, torch.nan),
        "inf gradient": lambda: spoilt_gradient(value, torch.inf),
    }[kind]()
    return Loss({name: changed, **dict(others)}, loss.metrics)


def spoilt_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, whose gradient is multiplied by a factor."""
    copied = value * 1.0
    copied.register_hook(lambda grad: grad * factor)
    return copied


def in_loss(kind: str, at: Callable[[int], bool]) -> Fault:
    """A fault in the loss of the steps for which `at` is true."""

    @contextlib.contextmanager
    def fault(clock: Clock) -> Iterator[None]:
        run_parts = loop._run_parts

        def faulty(policy: Any, algorithm: Algorithm, *args: Any) -> Any:
            if not at(clock.step):
                return run_parts(policy, algorithm, *args)
            real = type(algorithm).loss

            def loss(self: Algorithm, batch: Batch, outputs: Outputs) -> Loss:
                return spoil_term(kind, real(self, batch, outputs))

            with mock.patch.object(type(algorithm), "loss", loss):
                return run_parts(policy, algorithm, *args)

        with mock.patch.object(loop, "_run_parts", faulty):
            yield

    return fault


def infinite_weight(after: int) -> Fault:
    """A weight becomes infinite in the optimizer step number `after`, whose gradient was finite."""

    @contextlib.contextmanager
    def fault(clock: Clock) -> Iterator[None]:
        real = torch.optim.AdamW.step

        def step(self: torch.optim.AdamW, *args: Any) -> Any:
            result = real(self, *args)
            if clock.step == after:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].view(-1)[3] = torch.inf
            return result

        with mock.patch.object(torch.optim.AdamW, "step", step):
            yield

    return fault


@contextlib.contextmanager
def bad_logps(clock: Clock) -> Iterator[None]:
    """A sampler that gives infinite or NaN log-probs to the first token of every third completion."""
    sample = LocalSampler.sample
    values = (float("nan"), float("inf"), float("-inf"))

    def faulty(self: LocalSampler, *args: Any, **settings: Any) -> Any:
        groups, count = sample(self, *args, **settings), 0
        for group in groups:
            for number, completion in enumerate(group):
                count += 1
                if count % 3 == 0:
                    bad = (values[count // 3 % 3], *completion.logps[1:])
                    group[number] = type(completion)(completion.ids, bad, completion.finish_reason)
        return groups

    with mock.patch.object(LocalSampler, "sample", faulty):
        yield


@contextlib.contextmanager
def bad_state(clock: Clock) -> Iterator[None]:
    """An algorithm whose state has become NaN after its second rollout."""
    new_rollout = source.RolloutSource._new_rollout

    def faulty(self: source.RolloutSource) -> Any:
        real = type(self.algorithm).credit

        def credit(algorithm: Algorithm, rollout: Batch, state: Any) -> Any:
            credited, updated = real(algorithm, rollout, state)
            return credited, dict.fromkeys(updated, float("nan")) if self.rollouts == 1 else updated

        with mock.patch.object(type(self.algorithm), "credit", credit):
            return new_rollout(self)

    with mock.patch.object(source.RolloutSource, "_new_rollout", faulty):
        yield


def raising(owner: Any, name: str, too_large: Callable[[Clock, tuple[Any, ...]], bool]) -> Any:
    """A fault: a method raises the CPU allocator's error whenever its arguments are too large."""

    @contextlib.contextmanager
    def fault(clock: Clock) -> Iterator[None]:
        real = getattr(owner, name)

        def faulty(*args: Any, **settings: Any) -> Any:
            if too_large(clock, args):
                raise RuntimeError(NO_MEMORY)
            return real(*args, **settings)

        with mock.patch.object(owner, name, faulty):
            yield

    return fault


OUT_OF_MEMORY: dict[str, Any] = {
    "no memory: forward, step 3 on": raising(PartRunner, "_pick", lambda c, a: c.step >= 3 and len(a[2].rows) > 2),
    "no memory: from the start": raising(PartRunner, "_pick", lambda c, a: len(a[2].rows) > 2),
}
IN_SAMPLER: dict[str, Any] = {
    "no memory: decode": raising(LocalSampler, "_decode", lambda c, a: len(a[1]) > 3),
    "no memory: prefill": raising(LocalSampler, "_prefill", lambda c, a: len(a[1]) > 1),
}


def apart(one: Stage, other: Stage) -> float:
    """The largest difference between the weights of two stages."""
    pairs = zip(one.policy.parameters, other.policy.parameters, strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def finite(seen: Seen) -> bool:
    """Whether weights, moving reference, optimizer state and algorithm state are finite."""
    stage = seen.trained
    tensors = [*stage.policy.parameters, *stage.policy.moving_reference().values()]
    tensors += [v for state in stage.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    state = getattr(stage.source, "state", {})
    return all(bool(tensor.isfinite().all()) for tensor in tensors) and source.is_finite(state)


def judge_numbers(name: str, work: Path) -> Iterator[tuple[str, str, Seen, list[str]]]:
    """Trains with each fault of the numbers; yields the fault, what is expected, what was seen, and what is wrong."""
    kinds = ("nan", "+inf", "-inf", "nan, finite gradient", "nan gradient", "inf gradient")
    expected = {f"{kind}, step 5": (in_loss(kind, lambda s: s == 5), [5], 0, "") for kind in kinds}
    second = "every second step"
    cases: dict[str, tuple[Any, list[int], int, str]] = expected | {
        "nan, steps 7 to 9": (in_loss("nan", lambda s: 7 <= s <= 9), [7, 8, 9], 1, ""),
        f"nan, {second}": (in_loss("nan", lambda s: s % 2 == 0), [2, 4, 6, 8, 10, 12], 1, "second time"),
        f"nan gradient, {second}": (in_loss("nan gradient", lambda s: s % 2 == 0), [2, 4, 6, 8, 10, 12], 1, "second"),
        "nan, from step 5": (in_loss("nan", lambda s: s >= 5), [5, 6, 7, 8, 9, 10], 1, "second time"),
        "nan, from step 1": (in_loss("nan", lambda s: True), [1, 2, 3], 0, "3 consecutive steps"),
        NO_CHECKPOINT: (in_loss("nan", lambda s: s >= 5), [5, 6, 7], 0, "3 consecutive steps"),
    }
    for label, (fault, skipped, rollbacks, error) in cases.items():
        seen = run(work, name, fault, **({"save_steps": 100} if label == NO_CHECKPOINT else {}))
        found = [number for number, stepped in enumerate(seen.stepped, 1) if not stepped]
        wrong = [] if found == skipped else [f"skipped {found}, not {skipped}"]
        if seen.trained.skipped.total != len(skipped):
            wrong.append(f"counted {seen.trained.skipped.total}")
        if seen.trained.skipped.rollbacks != rollbacks:
            wrong.append(f"{seen.trained.skipped.rollbacks} rollbacks")
        if (error in seen.error) is False or bool(error) != bool(seen.error):
            wrong.append(f"error: {seen.error or 'none'}")
        if f"step {skipped[0]} is skipped" not in seen.printed or (rollbacks and "went back to" not in seen.printed):
            wrong.append("silent")
        yield label, f"{len(skipped)} skipped, {rollbacks} rollbacks{', stops' * bool(error)}", seen, wrong


def judge_weights(name: str, work: Path) -> Iterator[tuple[str, str, Seen, list[str]]]:
    """Trains with a weight that becomes infinite: in the middle of a rollout, at its end, and in the last step."""
    for after in (5, 6, STEPS):
        seen = run(work, name, infinite_weight(after))
        wrong = [seen.error] * bool(seen.error) + ["silent"] * ("went back to the weights" not in seen.printed)
        wrong += [f"{seen.trained.skipped.rollbacks} rollbacks"] * (seen.trained.skipped.rollbacks != 1)
        yield f"infinite weight after step {after}", "1 rollback, goes on", seen, wrong


def judge_memory(name: str, work: Path) -> Iterator[tuple[str, str, Seen, list[str]]]:
    """Trains with too little memory; the weights must be those of a run that had the lower budget, or all memory."""
    clean = run(work, name, nothing)
    faults = OUT_OF_MEMORY | (IN_SAMPLER if "rollout" in STAGES[name] else {})
    for label, fault in faults.items():
        seen = run(work, name, fault)
        difference = apart(seen.trained, clean.trained)
        # Decoding fewer rows at once changes the last bits of old log-probs, which add up over the steps.
        limit = 1e-4 if label in IN_SAMPLER else 1e-5
        wrong = [] if difference <= limit else [f"weights differ by {difference:.1e}"]
        wrong += ["other completions"] * (seen.completions != clean.completions)
        wrong += ["silent"] * ("out of memory: " not in seen.printed) + [seen.error] * bool(seen.error)
        wrong += ["steps were skipped"] * (not all(seen.stepped))
        yield label, f"equal weights ({difference:.0e})", seen, wrong
    everywhere = run(work, name, raising(PartRunner, "_pick", lambda c, a: c.step >= 3))
    everywhere_wrong = [] if "out of memory with the smallest `token_budget`" in everywhere.error else ["no two lines"]
    yield "no memory at all, step 3 on", "stops", everywhere, everywhere_wrong
    optimizer = run(work, name, raising(torch.optim.AdamW, "step", lambda c, a: True))
    wrong = [] if "the state of the optimizer" in optimizer.error else [f"error: {optimizer.error or 'none'}"]
    yield "no memory: optimizer state", "stops", optimizer, wrong
    if "rollout" in STAGES[name]:
        sampler = run(work, name, raising(LocalSampler, "_decode", lambda c, a: c.step >= 4))
        wrong = [] if "while sampling one completion" in sampler.error else [f"error: {sampler.error or 'none'}"]
        yield "no memory: one row to sample", "stops", sampler, wrong


def judge_rollout(name: str, work: Path) -> Iterator[tuple[str, str, Seen, list[str]]]:
    """Trains with log-probs of the sampler, or with a state of the algorithm, that are not finite."""
    clean = run(work, name, nothing)
    seen = run(work, name, bad_logps)
    difference = apart(seen.trained, clean.trained)
    wrong = ["steps were skipped"] * (not all(seen.stepped)) + [seen.error] * bool(seen.error)
    wrong += [f"weights differ by {difference:.1e}"] * (difference > 1e-5)
    yield "nan and inf log-probs of the sampler", f"as recomputed ({difference:.0e})", seen, wrong
    if name == "ppo":
        spoilt = run(work, name, bad_state)
        yield "nan state of the algorithm", "state is kept", spoilt, [spoilt.error] * bool(spoilt.error)


def one_rank(rank: int, port: int, work: str, names: list[str], results: str) -> None:
    """Two ranks train every algorithm; the loss of rank 1 is NaN in step 2, and its memory runs out in step 3."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    with init_ranks() as ranks:
        for name in names:
            clock = Clock()
            bad = in_loss("nan", lambda step: step == 2 and rank == 1)
            short = raising(PartRunner, "_pick", lambda c, a: rank == 1 and c.step >= 3 and len(a[2].rows) > 2)
            stage = {"name": name, "algorithm": name, "max_steps": 4, "learning_rate": 1e-3, **STAGES[name]}
            if "rollout" in stage:
                stage["rollout"] = {**stage["rollout"], "batch_size": 16}
            raw = {"name": "chaos", "model": "tiny:llama", "stages": [stage]}
            config = resolve(parse_config(raw, source="chaos", base=Path(work)), "tiny")
            built = training.build_stage(
                stage_settings(config.stages[0], config, algorithm_of(config.stages[0], Path(work))),
                start="tiny:llama",
                reference=None,
                critic="tiny:llama" if "critic" in STAGES[name] else None,
                ranks=ranks,
            )
            digests = []
            with mock.patch.object(loop, "step_denominators", clock), bad(clock), short(clock):
                for step in built:
                    digests.append([step.stepped, digest(built), built.policy.budget])
            told[name] = digests
    Path(results, f"{rank}.json").write_text(json.dumps(told))


def judge_ranks(names: list[str], work: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Faults on one of two ranks: both decide alike, and a skipped step changes no rank's weights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(one_rank, (port, str(work), names, str(work)), nprocs=2)
    first, second = (json.loads((work / f"{rank}.json").read_text()) for rank in range(2))
    for name in names:
        stepped, digests, budgets = zip(*first[name], strict=True)
        wrong = [] if first[name] == second[name] else ["the ranks differ"]
        wrong += [] if list(stepped) == [True, False, True, True] else [f"stepped: {stepped}"]
        wrong += [] if digests[1] == digests[0] != digests[2] else ["step 2 changed the weights"]
        wrong += [] if budgets[3] < budgets[0] else ["the budget was not lowered"]
        yield name, "rank 1 of 2: nan, then no memory", "both skip, both retry", wrong


def main(names: list[str]) -> int:
    """Runs all faults; returns the exit code."""
    torch.set_num_threads(1)
    disable_progress_bar()
    failed = trials = 0
    print(f"| {'algorithm':12} | {'fault':36} | {'expected and found':32} | s | wrong |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        write_rows(work)
        for name in names:
            for judge in (
                judge_numbers,
                judge_weights,
                judge_memory,
                *([judge_rollout] if "rollout" in STAGES[name] else []),
            ):
                for label, expected, seen, problems in judge(name, work):
                    wrong = problems + ["not finite"] * (not finite(seen))
                    wrong += ["a skipped step changed weights or optimizer"] * bool(seen.changed)
                    failed, trials = failed + bool(wrong), trials + 1
                    told = "; ".join(wrong).replace("\n", " / ")
                    print(f"| {name:12} | {label:36} | {expected:32} | {seen.seconds:.1f} | {told} |", flush=True)
        for name, label, expected, wrong in judge_ranks(names, work):
            failed, trials = failed + bool(wrong), trials + 1
            print(f"| {name:12} | {label:36} | {expected:32} | | {'; '.join(wrong)} |", flush=True)
    print(f"\n{trials - failed} of {trials} as expected")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(STAGES)))

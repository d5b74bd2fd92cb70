"""Whether several trials are trained as one stack or one after the other, decided once.

The two ways give different last bits, so a stopwatch may not choose anew when trials go on: the
decision is written down before the first step and read afterwards.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trainer import device as devices
from trainer import kernels
from trainer.config import RunOptions, TrainConfig
from trainer.durable import write_atomically
from trainer.loop import Training
from trainer.members import choose_kernels, run_members, stack_name
from trainer.memory import keep_freed_memory
from trainer.probe import now, random_batches
from trainer.result import Progress, RunResult
from trainer.run import run_trial
from trainer.stack import Member, Stack, why_not

LEAST_GAIN = 1.1
"""Speed over training alone from which a stack pays: less is within the noise of a measurement."""

_LEAST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """How some trials are trained, and why."""

    stack: str
    """Name of the stack (`trainer.members.stack_name`): the decision is about these trials."""
    together: bool
    """Whether they are trained as one stack."""
    reason: str
    """The measured gain, or the rule that forbids a stack."""


def gain(
    configs: Sequence[TrainConfig], *, device: str = "cpu", threads: int = 1, seconds: float = 1.0
) -> float:
    """Speed of a stack over its members trained one after the other, by a short measurement.

    Both take turns on random tokens, so that other work on the machine slows both. Time is that
    of this process's CPU; on a GPU, of the clock.

    Args:
        configs: what would be trained; data and numbers of steps do not matter.
        device: `cpu`, `cuda` or `auto`.
        threads: CPU threads.
        seconds: about how long to measure; at least three turns are taken.

    Returns:
        Time of a step of each member alone over time of a step of the stack, median of the turns.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    where = devices.pick(device)
    first = configs[0]
    alone = kernels.choose(where, d_model=first.shape.d_model)
    stacked = choose_kernels(first, where)
    batches = random_batches(first)
    single = Training(first, batches, device=where, backend=alone.attention)
    members = [Member(c, batches, device=where, backend=stacked.attention) for c in configs]
    stack = Stack(members, backend=stacked.attention)

    def turn(chosen: kernels.Kernels, step: Callable[[], None]) -> float:
        kernels.use(chosen)
        started = now(where)
        step()
        return now(where) - started

    ratios: list[float] = []
    began = time.perf_counter()
    # The first turn pays for what is allocated and compiled once.
    while len(ratios) <= _LEAST_ROUNDS or time.perf_counter() - began < seconds:
        together = turn(stacked, stack.advance)
        each = statistics.median(turn(alone, single.advance) for _ in range(3))
        ratios.append(each * len(configs) / together)
    return statistics.median(ratios[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a stack of some trials would bring on this machine."""

    gain: float | None
    """Measured speed over training them one after the other; None where no stack can be made."""
    reason: str
    """The gain in words, or the rule that forbids a stack."""


def judge(
    configs: Sequence[TrainConfig], *, device: str, threads: int, seconds: float = 1.0
) -> Judgement:
    """Whether a stack of some trials can be made, and what it gains here.

    Arguments are those of `gain`.
    """
    reason = why_not(configs) if len(configs) > 1 else "a single trial"
    if reason is not None:
        return Judgement(gain=None, reason=reason)
    found = gain(configs, device=device, threads=threads, seconds=seconds)
    return Judgement(gain=found, reason=f"{found:.2f} times as fast as alone")


def decide(configs: Sequence[TrainConfig], options: RunOptions, record: Path) -> Decision:
    """Whether to stack these trials: what the record says, or a measurement that is recorded.

    Args:
        configs: what is to be trained.
        options: where and how.
        record: file of the decision; written when there is none about these trials.
    """
    name = stack_name(configs)
    if record.exists() and (there := Decision(**json.loads(record.read_text()))).stack == name:
        return there
    if options.prefix_dir is not None:
        found = Judgement(gain=None, reason="prefixes are shared with other runs")
    elif options.evaluate_every_steps:
        reason = "validation curves are drawn of trials trained alone"
        found = Judgement(gain=None, reason=reason)
    else:
        found = judge(configs, device=options.device, threads=options.threads)
    together = found.gain is not None and found.gain >= LEAST_GAIN
    decision = Decision(stack=name, together=together, reason=found.reason)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(record, json.dumps(asdict(decision), indent=2).encode())
    return decision


def run_all(
    configs: Sequence[TrainConfig],
    options: RunOptions,
    out_dirs: Sequence[Path],
    record: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[RunResult]:
    """Train trials as one stack where that pays, else one after the other.

    Arguments, results and errors are those of `run_members`; `record` is that of `decide`.
    """
    if decide(configs, options, record).together:
        return run_members(
            configs, options, out_dirs, on_progress=on_progress, should_stop=should_stop
        )
    return [
        run_trial(config, options, out, on_progress=on_progress, should_stop=should_stop)
        for config, out in zip(configs, out_dirs, strict=True)
    ]

"""What a sweep wants to know before it spends: is the architecture sound, and what pays here.

A process of its own, because whoever plans and watches a sweep never loads torch:
`python -m trainer.preflight` reads a `Request` as JSON from stdin and writes a `Reply` to stdout.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trainer import kernels
from trainer.batches import TokenBatches
from trainer.config import Precision, TrainConfig
from trainer.data.shards import TokenData
from trainer.diagnose import Check, diagnose
from trainer.memory import keep_freed_memory
from trainer.observations import batch_text
from trainer.probe import Choice, compare, measure
from trainer.stacking import Judgement, judge

MEASURED_TOKENS = 4096
"""Most tokens of a measured step: enough to see what pays, few enough to take no time."""

ROUNDS = 2
"""Times that each arithmetic is measured, in turn, so that a busy moment hits all alike."""

SHOWN_SEQUENCES = 2
"""Sequences of the first batch that are written out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to look into."""

    what: Literal["architecture", "precision", "kernels", "stacks"]
    """`architecture`: the checks of `trainer.diagnose`. `precision`: seconds a step in each.
    `kernels`: which implementations pay for some shapes. `stacks`: what training some trials
    together would gain."""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """A `TrainConfig` as plain values; for `architecture` and `precision`."""
    configs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Runs of the shapes asked about, as `config`; for `kernels`."""
    stacks: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)
    """Of each stack its members, as `config`; for `stacks`."""
    data_dir: str = ""
    """Folder of the token files; for `architecture`."""
    device: str = "cpu"
    """`cpu` or `cuda`; not for `architecture`."""
    threads: int = 1
    """CPU threads, as the trials will have."""
    allowed_flops: float = float("inf")
    """Most that learning by heart may cost, FLOPs; for `architecture`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What was found."""

    checks: tuple[Check, ...] = ()
    """Outcome of each check."""
    first_batch: str = ""
    """First inputs and targets as text."""
    seconds_per_step: dict[str, float] = dataclasses.field(default_factory=dict)
    """Median time of a training step by arithmetic."""
    choices: tuple[Choice, ...] = ()
    """The kernels of each shape."""
    stacks: tuple[Judgement, ...] = ()
    """What each stack would gain."""
    seconds: float = 0.0
    """How long it took."""


def answer(request: Request) -> Reply:
    """Do what a request asks for.

    Raises:
        ValueError: when the configuration does not fit the data or itself.
    """
    started = time.monotonic()
    torch.set_num_threads(request.threads)
    keep_freed_memory()
    if request.what == "architecture":
        reply = _architecture(TrainConfig.from_dict(request.config), request)
    elif request.what == "precision":
        config = TrainConfig.from_dict(request.config)
        reply = Reply(seconds_per_step=_speeds(config, request))
    elif request.what == "kernels":
        reply = Reply(choices=_choices(request))
    else:
        reply = Reply(stacks=_judged(request))
    return dataclasses.replace(reply, seconds=time.monotonic() - started)


def _architecture(config: TrainConfig, request: Request) -> Reply:
    data = TokenData.open(Path(request.data_dir))
    kernels.use(kernels.choose(torch.device("cpu"), d_model=config.shape.d_model))
    batches = TokenBatches(
        data.train,
        context=config.shape.context,
        batch_sequences=min(config.batch_sequences, SHOWN_SEQUENCES),
        seed=config.seed,
    )
    return Reply(
        checks=diagnose(config, data.train, allowed_flops=request.allowed_flops),
        first_batch=batch_text(batches.at(0), data),
    )


def _speeds(config: TrainConfig, request: Request) -> dict[str, float]:
    """Seconds a step in fp32 and in bf16; nothing where the device has no bf16 of its own."""
    if not kernels.has_bf16(torch.device(request.device)):
        return {}
    sequences = max(1, min(config.batch_sequences, MEASURED_TOKENS // config.shape.context))
    config = dataclasses.replace(config, batch_sequences=sequences)
    names: tuple[Precision, ...] = ("fp32", "bf16")
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            speed = measure(
                dataclasses.replace(config, precision=name),
                device=request.device,
                threads=request.threads,
                seconds=0.2,
            )
            found[name].append(speed.seconds_per_step)
    return {name: statistics.median(times) for name, times in found.items()}


def _choices(request: Request) -> tuple[Choice, ...]:
    """The kernels of each shape asked about, in about a second each."""
    return tuple(
        compare(TrainConfig.from_dict(config), device=request.device, threads=request.threads)
        for config in request.configs
    )


def _judged(request: Request) -> tuple[Judgement, ...]:
    """What each stack would gain, in less than a second each where its steps are short."""
    return tuple(
        judge(
            [TrainConfig.from_dict(config) for config in stack],
            device=request.device,
            threads=request.threads,
            seconds=0.5,
        )
        for stack in request.stacks
    )


def main() -> int:
    """Answer the request on stdin."""
    reply = answer(Request(**json.load(sys.stdin)))
    sys.stdout.write(json.dumps(dataclasses.asdict(reply)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

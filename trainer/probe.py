"""How fast a shape trains on this machine, from a few real steps."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from trainer import kernels
from trainer.batches import TokenBatches
from trainer.config import ScheduleConfig, TrainConfig
from trainer.flops import training_flops_per_token
from trainer.loop import Training
from trainer.memory import keep_freed_memory

_WARM_STEPS = 3
_LEAST_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Throughput of one shape on one device."""

    seconds_per_step: float
    """Median time of an optimiser step."""
    tokens_per_s: float
    """Training tokens per second."""
    flops_per_s: float
    """Exact training FLOPs per second (full score matrix)."""
    steps: int
    """Steps measured."""


def measure(
    config: TrainConfig, *, device: str = "cpu", threads: int = 1, seconds: float = 2.0
) -> Speed:
    """Train a run's model on random tokens for a moment.

    Args:
        config: the run; its data and number of steps do not matter.
        device: `cpu` or `cuda`.
        threads: CPU threads, as the runs will have.
        seconds: how long to measure, after a few steps to warm up.

    Returns:
        The speed; at least five steps are measured however long they take.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    where = torch.device(device)
    chosen = kernels.choose(where, d_model=config.shape.d_model)
    kernels.use(chosen)
    config = dataclasses.replace(config, steps=2**31, schedule=ScheduleConfig(name="wsd"))
    size = 64 * config.batch_tokens + 1
    vocabulary = config.shape.vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, size, dtype=np.uint32)
    batches = TokenBatches(
        tokens,
        context=config.shape.context,
        batch_sequences=config.batch_sequences,
        seed=config.seed,
    )
    training = Training(config, batches, device=where, backend=chosen.attention)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _WARM_STEPS + _LEAST_STEPS or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        training.advance()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        times.append(time.perf_counter() - before)
    step = statistics.median(times[_WARM_STEPS:])
    flops = training_flops_per_token(config.shape).total * config.batch_tokens
    return Speed(
        seconds_per_step=step,
        tokens_per_s=config.batch_tokens / step,
        flops_per_s=flops / step,
        steps=len(times) - _WARM_STEPS,
    )

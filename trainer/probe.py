"""How fast a shape trains on this machine, and with which kernels, from a few real steps."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer import kernels
from trainer.batches import TokenBatches
from trainer.config import Kernels, Products, ScheduleConfig, TrainConfig
from trainer.flops import training_flops_per_token
from trainer.loop import Training
from trainer.memory import keep_freed_memory
from trainer.model.loss import chunk_rows
from trainer.shapes import ModelShape

LEAST_GAIN = 1.1
"""Speed over the rule's choice from which another one is taken: less is within the noise."""

_WARM_STEPS = 3
_LEAST_STEPS = 5
_LEAST_ROUNDS = 3
_STEP_FLOPS = 5e9
"""Most FLOPs of a step in a comparison: a tenth of a second on a core, enough to see what pays."""
_TURN_S = 0.02
"""Least duration of a turn in a comparison."""


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
    config = _endless(config)
    batches = random_batches(config)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The kernels of a shape on this machine, and what was measured."""

    kernels: Kernels
    """The rule's, but for what is faster by `LEAST_GAIN`."""
    gains: dict[str, float]
    """Speed with each alternative over that with the rule's choice."""


def compare(
    config: TrainConfig, *, device: str = "cpu", threads: int = 1, seconds: float = 1.0
) -> Choice:
    """Hold the rule's kernels against their alternatives, in turns, on random tokens.

    Each differs from the rule's in one part; of several alternatives of a part the fastest counts.
    Time is that of this process's CPU; on a GPU, of the clock.

    Args:
        config: the run; its data do not matter.
        device: `cpu` or `cuda`.
        threads: CPU threads, as the runs will have.
        seconds: about how long; at least three turns of each are taken.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    where = torch.device(device)
    rule = kernels.choose(where, d_model=config.shape.d_model)
    per_sequence = training_flops_per_token(config.shape).total * config.shape.context
    fitting = max(1, min(config.batch_sequences, int(_STEP_FLOPS / per_sequence)))
    small = dataclasses.replace(_endless(config), batch_sequences=fitting)
    batches = random_batches(small)
    named = {"rule": rule, **alternatives(rule, small, where)}
    runners = {
        name: Training(small, batches, device=where, backend=k.attention, compiled=k.compiled)
        for name, k in named.items()
    }
    first: dict[str, float] = {}
    for name, training in runners.items():
        first[name] = _turn(training, named[name], where, steps=1)
    once = max(1e-6, min(_turn(runners["rule"], rule, where, steps=1) for _ in range(3)))
    steps = max(1, min(20, round(_TURN_S / once)))
    ratios: dict[str, list[float]] = {name: [] for name in named if name != "rule"}
    began, rounds = time.perf_counter(), 0
    while ratios and (rounds < _LEAST_ROUNDS or time.perf_counter() - began < seconds):
        with_rule = _turn(runners["rule"], rule, where, steps=steps)
        for name, found in ratios.items():
            found.append(with_rule / _turn(runners[name], named[name], where, steps=steps))
        rounds += 1
    gains = {name: statistics.median(found) for name, found in ratios.items()}
    if "compiled" in gains and not _compilation_pays(
        gains["compiled"], once * config.steps, first["compiled"]
    ):
        del named["compiled"]
    chosen = rule
    for name in sorted(ratios.keys() & named.keys(), key=lambda name: gains[name]):
        if gains[name] >= LEAST_GAIN:
            # Ascending, so that the fastest alternative of a part is the last one written.
            chosen = dataclasses.replace(chosen, **_difference(rule, named[name]))
    return Choice(kernels=chosen, gains=gains)


def alternatives(rule: Kernels, config: TrainConfig, device: torch.device) -> dict[str, Kernels]:
    """What may be faster than the rule's choice for a run, by name; exact in fp32 all of them.

    On a CPU compilation is none: it takes 30 to 90 s a shape and brings 0 to 14 % a step, so that
    only runs of many thousand steps would win by it.
    """
    found: dict[str, Kernels] = {}
    shape = config.shape
    if device.type == "cuda":
        # Noise and the counts of routed tokens live outside of a graph.
        if isinstance(shape, ModelShape) and shape.experts is None and config.dropout == 0:
            found["compiled"] = dataclasses.replace(rule, compiled=True)
        return found
    if isinstance(shape, ModelShape):
        for rows in (rule.attention_rows // 2, rule.attention_rows * 2):
            if rows < 2 * shape.context:
                found[f"attention in blocks of {rows}"] = dataclasses.replace(
                    rule, attention_rows=rows
                )
        found["attention sdpa"] = dataclasses.replace(rule, attention="sdpa")
    if config.precision == "fp32" and kernels.onednn_is_lossless():
        other: Products = "mkl" if rule.products == "onednn" else "onednn"
        found[f"products {other}"] = dataclasses.replace(rule, products=other)
    rows = chunk_rows(shape.vocab_size, device_type="cpu")
    for scale in (0.25, 4.0):
        if scale < 1 or rows < config.batch_tokens:
            found[f"head x {scale:g}"] = dataclasses.replace(rule, head_chunk=scale)
    return found


def random_batches(config: TrainConfig) -> TokenBatches:
    """Batches of random tokens, for measurements."""
    size = 64 * config.batch_tokens + 1
    tokens = np.random.default_rng(0).integers(0, config.shape.vocab_size, size, dtype=np.uint32)
    return TokenBatches(
        tokens,
        context=config.shape.context,
        batch_sequences=config.batch_sequences,
        seed=config.seed,
    )


def now(device: torch.device) -> float:
    """Time that a measurement counts: of this process's CPU, or the clock once a GPU is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _endless(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, steps=2**31, schedule=ScheduleConfig(name="wsd"))


def _turn(training: Training, chosen: Kernels, device: torch.device, *, steps: int) -> float:
    """Seconds of a step with some kernels."""
    kernels.use(chosen)
    started = now(device)
    for _ in range(steps):
        training.advance()
    return (now(device) - started) / steps


def _compilation_pays(gain: float, run_s: float, compile_s: float) -> bool:
    """Whether a run saves at least twice what its compilation takes."""
    return run_s * (1.0 - 1.0 / gain) >= 2.0 * compile_s


def _difference(rule: Kernels, other: Kernels) -> dict[str, Any]:
    return {
        field.name: getattr(other, field.name)
        for field in dataclasses.fields(Kernels)
        if getattr(other, field.name) != getattr(rule, field.name)
    }

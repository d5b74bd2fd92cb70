"""Several trials on one machine, and what a trial does besides its steps; part of bench_trainer.

Side by side: two trials with one thread each against one with two, in turns, wall clock.
Members: K models of one shape as one stack against one after the other, in turns, CPU time.
Beside the steps: the parts of real trials, wall clock.
GPU: model FLOPs utilisation, and tokens/s of trials that share one GPU; where there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer import execution, kernels
from trainer.batches import TokenBatches
from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource
from trainer.flops import training_flops_per_token
from trainer.loop import Training
from trainer.model.loss import head_loss
from trainer.model.transformer import Transformer
from trainer.optim import Optimizer
from trainer.run import run_trial
from trainer.shapes import ModelShape, preset
from trainer.stacking import gain

SIDE_BY_SIDE_TARGET = 1.15
"""Two one-thread trials over one two-thread trial."""
MEMBERS_TARGETS = {("d 16", 8): 1.3, ("d 16", 32): 2.0}
"""Stack over one after the other, where a step is overhead-bound."""
BESIDE_TARGET = 0.03
"""Loss, checkpoint and logging, share of a step."""
WAIT_TARGET = 0.01
"""Waiting for tokens, share of a step."""

ROOT = Path(__file__).resolve().parents[2]
MEMBER_SHAPES = {
    "d 16": (preset("gpt", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=64), 4),
    "d 32": (preset("gpt", d_model=32, n_layer=2, n_head=2, vocab_size=256, context=64), 8),
    "d 64": (preset("gpt", d_model=64, n_layer=3, n_head=2, vocab_size=256, context=128), 8),
}
"""Shape and sequences of a step."""


def config(shape: ModelShape, *, batch: int, steps: int, digest: str, seed: int = 0) -> TrainConfig:
    """A trial of a bench; fp32, so that it can be stacked."""
    return TrainConfig(
        shape=shape,
        data_digest=digest,
        steps=steps,
        batch_sequences=batch,
        validation_tokens=16 * shape.context,
        seed=seed,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(name="cosine"),
    )


# --- side by side


class Child:
    """A process that trains a case whenever it is told to, and says at what rate."""

    def __init__(self, script: str, name: str, *, threads: int, device: str = "cpu") -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, "--child", name, str(threads), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
        )
        self.answer()

    def ask(self, seconds: float) -> None:
        """Let it train for some seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def answer(self) -> float:
        """Tokens per second of its last turn; 0 when it has just warmed up."""
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """Let it finish."""
        self._process.communicate()


def serve(step: object, tokens: int) -> None:
    """The child's side: warm up, then train for the seconds of each line on stdin."""
    assert callable(step)
    for _ in range(3):
        step()
    synchronise()
    print(0.0, flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        started, count = time.perf_counter(), 0
        while time.perf_counter() < end:
            step()
            count += 1
        synchronise()
        print(count * tokens / (time.perf_counter() - started), flush=True)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(script: str, name: str, *, rounds: int, seconds: float) -> dict:
    """Rates of two one-thread trials together and of one two-thread trial, in turns."""
    ones = [Child(script, name, threads=1) for _ in range(2)]
    two = Child(script, name, threads=2)
    pairs = []
    for _ in range(rounds):
        for child in ones:
            child.ask(seconds)
        together = sum(child.answer() for child in ones)
        two.ask(seconds)
        pairs.append((together, two.answer()))
    for child in (*ones, two):
        child.end()
    return {
        "shape": name,
        "two processes": statistics.median(p for p, _ in pairs),
        "two threads": statistics.median(t for _, t in pairs),
        "ratio": statistics.median(p / t for p, t in pairs),
    }


# --- members


def members(*, counts: tuple[int, ...], seconds: float) -> list[dict]:
    """Gain of a stack of K members over training them one after the other."""
    rows = []
    for name, (shape, batch) in MEMBER_SHAPES.items():
        for count in counts:
            configs = [
                config(shape, batch=batch, steps=1000, digest="", seed=seed)
                for seed in range(count)
            ]
            rows.append({"shape": name, "members": count, "gain": gain(configs, seconds=seconds)})
    return rows


# --- beside the steps


@contextlib.contextmanager
def timed(owner: type, name: str, found: dict[str, float]) -> Iterator[None]:
    """Add up the seconds spent in a method, and how often it was called."""
    method = getattr(owner, name)
    label = f"{owner.__name__}.{name}"
    found[label] = found[f"{label} calls"] = 0.0

    def wrapped(*args: object, **named: object) -> object:
        started = time.perf_counter()
        try:
            return method(*args, **named)
        finally:
            found[label] += time.perf_counter() - started
            found[f"{label} calls"] += 1

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, method)


def beside_the_steps(*, quick: bool) -> list[dict]:
    """Shares of a trial's training time that are not the step itself.

    `logging` is everything after the update: losses brought to Python, the logged point, the
    bill, the progress. `checkpoint` is what one costs over the seconds between two. `cross
    entropy` is the loss's own arithmetic without the products of the head: softmax, logarithms,
    gather, and the gradient of the logits. `waiting` is the time until the tokens are there.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = DataSource(corpus="synthetic:addition?lines=20000", validation_fraction=0.1)
        data_dir = prepare(source, cache_root=Path(folder) / "data")
        digest = TokenData.open(data_dir).manifest.digest
        shapes = {
            "d 16": (*MEMBER_SHAPES["d 16"], 500 if quick else 4000),
            "(a)": (
                preset("gpt", d_model=64, n_layer=4, n_head=4, vocab_size=256, context=256),
                16,
                20 if quick else 200,
            ),
        }
        rows = []
        for name, (shape, batch, steps) in shapes.items():
            options = RunOptions(data_dir=data_dir, device="cpu", samples=False)
            # As dense in time as in a run of 4,000 steps.
            options = dataclasses.replace(options, log_points=max(1, 200 * steps // 4000))
            run = config(shape, batch=batch, steps=steps, digest=digest)
            rows.append(one_trial(name, run, options, Path(folder) / name))
    return rows


def one_trial(name: str, run: TrainConfig, options: RunOptions, out: Path) -> dict:
    """The parts of one real trial."""
    found: dict[str, float] = {}
    with contextlib.ExitStack() as watch:
        for owner, method in (
            (Training, "advance"),
            (TokenBatches, "at"),
            (execution.Execution, "count_step"),
            (execution.Execution, "save"),
        ):
            watch.enter_context(timed(owner, method, found))
        run_trial(run, options, out)
    steps, logging = found["Training.advance"], found["Execution.count_step"]
    saving = found["Execution.save"] / found["Execution.save calls"] / options.checkpoint_every_s
    entropy = cross_entropy_seconds(run) * run.steps / steps
    return {
        "shape": name,
        "steps": run.steps,
        "ms a step": 1e3 * steps / run.steps,
        "logging": logging / (steps + logging),
        "checkpoint": saving,
        "cross entropy": entropy,
        "waiting": found["TokenBatches.at"] / steps,
    }


def cross_entropy_seconds(run: TrainConfig) -> float:
    """Seconds of a step's loss without the head's products: the whole less the products."""
    rows, shape = run.batch_tokens, run.shape
    assert isinstance(shape, ModelShape)
    hidden = torch.randn(rows, shape.d_model, requires_grad=True)
    weight = torch.randn(shape.vocab_size, shape.d_model, requires_grad=True)
    targets = torch.randint(0, shape.vocab_size, (rows,))
    grad = torch.randn(rows, shape.vocab_size)

    def whole() -> None:
        head_loss(hidden, weight, None, targets).backward()

    def products() -> None:
        with torch.no_grad():
            _ = hidden @ weight.t(), grad @ weight, grad.t() @ hidden

    kernels.use(kernels.choose(torch.device("cpu"), d_model=shape.d_model))
    differences = []
    for _ in range(30):
        times = []
        for work in (whole, products):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        differences.append(times[0] - times[1])
    return max(0.0, statistics.median(differences))


# --- GPU

GPU_SHAPES = {
    "10M": (preset("gpt", d_model=256, n_layer=8, n_head=4, vocab_size=16_384, context=1024), 32),
    "50M": (preset("gpt", d_model=512, n_layer=8, n_head=8, vocab_size=50_304, context=1024), 32),
    "125M": (
        preset("gpt", d_model=768, n_layer=12, n_head=12, vocab_size=50_304, context=1024),
        32,
    ),
}
"""Shape and sequences of a step."""
GPU_SMALL = (preset("gpt", d_model=128, n_layer=4, n_head=4, vocab_size=256, context=256), 16)


def gpu_step(shape: ModelShape, batch: int, *, compiled: bool) -> object:
    """A bf16 training step on the GPU."""
    device = torch.device("cuda")
    model = Transformer(shape, seed=0, backend="sdpa").to(device)
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3))
    ids = torch.randint(0, shape.vocab_size, (batch, shape.context + 1), device=device)
    loss_of = torch.compile(model.loss) if compiled else model.loss

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step(1e-3)

    return step


def gpu(script: str, *, seconds: float) -> list[dict]:
    """Utilisation by size, and trials that share the GPU; nothing where there is none."""
    if not torch.cuda.is_available():
        return []
    peak = product_rate()
    rows: list[dict] = []
    for name, (shape, batch) in GPU_SHAPES.items():
        for compiled in (False, True):
            step = gpu_step(shape, batch, compiled=compiled)
            assert callable(step)
            per_s = rate(step, batch * shape.context, seconds)
            flops = training_flops_per_token(shape).total * per_s
            rows.append(
                {
                    "gpu": torch.cuda.get_device_name(),
                    "model": name + (" compiled" if compiled else ""),
                    "tokens_per_s": per_s,
                    "utilisation": flops / peak,
                }
            )
    for count in (1, 4, 16):
        children = [Child(script, "gpu", threads=1, device="cuda") for _ in range(count)]
        for child in children:
            child.ask(seconds)
        rows.append(
            {"model": f"{count} small trials", "tokens_per_s": sum(c.answer() for c in children)}
        )
        for child in children:
            child.end()
    shape, batch = GPU_SMALL
    for count in (4, 16):
        configs = [
            config(shape, batch=batch, steps=1000, digest="", seed=seed) for seed in range(count)
        ]
        found = gain(configs, device="cuda", seconds=seconds)
        rows.append({"model": f"{count} small trials as one stack", "gain": found})
    return rows


def rate(step: object, tokens: int, seconds: float) -> float:
    """Tokens per second of wall clock."""
    assert callable(step)
    for _ in range(5):
        step()
    synchronise()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    synchronise()
    return count * tokens / (time.perf_counter() - started)


def product_rate() -> float:
    """FLOPs per second of a large bf16 product: what utilisation is a share of."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    return rate(lambda: a @ b, 2 * 8192**3, 1.0)

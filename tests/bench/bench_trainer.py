"""Speed of a training step against `transformers`' GPT-2 at the same shape.

A step is forward, backward, clipping and optimiser. All variants live in one process and take
turns (A B C A B C ...); the figure is the median of the paired ratios of CPU-seconds, which a busy
machine disturbs least. Peak memory is measured in a process of its own per variant.

    python tests/bench/bench_trainer.py [--shapes a b c tiny] [--rounds 5] [--compile] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer import kernels
from trainer.config import OptimizerConfig
from trainer.flops import training_flops_per_token
from trainer.memory import keep_freed_memory, peak_resident_bytes
from trainer.model.transformer import Transformer
from trainer.optim import Optimizer
from trainer.shapes import ModelShape, preset

Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shape with its batch and what is asked of it."""

    shape: ModelShape
    batch: int
    """Sequences per step."""
    steps: int
    """Steps per turn."""
    targets: dict[str, float]
    """Least speed over a peer, by peer."""


def gpt(**sizes: int) -> ModelShape:
    return preset("gpt", **sizes)


CASES = {
    "a": Case(
        shape=gpt(d_model=64, n_layer=4, n_head=4, vocab_size=256, context=256),
        batch=16,
        steps=6,
        targets={"hf": 2.2, "hf-sdpa-bf16-compiled": 1.05},
    ),
    "b": Case(
        shape=gpt(d_model=256, n_layer=6, n_head=8, vocab_size=256, context=256),
        batch=4,
        steps=4,
        targets={"hf": 2.1},
    ),
    "c": Case(
        shape=gpt(d_model=128, n_layer=4, n_head=8, vocab_size=50_257, context=512, d_ff=512),
        batch=8,
        steps=1,
        targets={"hf": 2.8, "hf-sdpa-bf16-compiled": 1.25},
    ),
}
TINY = {
    f"tiny-{d}": Case(
        shape=gpt(d_model=d, n_layer=layers, n_head=heads, vocab_size=256, context=128),
        batch=8,
        steps=30,
        targets={},
    )
    for d, layers, heads in ((8, 2, 1), (16, 2, 1), (32, 2, 1), (64, 3, 2))
}
MEMORY_TARGET = 0.3
"""Peak memory at (c) over that of the peer."""


def tokens(case: Case) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (case.batch, case.shape.context + 1)
    return torch.randint(0, case.shape.vocab_size, size, generator=generator)


def ours(case: Case, *, precision: str) -> Step:
    chosen = kernels.choose(torch.device("cpu"), d_model=case.shape.d_model)
    model = Transformer(case.shape, seed=0, backend=chosen.attention)
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3))
    ids = tokens(case)

    def step() -> None:
        kernels.use(chosen)
        narrow = torch.autocast("cpu", dtype=torch.bfloat16)
        with narrow if precision == "bf16" else contextlib.nullcontext():
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step(1e-3)
        torch.set_float32_matmul_precision("highest")

    return step


def gpt2(case: Case, *, attention: str, precision: str, compiled: bool = False) -> Step:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = case.shape
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context,
            n_embd=shape.d_model,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_inner=shape.d_ff,
            bos_token_id=0,
            eos_token_id=0,
            loss_type="ForCausalLMLoss",
            attn_implementation=attention,
        )
    ).train()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = tokens(case)[:, :-1]

    def step() -> None:
        optimizer.zero_grad()
        narrow = torch.autocast("cpu", dtype=torch.bfloat16)
        with narrow if precision == "bf16" else contextlib.nullcontext():
            loss = run(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


VARIANTS: dict[str, Callable[[Case], Step]] = {
    "hf": lambda case: gpt2(case, attention="eager", precision="fp32"),
    "hf-sdpa-bf16": lambda case: gpt2(case, attention="sdpa", precision="bf16"),
    "hf-sdpa-bf16-compiled": lambda case: gpt2(
        case, attention="sdpa", precision="bf16", compiled=True
    ),
    "ours-fp32": lambda case: ours(case, precision="fp32"),
    "ours-bf16": lambda case: ours(case, precision="bf16"),
}


def take_turns(steps: dict[str, Step], case: Case, *, rounds: int) -> dict[str, list[float]]:
    """CPU-seconds per step of each variant, by round."""
    for step in steps.values():
        step()
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(case.steps):
                step()
            found[name].append((time.process_time() - start) / case.steps)
    return found


def peak_memory(case_name: str, variant: str) -> float:
    """Peak resident memory of a process that runs two steps, MB."""
    command = [sys.executable, __file__, "--memory-of", case_name, variant]
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    return float(done.stdout.split()[-1])


def bench(name: str, case: Case, variants: list[str], *, rounds: int, memory: bool) -> list[dict]:
    flops = training_flops_per_token(case.shape).total * case.batch * case.shape.context
    times = take_turns({v: VARIANTS[v](case) for v in variants}, case, rounds=rounds)
    rows = []
    for variant in variants:
        seconds = statistics.median(times[variant])
        row: dict = {
            "shape": name,
            "variant": variant,
            "ms": 1e3 * seconds,
            "tokens_per_cpu_s": case.batch * case.shape.context / seconds,
            "gflops": flops / seconds / 1e9,
        }
        for peer in variants:
            if peer.startswith("hf") and peer != variant:
                pairs = zip(times[peer], times[variant], strict=True)
                row[f"x {peer}"] = statistics.median(p / v for p, v in pairs)
        if memory:
            row["peak_mb"] = peak_memory(name, variant)
        rows.append(row)
    return rows


def threads_and_processes(name: str, case: Case, *, seconds: float = 6.0) -> dict[str, float]:
    """Tokens per second of wall clock: one process with two threads, two with one each."""

    def run(threads: int) -> float:
        command = [sys.executable, __file__, "--rate-of", name, str(threads), str(seconds)]
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(threads)},
        )
        return float(done.stdout.split()[-1])

    found: list[float] = []
    workers = [threading.Thread(target=lambda: found.append(run(1))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"two processes": sum(found), "two threads": run(2)}


def rate(case: Case, threads: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    step = ours(case, precision="bf16")
    for _ in range(3):
        step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return count * case.batch * case.shape.context / (time.perf_counter() - start)


def verdicts(rows: list[dict], cases: dict[str, Case]) -> list[str]:
    """One line per target: met or not."""
    said = []
    for row in rows:
        if row["variant"] != "ours-bf16":
            continue
        for peer, least in cases[row["shape"]].targets.items():
            if f"x {peer}" in row:
                found = row[f"x {peer}"]
                met = "met" if found >= least else "MISSED"
                said.append(f"({row['shape']}) {found:.2f}x {peer}, asked {least}x: {met}")
        if row["shape"] == "c" and "peak_mb" in row:
            peer = next(r for r in rows if r["shape"] == "c" and r["variant"] == "hf")
            share = row["peak_mb"] / peer["peak_mb"]
            met = "met" if share <= MEMORY_TARGET else "MISSED"
            said.append(f"(c) peak memory {share:.2f} of hf, asked {MEMORY_TARGET}: {met}")
    return said


def show(rows: list[dict]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *[[cell(row.get(key)) for key in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    print()


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["tiny", "a", "b", "c"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also the compiled peer (slow)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rate-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {**CASES, **TINY}
    if options.memory_of:
        keep_freed_memory()
        step = VARIANTS[options.memory_of[1]](cases[options.memory_of[0]])
        step()
        step()
        print(peak_resident_bytes() / 2**20)
        return
    if options.rate_of:
        name, threads, seconds = options.rate_of
        keep_freed_memory()
        print(rate(cases[name], int(threads), float(seconds)))
        return
    keep_freed_memory()
    rows: list[dict] = []
    chosen = [n for s in options.shapes for n in (TINY if s == "tiny" else [s])]
    for name in chosen:
        variants = ["hf", "ours-fp32"] if name in TINY else ["hf", "hf-sdpa-bf16"]
        if name in CASES:
            variants += ["hf-sdpa-bf16-compiled"] if options.compile else []
            variants += ["ours-fp32", "ours-bf16"]
        found = bench(name, cases[name], variants, rounds=options.rounds, memory=name == "c")
        rows += found
        if not options.json:
            show(found)
    both = {n: threads_and_processes(n, CASES[n]) for n in chosen if n in ("a", "b")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows, "threads": both}, indent=2))
        return
    for name, figures in both.items():
        ratio = figures["two processes"] / figures["two threads"]
        print(f"({name}) two one-thread processes {ratio:.2f}x one two-thread process, asked 1.15x")
    for line in verdicts(rows, cases):
        print(line)
    print(machine)


if __name__ == "__main__":
    main()

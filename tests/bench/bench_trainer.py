"""Speed of a training step against `transformers`' GPT-2 at the same shape.

A step is forward, backward, clipping and optimiser; nobody has dropout. All variants live in one
process and take turns (A B C A B C ...); the figure is the median of the paired ratios of
CPU-seconds, which a busy machine disturbs least. Compilation is over before the turns begin. Peak
memory is measured in a process of its own per variant. What follows the table is described in
bench_sharing.

    python tests/bench/bench_trainer.py [--quick] [--shapes a b c tiny] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bench_sharing as sharing
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
            # Ours has none either, and with it torch's fused attention would be left aside.
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
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


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)


def verdict(what: str, found: float, asked: float, *, at_most: bool = False) -> str:
    met = found <= asked if at_most else found >= asked
    bound = "at most" if at_most else "at least"
    return f"{'met   ' if met else 'MISSED'} {what}: {found:.3g}, asked {bound} {asked:g}"


def peer_verdicts(rows: list[dict], cases: dict[str, Case]) -> list[str]:
    """One line per target over a peer: met or not."""
    said = []
    for row in rows:
        if row["variant"] != "ours-bf16":
            continue
        for peer, least in cases[row["shape"]].targets.items():
            if f"x {peer}" in row:
                said.append(verdict(f"({row['shape']}) speed over {peer}", row[f"x {peer}"], least))
        if row["shape"] == "c" and "peak_mb" in row:
            peer_row = next(r for r in rows if r["shape"] == "c" and r["variant"] == "hf")
            share = row["peak_mb"] / peer_row["peak_mb"]
            said.append(verdict("(c) peak memory over hf", share, MEMORY_TARGET, at_most=True))
    return said


def sharing_verdicts(both: list[dict], stacks: list[dict], beside: list[dict]) -> list[str]:
    """One line per target of bench_sharing."""
    said = []
    for row in both:
        what = f"({row['shape']}) two one-thread trials over one two-thread trial"
        said.append(verdict(what, row["ratio"], sharing.SIDE_BY_SIDE_TARGET))
    for row in stacks:
        asked = sharing.MEMBERS_TARGETS.get((row["shape"], row["members"]))
        if asked is not None:
            what = f"{row['members']} members of {row['shape']} over one after the other"
            said.append(verdict(what, row["gain"], asked))
    for row in beside:
        # At width 16 the softmax over 256 logits is itself 3 % of the arithmetic.
        loss = "loss, " if row["shape"] == "(a)" else ""
        share = row["checkpoint"] + row["logging"] + (row["cross entropy"] if loss else 0.0)
        what = f"{row['shape']}: {loss}checkpoint and logging, share of a step"
        said.append(verdict(what, share, sharing.BESIDE_TARGET, at_most=True))
        what = f"{row['shape']}: waiting for tokens, share of a step"
        said.append(verdict(what, row["waiting"], sharing.WAIT_TARGET, at_most=True))
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
    options = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = {**CASES, **TINY}
    if options.memory_of:
        step = VARIANTS[options.memory_of[1]](cases[options.memory_of[0]])
        step()
        step()
        print(peak_resident_bytes() / 2**20)
        return
    if options.child:
        child(*options.child)
        return
    chosen = [n for s in options.shapes for n in (TINY if s == "tiny" else [s])]
    skipped = []
    if not has_compiler():
        skipped.append("hf-sdpa-bf16-compiled: there is no C++ compiler")
    elif options.no_compile:
        skipped.append("hf-sdpa-bf16-compiled: left out by --quick or --no-compile")
    rows: list[dict] = []
    for name in chosen:
        variants = ["hf", "ours-fp32"] if name in TINY else ["hf", "hf-sdpa-bf16"]
        if name in CASES:
            wanted = "hf-sdpa-bf16-compiled" in CASES[name].targets and not skipped
            variants += ["hf-sdpa-bf16-compiled"] if wanted else []
            variants += ["ours-fp32", "ours-bf16"]
        memory = name == "c"
        found = bench(name, cases[name], variants, rounds=options.rounds, memory=memory)
        rows += found
        if not options.json:
            show(found)
    quick, seconds = options.quick, options.seconds
    names = [n for n in chosen if n in (("a",) if quick else ("a", "b"))]
    both = [sharing.side_by_side(__file__, n, rounds=3, seconds=seconds) for n in names]
    torch.set_num_threads(1)
    stacks = sharing.members(counts=(8,) if quick else (8, 32), seconds=seconds)
    beside = sharing.beside_the_steps(quick=quick)
    gpu = sharing.gpu(__file__, seconds=seconds)
    if not gpu:
        skipped.append("utilisation at 10M, 50M and 125M, and 1, 4 and 16 trials on one: no GPU")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    said = [*peer_verdicts(rows, cases), *sharing_verdicts(both, stacks, beside)]
    if options.json:
        tables = {"rows": rows, "side_by_side": both, "members": stacks, "beside": beside}
        facts = {"machine": machine, "gpu": gpu, "verdicts": said, "skipped": skipped}
        print(json.dumps({**facts, **tables}, indent=2))
        return
    for table in (both, stacks, beside, gpu):
        if table:
            show(table)
    print("\n".join([*said, *(f"skipped {text}" for text in skipped), machine]))


def child(name: str, threads: str, device: str) -> None:
    """Train one case on demand (`bench_sharing.Child`)."""
    torch.set_num_threads(int(threads))
    if device == "cuda":
        shape, batch = sharing.GPU_SMALL
        sharing.serve(sharing.gpu_step(shape, batch, compiled=False), batch * shape.context)
        return
    case = CASES[name]
    sharing.serve(ours(case, precision="bf16"), case.batch * case.shape.context)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=None, help="of tiny, a, b, c")
    parser.add_argument("--rounds", type=int, default=None, help="turns of each variant")
    parser.add_argument("--seconds", type=float, default=None, help="of a timed stretch")
    parser.add_argument("--quick", action="store_true", help="(a) alone, nothing compiled")
    parser.add_argument("--no-compile", action="store_true", help="without the compiled peer")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shapes = options.shapes or (["a"] if options.quick else ["tiny", "a", "b", "c"])
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    options.no_compile = options.no_compile or options.quick
    return options


if __name__ == "__main__":
    main()

"""`make bench-orchestrator`: planning time, and what designs know at equal charged compute.

Run on one core: `OMP_NUM_THREADS=1 python tests/bench/bench_orchestrator.py [--worlds 32]`.
Every design runs through the real planner, loop, journal and fit, in the same worlds: a world is a
known law and a seed, and the noise of a trial is a function of the seed and the trial. Width is the
95 % interval of ln(D/N) as it is reported, at ten times the dearest run; where an answer was
refused it counts as infinite. The last lines say which of the targets hold.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analysis.answer import fit_table
from analysis.laws import Surface
from analysis.published import BESIROGLU
from analysis.table import read_rows
from orchestrator.advice import Advice, next_runs
from orchestrator.budget import parse_budget
from orchestrator.designs.adaptive import prior_law
from orchestrator.executors.synthetic import Truth
from orchestrator.outcome import loss_frame
from orchestrator.plan import make_plan
from orchestrator.simulate import Replicate, simulate, simulated_sweep
from orchestrator.state import SweepState
from orchestrator.throughput import CPU_CORE
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

FACTS = DataFacts(
    train_tokens=10**13,
    validation_tokens=10**6,
    vocab_size=32_000,
    bytes_per_token=4.0,
    digest="d" * 64,
    exact=True,
)
HARDWARE = Hardware(slots=8, throughput=CPU_CORE, precision="fp32")
MONEY = 1e20
SEED = 5000
"""Of the noise: other worlds than those on which defaults were chosen."""
TARGET = 0.095 * MONEY * 10
HEAD = (
    f"name: bench\nbudget: {{flops: {MONEY:g}}}\ntarget: {{flops: {TARGET:g}}}\n"
    "data: {validation_tokens: 131072}\n"
)
FIVE, FOUR, ADAPTIVE = "isoflop, 5 levels", "isoflop, 4 levels", "adaptive"
DESIGNS = {
    FIVE: "levels: 5, level_factor: 2.15, sizes: 5, span: 3",
    FOUR: "levels: 4, sizes: 7, span: 4",
    ADAPTIVE: "kind: adaptive",
}
LAWS = {
    "Besiroglu": BESIROGLU,
    "asymmetric": Surface(E=1.8172, A=3500, B=500, alpha=0.46, beta=0.28),
    "six parameters": prior_law(TARGET / 10, 20.0, k=0.5),
}
ASKED = {FIVE: 0.6, FOUR: 0.8}
"""Most that the adaptive design's width may be of another's."""
COVERAGE = 0.90
WRONG_CENTRES = (2.5, 160.0)
"""D/N at which a design begins in a world whose optimum is about 20: 8 times off."""
_RESAMPLES = 2000


def planning() -> None:
    """Time of plans of ten thousand trials."""
    seeds = ", ".join(map(str, range(10)))
    levels = "design: {levels: 20, level_factor: 1.4, sizes: 50, span: 8}\n"
    points = ", ".join(
        f"{{params: {1e6 * 1.001**k:.0f}, tokens: {2e8 * 1.0005**k:.0f}}}" for k in range(10_000)
    )
    for name, text in (
        ("20 levels x 50 sizes x 10 seeds", f"training: {{seeds: [{seeds}]}}\n" + levels),
        ("10,000 listed points", f"design: {{kind: file, points: [{points}]}}\n"),
    ):
        budget = parse_budget(HEAD.replace("1e+20", "1e+24") + text)
        start = time.process_time()
        plan = make_plan(budget, FACTS, HARDWARE)
        seconds = time.process_time() - start
        verdict(f"plan of {len(plan.trials)} trials, {name}: {seconds:.2f} s", 5, seconds <= 5)


def worlds(design: str, law: Surface, count: int) -> tuple[Replicate, ...]:
    """What a design said in each world."""
    budget = parse_budget(HEAD + f"design: {{{design}}}\n")
    found = simulate(budget, FACTS, HARDWARE, law=law, replicates=count, seed=SEED)
    return found.replicates


def widths(said: Sequence[Replicate]) -> np.ndarray:
    """Width of each world's 95 % interval; infinite where the answer was refused."""
    return np.array([np.inf if r.low is None or r.high is None else r.high - r.low for r in said])


def covered(said: Sequence[Replicate]) -> list[bool]:
    """Whether each interval that was given holds the truth."""
    return [r.low <= r.ln_truth <= r.high for r in said if r.low is not None and r.high is not None]


def made_of(said: Sequence[Replicate]) -> tuple[int, int, int]:
    """Intervals by what they consist of: noise alone, a wider bootstrap, the spread of the laws."""
    methods = [r.method for r in said if r.method]
    laws = sum("form" in method for method in methods)
    wider = sum("bootstrap" in method and "form" not in method for method in methods)
    return len(methods) - laws - wider, wider, laws


def row(law: str, design: str, said: Sequence[Replicate], seconds: float) -> str:
    """A line of the table."""
    hits = covered(said)
    errors = [r.ln_ratio - r.ln_truth for r in said if r.ln_ratio is not None]
    if not errors:
        return f"| {law} | {design} | every answer refused |"
    sure = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    status = [sum(r.status == s for r in said) for s in ("identified", "weak", "not_identified")]
    cells = (
        law,
        design,
        f"{np.mean([r.trials for r in said]):.3g}",
        f"{np.mean([r.charged_flops for r in said]) / MONEY:.0%}",
        f"{np.median(widths(said)):.3f}",
        f"{3.92 * np.std(errors, ddof=1):.3f}",
        f"{np.mean(errors):+.3f}",
        f"{np.mean(hits):.2f} ({sure.low:.2f} to {sure.high:.2f})",
        "/".join(map(str, status)),
        "/".join(map(str, made_of(said))),
        f"{seconds:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def ratio(ours: Sequence[Replicate], theirs: Sequence[Replicate]) -> tuple[float, float, float]:
    """Ratio of median widths, and its 95 % interval over resampled worlds, the same for both."""
    a, b = widths(ours), widths(theirs)
    drawn = np.random.default_rng(0).integers(len(a), size=(_RESAMPLES, len(a)))
    spread = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
    low, high = np.percentile(spread, [2.5, 97.5])
    return float(np.median(a) / np.median(b)), float(low), float(high)


def designs(count: int) -> None:
    """The table of designs in known worlds, and the targets."""
    print(
        f"\nsweeps of {MONEY:.0e} FLOPs, noise 0.5 %, {count} worlds of each law\n\n"
        "| law | design | trials | charged | width | 3.92 sd of the error | bias | coverage (95 %) "
        "| identified/weak/refused | noise/bootstrap/spread of laws | CPU s a sweep |\n"
        + "|---" * 11
        + "|",
        flush=True,
    )
    found: dict[str, Mapping[str, Sequence[Replicate]]] = {}
    for law, truth in LAWS.items():
        said = {}
        for name, design in DESIGNS.items():
            start = time.process_time()
            said[name] = worlds(design, truth, count)
            print(row(law, name, said[name], (time.process_time() - start) / count), flush=True)
        found[law] = said
    print()
    for law, said in found.items():
        for other, most in ASKED.items():
            value, low, high = ratio(said[ADAPTIVE], said[other])
            verdict(
                f"{law}: adaptive width over {other} {value:.2f} ({low:.2f} to {high:.2f})",
                most,
                value <= most,
            )
        hits = covered(said[ADAPTIVE])
        verdict(
            f"{law}: adaptive coverage {sum(hits)} of {len(hits)}",
            COVERAGE,
            bool(hits) and np.mean(hits) >= COVERAGE,
            least=True,
        )


def wrong_centres(count: int) -> None:
    """Whether a first guess that is far off leaves the answer identified."""
    print()
    for law, truth in LAWS.items():
        for centre in WRONG_CENTRES:
            for name in (FOUR, ADAPTIVE):
                design = f"{DESIGNS[name]}, tokens_per_parameter: {centre:g}"
                said = worlds(design, truth, count)
                hits = covered(said)
                identified = sum(r.status == "identified" for r in said)
                line = (
                    f"{law}, {name}, begun at {centre:g} tokens per parameter: covers "
                    f"{sum(hits)} of {len(hits)}, width {np.median(widths(said)):.3f}, refused "
                    f"{count - len(hits)}, weak {len(hits) - identified}, identified {identified}"
                )
                if name == ADAPTIVE:
                    verdict(line, count, identified == count, least=True)
                else:
                    print(f"  {line}", flush=True)


def forecasts(count: int) -> None:
    """Whether `sweep next` says truly what its runs leave of the interval."""
    print()
    for law, truth in LAWS.items():
        budget = parse_budget(HEAD + f"design: {{{DESIGNS[FOUR]}}}\n")
        plan = make_plan(budget, FACTS, HARDWARE)
        said, left = [], []
        for seed in range(SEED, SEED + count):
            world = Truth(law=truth, noise_sd=0.005, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                state = simulated_sweep(
                    budget, FACTS, HARDWARE, plan, world, Path(folder), resamples=0
                ).state
            advice = next_runs(state, budget, FACTS, HARDWARE)
            before = math.log(advice[0].fold_before)
            said.append(math.log(advice[-1].fold_after) / before)
            left.append(_width_with(state, advice, world, plan.target_flops) / before)
        expected, found = np.median(said), np.median(left)
        verdict(
            f"{law}: five runs named by `sweep next` leave {found:.2f} of the width, expected "
            f"{expected:.2f}; their ratio is off by {abs(math.log(found / expected)):.2f}",
            0.1,
            abs(math.log(found / expected)) <= 0.1,
        )


def _width_with(
    state: SweepState, advice: Sequence[Advice], world: Truth, target_flops: float
) -> float:
    """Width of the 95 % interval once the advised runs are made too."""
    noise = np.random.default_rng([world.seed, 1]).standard_normal(len(advice))
    more = pd.DataFrame(
        {
            "trial_id": [f"next-{k}" for k in range(len(advice))],
            "level": "",
            "params_matmul": [a.params for a in advice],
            "tokens": [a.tokens for a in advice],
            "flops": [a.flops for a in advice],
            "loss": [float(world.law.loss(a.params, a.tokens)) for a in advice]
            * np.exp(world.noise_sd * noise),
            "excluded": "",
        }
    )
    table = read_rows(pd.concat([loss_frame(state), more], ignore_index=True))
    found = fit_table(table, target_flops=target_flops, detail=False)
    low, high = found.optimum[0].intervals["0.95"]
    return math.log(high / low)


def verdict(measured: str, asked: float, met: bool, *, least: bool = False) -> None:
    """Print a figure beside what was asked of it."""
    bound = "at least" if least else "at most"
    print(f"{'met' if met else 'NOT MET'}: {measured} (asked: {bound} {asked:g})", flush=True)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=32)
    parser.add_argument("--skip-planning", action="store_true")
    options = parser.parse_args()
    if not options.skip_planning:
        planning()
    designs(options.worlds)
    wrong_centres(max(2, options.worlds // 4))
    forecasts(max(2, options.worlds // 4))


if __name__ == "__main__":
    main()

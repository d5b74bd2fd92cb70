"""`make bench-orchestrator`: planning time, and what designs know at equal charged compute.

Run on one core: `OMP_NUM_THREADS=1 python tests/bench/bench_orchestrator.py [--replicates 20]`.
Every design runs through the real planner, loop, journal and fit, against known laws with half a
per cent of noise; width is the median 95 % interval of ln(D/N) at ten times the dearest run.
"""

from __future__ import annotations

import argparse
import time

from orchestrator.budget import parse_budget
from orchestrator.plan import make_plan
from orchestrator.simulate import simulate
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
SEED = 1000
"""Of the noise: other worlds than those on which defaults were chosen."""
TARGET = 0.095 * MONEY * 10
HEAD = (
    f"name: bench\nbudget: {{flops: {MONEY:g}}}\ntarget: {{flops: {TARGET:g}}}\n"
    "data: {validation_tokens: 131072}\n"
)
DESIGNS = {
    "isoflop, 5 levels": "{levels: 5, level_factor: 2.15, sizes: 5, span: 3}",
    "isoflop, 4 levels": "{levels: 4, sizes: 7, span: 4}",
    "adaptive": "{kind: adaptive}",
}
LAWS = {
    "Besiroglu": "E=1.8172,A=482.01,B=2085.43,alpha=0.3478,beta=0.3658",
    "asymmetric": "E=1.8172,A=3500,B=500,alpha=0.46,beta=0.28",
    "skaling": "skaling",
}


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
        print(f"plan {name}: {len(plan.trials)} trials in {time.process_time() - start:.2f} s")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--skip-planning", action="store_true")
    options = parser.parse_args()
    if not options.skip_planning:
        planning()
    print("law | design | trials | charged | width | coverage | bias | refused | s a sweep")
    for law_name, law in LAWS.items():
        for name, design in DESIGNS.items():
            budget = parse_budget(HEAD + f"design: {design}\n")
            start = time.process_time()
            found = simulate(
                budget, FACTS, HARDWARE, law=law, replicates=options.replicates, seed=SEED
            ).to_dict()
            seconds = (time.process_time() - start) / options.replicates
            if not found["answered"]:
                print(f"{law_name} | {name} | every answer refused")
                continue
            print(
                f"{law_name} | {name} | {found['trials']:.3g} | "
                f"{found['charged_flops'] / MONEY:.0%} | {found['width_95']:.3f} | "
                f"{found['coverage_95']:.2f} | {found['bias_ln_ratio']:+.3f} | "
                f"{found['status']['not_identified']:.0%} | {seconds:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

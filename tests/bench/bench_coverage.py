"""`make bench-coverage`: whether intervals hold the truth and wrong designs are refused.

Run on one core: `OMP_NUM_THREADS=1 python tests/bench/bench_coverage.py [--laws 200] [--seed 1]`.
Each design is laid out for 200 random laws, its losses are given half a per cent of noise, and the
table is fitted as `sweep fit` fits one, for a target ten times the dearest run; designs that cannot
tell without the bootstrap, which only ever widens an interval. Asked: of the
answers called `identified`, 85 to 95 % hold the true D/N in their 90 % interval; of designs that
cannot tell, 95 % are `not_identified`. The last lines say which of the targets hold. Beside them,
with nothing asked: how often the five-parameter law's interval of E holds the true one, of
percentiles or of the profile, whichever a report would print.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analysis.answer import fit_table
from analysis.fit_report import FitReport
from analysis.floor import profile_floor
from analysis.laws import Surface
from analysis.table import read_rows

LAWS = 200
"""Random laws per design."""
NOISE = 0.005
"""Standard deviation of ln L among runs of one law."""
COVERAGE = (0.85, 0.95)
"""What is asked of 90 % intervals."""
REFUSED = 0.95
"""What is asked of designs that cannot tell."""
LATTICE = np.exp(np.arange(0, 40, np.log(1.25)))
"""Sizes that can be built."""
Rng = np.random.Generator
Runs = tuple[np.ndarray, np.ndarray]
"""N and D of a design's runs."""
Design = Callable[[Surface, Rng], Runs]


def random_law(rng: Rng) -> Surface:
    """Exponents, floor, ratio and reducible loss at 1e19 FLOPs drawn over what is published."""
    alpha, beta = rng.uniform(0.25, 0.5, 2)
    ratio = np.exp(rng.uniform(np.log(5), np.log(80)))
    N = np.sqrt(1e19 / 6 / ratio)
    reducible = rng.uniform(0.6, 1.6)
    return Surface(
        E=rng.uniform(1.2, 2.2),
        A=reducible * beta / (alpha + beta) * N**alpha,
        B=reducible * alpha / (alpha + beta) * (ratio * N) ** beta,
        alpha=alpha,
        beta=beta,
    )


def isoflop(
    law: Surface, rng: Rng, *, levels: int, sizes: int, reach: float = 4.0, shift: float = 1.0
) -> Runs:
    """Sizes snapped to a lattice, each level centred with an error of about a fifth."""
    C = np.repeat(1e18 * 10 ** (0.5 * np.arange(levels)), sizes)
    centres = [law.optimum(c).params * np.exp(0.2 * rng.normal()) * shift for c in C[::sizes]]
    N = np.concatenate([c * np.geomspace(1 / reach, reach, sizes) for c in centres])
    N = LATTICE[np.abs(np.log(LATTICE)[None] - np.log(N)[:, None]).argmin(axis=1)]
    return N, C / (6 * N)


def four_levels(law: Surface, rng: Rng) -> Runs:
    """Four levels of seven sizes."""
    return isoflop(law, rng, levels=4, sizes=7)


def three_levels(law: Surface, rng: Rng) -> Runs:
    """Three levels of five sizes."""
    return isoflop(law, rng, levels=3, sizes=5)


def one_ratio(law: Surface, rng: Rng) -> Runs:
    """Fifteen sizes, each on twenty tokens per parameter."""
    N = np.geomspace(3e7, 1e9, 15)
    return N, 20 * N


def off_centre(law: Surface, rng: Rng) -> Runs:
    """Four levels whose sizes are all larger than the best one."""
    return isoflop(law, rng, levels=4, sizes=6, shift=12.0)


def two_small_levels(law: Surface, rng: Rng) -> Runs:
    """Two levels of five sizes."""
    return isoflop(law, rng, levels=2, sizes=5)


def one_level(law: Surface, rng: Rng) -> Runs:
    """Nine sizes at one compute."""
    return isoflop(law, rng, levels=1, sizes=9)


def small_lattice(law: Surface, rng: Rng) -> Runs:
    """Four sizes by four token counts within a quarter of the best point."""
    best = law.optimum(1e19)
    steps = np.geomspace(0.8, 1.25, 4)
    N, D = np.meshgrid(best.params * steps, best.tokens * steps)
    return N.ravel(), D.ravel()


SOUND: tuple[Design, ...] = (four_levels, three_levels)
"""Designs that can tell."""
WRONG: tuple[Design, ...] = (one_ratio, off_centre, two_small_levels, one_level, small_lattice)
"""Designs that cannot."""


def fitted(
    law: Surface, runs: Runs, rng: Rng, *, resamples: int | None = None
) -> tuple[FitReport, float]:
    """The fit of a design's noisy losses, and its target in FLOPs."""
    N, D = runs
    L = np.asarray(law.loss(N, D)) * np.exp(NOISE * rng.standard_normal(len(N)))
    target = 10 * float((6 * N * D).max())
    table = read_rows(pd.DataFrame({"params": N, "tokens": D, "loss": L}))
    extra = {} if resamples is None else {"resamples": resamples}
    return fit_table(table, target_flops=target, detail=False, **extra), target


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of one design under many laws."""

    laws: int
    """Random laws."""
    identified: int
    """Fits called `identified`."""
    refused: int
    """Fits called `not_identified`."""
    covered: int
    """Identified fits whose 90 % interval holds the true D/N."""
    floors: tuple[bool, ...] = ()
    """Whether each interval of E that was asked for holds the true one."""

    @property
    def coverage(self) -> float:
        """Share of the identified fits that hold the truth; NaN when there are none."""
        return self.covered / self.identified if self.identified else float("nan")

    @property
    def refused_share(self) -> float:
        """Share of all fits that were refused."""
        return self.refused / self.laws

    def holds(self, *, sound: bool) -> bool:
        """Whether the design does what is asked of its kind."""
        if sound:
            return COVERAGE[0] <= self.coverage <= COVERAGE[1]
        return self.refused_share >= REFUSED


def holds_floor(found: FitReport, law: Surface) -> bool | None:
    """Whether the five-parameter law's interval of E holds the truth; None without one."""
    if "chinchilla" not in found.laws:
        return None
    told = found.laws["chinchilla"]["interval"].get("E")
    ends = told or profile_floor(found.fits["chinchilla"])
    return None if ends is None else bool(ends[0] <= law.E <= ends[1])


def tally(
    design: Design, *, laws: int, seed: int, resamples: int | None = None, floors: bool = False
) -> Tally:
    """Fit a design under random laws and count what became of it, of E too where asked."""
    rng = np.random.default_rng(seed)
    statuses, hits, floors_held = [], [], []
    for _ in range(laws):
        law = random_law(rng)
        found, target = fitted(law, design(law, rng), rng, resamples=resamples)
        statuses.append(found.status)
        if floors and (held := holds_floor(found, law)) is not None:
            floors_held.append(held)
        if found.status == "identified":
            interval = found.optimum[0].interval
            hits.append(interval.low <= law.optimum(target).tokens_per_parameter <= interval.high)
    return Tally(
        laws=laws,
        identified=statuses.count("identified"),
        refused=statuses.count("not_identified"),
        covered=sum(hits),
        floors=tuple(floors_held),
    )


def share(part: int, whole: int) -> str:
    """A share and its 95 % interval; a dash of nothing."""
    if not whole:
        return "–"
    ends = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    return f"{part / whole:.1%} ({ends.low:.1%} to {ends.high:.1%})"


def row(design: Design, found: Tally, seconds: float) -> str:
    """A line of the table."""
    weak = found.laws - found.identified - found.refused
    cells = [
        design.__name__.replace("_", " "),
        str(found.laws),
        *(f"{n / found.laws:.1%}" for n in (found.identified, weak, found.refused)),
        share(found.covered, found.identified),
        share(sum(found.floors), len(found.floors)),
        f"{seconds / found.laws:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table and what holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--laws", type=int, default=LAWS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        "| design | laws | identified | weak | refused | 90 % interval holds D/N, where identified "
        "| 90 % interval holds E | CPU s a fit |"
    )
    print("|---|---:|---:|---:|---:|---|---|---:|")
    lines = []
    for design in (*SOUND, *WRONG):
        start = time.process_time()
        sound = design in SOUND
        resamples = None if sound else 0
        found = tally(
            design, laws=options.laws, seed=options.seed, resamples=resamples, floors=True
        )
        print(row(design, found, time.process_time() - start), flush=True)
        asked = f"covers the truth {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%} where identified"
        seen = found.coverage if sound else found.refused_share
        words = asked if sound else f"refused {REFUSED:.0%} of the time at least"
        verdict = "holds " if found.holds(sound=sound) else "MISSED"
        lines.append(f"{verdict}  {design.__name__.replace('_', ' ')}, {words}: {seen:.1%}")
    print("", *lines, sep="\n")


if __name__ == "__main__":
    main()

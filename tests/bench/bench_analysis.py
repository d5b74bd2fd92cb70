"""`make bench-analysis`: CPU time of the fits, beside the published procedure written plainly.

Run on one core: `OMP_NUM_THREADS=1 python tests/bench/bench_analysis.py [--full] [--table FILE]`.
The baseline is ours: 4,500 L-BFGS-B starts with finite differences on the summed log-Huber
objective (Hoffmann et al. 2022, section 3.3; Besiroglu et al. 2024), of which a sample is timed and
scaled up unless `--full` is given; resamples are refitted by BFGS from the best point.
Without the published table a synthetic one of the same size is used.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp

from analysis.answer import fit_table
from analysis.fit import fit_surface, refit
from analysis.laws import SKALING, Surface
from analysis.newton import minimise
from analysis.table import read_rows

TRUTH = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of a call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def points(path: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D, L of the 240 published points, or of a synthetic table like them."""
    if path is not None and path.exists():
        frame = pd.read_csv(path)
        frame = frame[frame["excluded_by_epoch"] == 0]
        return tuple(frame[c].to_numpy(dtype=float) for c in ("N", "D", "loss"))
    return synthetic(240)


def synthetic(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random runs of a Chinchilla-like law with half a per cent of noise."""
    rng = np.random.default_rng(0)
    C = np.exp(rng.uniform(np.log(1e18), np.log(1e22), count))
    N = np.sqrt(C / 120) * np.exp(rng.uniform(-1.5, 1.5, count))
    D = C / (6 * N)
    return N, D, np.asarray(TRUTH.loss(N, D)) * np.exp(0.005 * rng.standard_normal(count))


def baseline_objective(
    theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, y: np.ndarray
) -> float:
    """The published objective, written plainly."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(y, e)])
    size = np.abs(logsumexp(terms, axis=0) - y)
    return float(np.where(size <= 1e-3, 0.5 * size**2, 1e-3 * (size - 5e-4)).sum())


def baseline_starts() -> list[tuple[float, ...]]:
    """Hoffmann's 4,500 starting points."""
    return list(
        itertools.product(
            np.arange(0, 30, 5),
            np.arange(0, 30, 5),
            np.arange(-1, 1.5, 0.5),
            np.arange(0, 2.5, 0.5),
            np.arange(0, 2.5, 0.5),
        )
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, default=None)
    parser.add_argument("--full", action="store_true", help="run the baseline whole")
    options = parser.parse_args()
    N, D, L = points(options.table)
    log_n, log_d, y = np.log(N), np.log(D), np.log(L)
    rows: list[tuple[str, float, str]] = []

    fit_surface(N, D, L, huber_delta=1e-3)
    seconds, fit = timed(lambda: fit_surface(N, D, L, huber_delta=1e-3))
    c = fit.certificate
    rows.append(
        (
            "certified fit, Chinchilla, Huber 1e-3",
            seconds,
            f"objective {fit.objective:.16f}, {c.agreeing}/{c.starts} starts agree, "
            f"gradient {c.gradient:.1e}",
        )
    )
    seconds, six = timed(lambda: fit_surface(N, D, L, form=SKALING, huber_delta=1e-3))
    rows.append(("certified fit, Skaling", seconds, f"objective {six.objective:.10f}"))

    starts = np.array(baseline_starts())
    centred = starts.copy()
    centred[:, 0] -= starts[:, 3] * fit.data.centre[0]
    centred[:, 1] -= starts[:, 4] * fit.data.centre[1]
    ours_grid, many = timed(lambda: minimise(fit.form, fit.data, centred, delta=1e-3))
    agree = float(np.mean(many.objective <= fit.objective * (1 + 1e-10)))
    rows.append(("the same 4,500 starts, batched", ours_grid, f"{agree:.0%} reach the optimum"))

    rng = np.random.default_rng(42)
    weights = rng.multinomial(len(N), np.full(len(N), 1 / len(N)), size=4000).astype(float)
    ours_boot, draws = timed(lambda: refit(fit, weights))
    rows.append(("4,000 resamples", ours_boot, f"{draws.converged.mean():.1%} converged"))

    sample = starts if options.full else starts[rng.choice(len(starts), 60, replace=False)]
    arguments = (log_n, log_d, y)
    grid, found = timed(
        lambda: [minimize(baseline_objective, s, arguments, "L-BFGS-B") for s in sample]
    )
    grid *= len(starts) / len(sample)
    best = min(found, key=lambda r: r.fun)
    rows.append(("baseline: 4,500 L-BFGS-B starts", grid, f"objective {best.fun:.16f}"))
    count = 4000 if options.full else 40
    worse = 0
    start = time.process_time()
    for row, ours in zip(weights[:count], draws.objective[:count], strict=True):
        index = np.repeat(np.arange(len(N)), row.astype(int))
        other = minimize(baseline_objective, best.x, (log_n[index], log_d[index], y[index]), "BFGS")
        worse += bool(ours > other.fun + 1e-9)
    boot = (time.process_time() - start) * 4000 / count
    rows.append(("baseline: 4,000 BFGS refits", boot, f"{worse} of {count} better than ours"))

    frame = pd.DataFrame({"params": N, "tokens": D, "loss": L})
    seconds, _ = timed(lambda: fit_table(read_rows(frame), target_flops=5.76e23, resamples=1000))
    rows.append(("whole report, 1,000 resamples", seconds, "4 laws, all sections"))
    big = synthetic(100_000)
    seconds, _ = timed(lambda: fit_surface(*big))
    rows.append(("100,000 points", seconds, ""))

    width = max(len(r[0]) for r in rows)
    for name, cpu, note in rows:
        print(f"{name:<{width}}  {cpu:10.3f} s  {note}")
    certified = rows[0][1]
    print(
        f"certified fit and bootstrap: {(grid + boot) / (certified + ours_boot):.0f}x faster than "
        f"the baseline ({(grid + boot) / (ours_grid + ours_boot):.0f}x with its own 4,500 starts)"
    )


if __name__ == "__main__":
    main()

"""Random laws with half a per cent of noise: coverage where identified, refusals elsewhere."""

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.laws import Surface
from analysis.table import read_rows

LAWS = 200
"""Random laws per design."""
WRONG = 40
"""Random laws per wrong design, of which there are five."""
LATTICE = np.exp(np.arange(0, 40, np.log(1.25)))


def random_law(rng):
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


def isoflop(law, rng, *, levels, sizes, reach=4.0, offset=0.2, shift=1.0):
    """Sizes snapped to a lattice, each level centred with an error of about a fifth."""
    C = np.repeat(1e18 * 10 ** (0.5 * np.arange(levels)), sizes)
    centres = [law.optimum(c).params * np.exp(offset * rng.normal()) * shift for c in C[::sizes]]
    N = np.concatenate([c * np.geomspace(1 / reach, reach, sizes) for c in centres])
    N = LATTICE[np.abs(np.log(LATTICE)[None] - np.log(N)[:, None]).argmin(axis=1)]
    return N, C / (6 * N)


def report(law, N, D, rng, noise=0.005, resamples=100):
    L = np.asarray(law.loss(N, D)) * np.exp(noise * rng.standard_normal(len(N)))
    frame = pd.DataFrame({"params": N, "tokens": D, "loss": L})
    target = 10 * float((6 * N * D).max())
    return fit_table(
        read_rows(frame), target_flops=target, resamples=resamples, detail=False
    ), target


@pytest.mark.parametrize(("levels", "sizes"), [(4, 7), (3, 5)])
def test_ninety_percent_intervals_cover_where_identified(levels, sizes):
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(LAWS):
        law = random_law(rng)
        found, target = report(law, *isoflop(law, rng, levels=levels, sizes=sizes), rng)
        if found.status == "identified":
            interval = found.optimum[0].interval
            truth = law.optimum(target).tokens_per_parameter
            hits.append(interval.low <= truth <= interval.high)
    assert len(hits) > LAWS / 2
    assert 0.85 <= np.mean(hits) <= 0.95


def one_ratio(law, rng):
    N = np.geomspace(3e7, 1e9, 15)
    return N, 20 * N


def off_centre(law, rng):
    return isoflop(law, rng, levels=4, sizes=6, shift=12.0)


def two_small_levels(law, rng):
    return isoflop(law, rng, levels=2, sizes=5)


def one_level(law, rng):
    return isoflop(law, rng, levels=1, sizes=9)


def small_lattice(law, rng):
    best = law.optimum(1e19)
    N, D = np.meshgrid(
        best.params * np.geomspace(0.8, 1.25, 4), best.tokens * np.geomspace(0.8, 1.25, 4)
    )
    return N.ravel(), D.ravel()


@pytest.mark.parametrize(
    "design",
    [one_ratio, off_centre, two_small_levels, one_level, small_lattice],
    ids=lambda d: d.__name__,
)
def test_unidentifiable_designs_are_refused(design):
    rng = np.random.default_rng(2)
    refused = []
    for _ in range(WRONG):
        law = random_law(rng)
        found, _ = report(law, *design(law, rng), rng, resamples=0)
        refused.append(found.status == "not_identified")
    assert np.mean(refused) >= 0.95

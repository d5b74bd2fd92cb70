"""Laws of model size and data alone: Kaplan's, Farseer's and the over-training form.

    kaplan        N, D   [(Nc/N)^(aN/aD) + Dc/D]^aD                           (2001.08361, eq. 1.5)
    farseer       N, D   exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E)    (2506.10972)
    overtraining  C, M   E + (a M^eta + b M^-eta) C^-eta, M = D/N             (2403.08540, eq. 4)

Kaplan's law has no floor and Farseer's needs a hundred runs: comparisons, not headlines. Published
constants hold in each paper's own loss unit and counting of N.
"""

from __future__ import annotations

import numpy as np

from analysis.family import Family, Inputs
from analysis.laws import FloatArray

Value = tuple[FloatArray, tuple[FloatArray, ...]]


def _kaplan(t: FloatArray, x: Inputs) -> Value:
    log_nc, log_dc, a_n, a_d = t
    size = log_nc - np.log(x["N"])
    first = (a_n / a_d) * size
    second = log_dc - np.log(x["D"])
    mixed = np.logaddexp(first, second)
    share = np.exp(first - mixed)
    loss = np.exp(a_d * mixed)
    slopes = (a_n * share, a_d * (1 - share), share * size, mixed - share * first)
    return loss, tuple(loss * slope for slope in slopes)


def _farseer(t: FloatArray, x: Inputs) -> Value:
    s, q, S, B, b, Q, A, a, E = t
    N, log_n, log_d = x["N"], np.log(x["N"]), np.log(x["D"])
    floor = np.exp(s * N**q + S)
    power = np.exp(A * N**a + E)
    data = np.exp(B * N**b + Q - power * log_d)
    bend = -data * log_d * power
    slopes = (
        floor * N**q,
        floor * s * N**q * log_n,
        floor,
        data * N**b,
        data * B * N**b * log_n,
        data,
        bend * N**a,
        bend * A * N**a * log_n,
        bend,
    )
    return floor + data, slopes


def _overtraining(t: FloatArray, x: Inputs) -> Value:
    E, log_a, log_b, eta = t
    log_m, log_c = np.log(x["M"]), np.log(x["C"])
    first, second = log_a + eta * log_m, log_b - eta * log_m
    mixed = np.logaddexp(first, second)
    share = np.exp(first - mixed)
    reducible = np.exp(mixed - eta * log_c)
    slopes = (
        np.ones_like(reducible),
        reducible * share,
        reducible * (1 - share),
        reducible * ((2 * share - 1) * log_m - log_c),
    )
    return E + reducible, slopes


def _overtraining_at(N: FloatArray, D: FloatArray, _: Inputs) -> dict[str, FloatArray]:
    """Its C is 6ND whatever a token really costs: that is how the law was fitted."""
    return {"C": 6.0 * N * D, "M": D / N}


KAPLAN = Family(
    name="kaplan",
    inputs=("N", "D"),
    parameters=("ln Nc", "ln Dc", "alpha_N", "alpha_D"),
    formula=_kaplan,
    published=(float(np.log(8.8e13)), float(np.log(5.4e13)), 0.076, 0.095),
    low=(5.0, 5.0, 0.005, 0.005),
    high=(90.0, 90.0, 1.5, 1.5),
    source="Kaplan et al. 2020 (2001.08361), eq. 1.5; N without embeddings; no loss floor",
)
FARSEER = Family(
    name="farseer",
    inputs=("N", "D"),
    parameters=("s", "q", "S", "B", "b", "Q", "A", "a", "E"),
    formula=_farseer,
    published=(
        -0.062465473,
        0.13,
        0.12848807,
        230.73437,
        -0.1729,
        -1.5442096,
        -1.6656308,
        0.0459,
        3.1333472,
    ),
    low=(-5.0, 0.001, -5.0, 0.1, -1.0, -20.0, -20.0, 0.001, -5.0),
    high=(0.0, 1.0, 5.0, 2000.0, -0.01, 10.0, 5.0, 0.5, 15.0),
    source="Li et al. 2025 (2506.10972); bits per character; N without vocabulary, 1e8 to 2.5e10",
)
OVERTRAINING = Family(
    name="overtraining",
    inputs=("C", "M"),
    parameters=("E", "ln a", "ln b", "eta"),
    formula=_overtraining,
    published=(1.8, 4.0, 5.5, 0.14),
    low=(1e-6, -20.0, -20.0, 0.01),
    high=(10.0, 40.0, 40.0, 1.0),
    source="Gadre et al. 2024 (2403.08540), eq. 4; the start is not published",
    at=_overtraining_at,
    kept=(),
)

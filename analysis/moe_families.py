"""Laws of mixture-of-experts models: experts, granularity and sparsity.

    moe_experts      N, X       log10 L = a lg N + b lg X^ + c lg N lg X^ + d     (2202.01169)
    moe_granularity  N, D, G    c + (g/G^gamma + a) N^-alpha + b D^-beta         (2402.07871, eq. 9)
    moe_sparsity     N, D, S    e + a N^-alpha + b D^-beta + c (1-S)^-lambda
                                  + d (1-S)^-delta N^-gamma                      (2501.12370, eq. 6)

X experts, G granularity (width of the dense feed-forward over an expert's), S the inactive share of
the experts. The cost of a token follows the active parameters: give it to `optimum_along`.
"""

from __future__ import annotations

import numpy as np

from analysis.family import Family, Inputs
from analysis.laws import FloatArray

Value = tuple[FloatArray, tuple[FloatArray, ...]]


def _experts(t: FloatArray, x: Inputs) -> Value:
    a, b, c, d, start, limit = t
    first = 1.0 / (1.0 / start - 1.0 / limit)
    rise = x["X"] - 1.0 + first
    saturated = 1.0 / (1.0 / rise + 1.0 / limit)
    log_n, log_x = np.log10(x["N"]), np.log10(saturated)
    loss = 10.0 ** (a * log_n + b * log_x + c * log_n * log_x + d)
    # d lg X^ by `start` and by `limit`, the latter also through what the first expert is worth.
    by_first = saturated / rise**2 * first**2
    steep = (b + c * log_n) / np.log(10.0)
    slopes = (
        log_n,
        log_x,
        log_n * log_x,
        np.ones_like(log_x),
        steep * by_first / start**2,
        steep * (saturated - by_first) / limit**2,
    )
    return loss, tuple(loss * np.log(10.0) * slope for slope in slopes)


def _granularity(t: FloatArray, x: Inputs) -> Value:
    c, g, gamma, a, alpha, b, beta = t
    fine, size, data = x["G"] ** -gamma, x["N"] ** -alpha, x["D"] ** -beta
    weight = g * fine + a
    slopes = (
        np.ones_like(size * data * fine),
        fine * size,
        -g * fine * np.log(x["G"]) * size,
        size,
        -weight * size * np.log(x["N"]),
        data,
        -b * data * np.log(x["D"]),
    )
    return c + weight * size + b * data, slopes


def _sparsity(t: FloatArray, x: Inputs) -> Value:
    e, log_a, alpha, log_b, beta, c, lam, log_d, delta, gamma = t
    active, log_n, log_data = np.log1p(-x["S"]), np.log(x["N"]), np.log(x["D"])
    size, data = np.exp(log_a - alpha * log_n), np.exp(log_b - beta * log_data)
    sparse = np.exp(-lam * active)
    both = np.exp(log_d - delta * active - gamma * log_n)
    slopes = (
        np.ones_like(size * data * sparse),
        size,
        -size * log_n,
        data,
        -data * log_data,
        sparse,
        -c * sparse * active,
        both,
        -both * active,
        -both * log_n,
    )
    return e + size + data + c * sparse + both, slopes


MOE_EXPERTS = Family(
    name="moe_experts",
    inputs=("N", "X"),
    parameters=("a", "b", "c", "d", "X_start", "X_max"),
    formula=_experts,
    published=(-0.082, -0.108, 0.009, 1.104, 1.847, 314.5),
    low=(-1.0, -2.0, -0.5, -2.0, 0.2, 20.0),
    high=(0.0, 2.0, 0.5, 5.0, 20.0, 1e5),
    source="Clark et al. 2022 (2202.01169), table 3, S-BASE; N of the dense base, X experts",
    shed=("X_max", "X_start", "c"),
)
MOE_GRANULARITY = Family(
    name="moe_granularity",
    inputs=("N", "D", "G"),
    parameters=("c", "g", "gamma", "a", "alpha", "b", "beta"),
    formula=_granularity,
    published=(0.47, 2.1, 0.58, 18.1, 0.115, 30.8, 0.147),
    low=(1e-6, 0.0, 0.01, 1e-3, 0.01, 1e-3, 0.01),
    high=(10.0, 1e4, 5.0, 1e6, 1.5, 1e7, 1.5),
    source="Krajewski et al. 2024 (2402.07871); N total, 64-fold expansion",
    shed=("gamma", "g", "c"),
)
MOE_SPARSITY = Family(
    name="moe_sparsity",
    inputs=("N", "D", "S"),
    parameters=("e", "ln a", "alpha", "ln b", "beta", "c", "lambda", "ln d", "delta", "gamma"),
    formula=_sparsity,
    published=(1.0, 6.0, 0.35, 7.5, 0.35, 0.1, -0.5, 1.0, 0.3, 0.2),
    low=(1e-6, -10.0, 0.01, -10.0, 0.01, 0.0, -5.0, -20.0, -2.0, 0.0),
    high=(5.0, 40.0, 1.5, 40.0, 1.5, 10.0, 0.0, 20.0, 2.0, 1.5),
    source="Abnar et al. 2025 (2501.12370), eq. 6; N total; the start is not published",
)

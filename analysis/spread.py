"""How far losses scatter about a fitted law, and what that leaves of its parameters' certainty.

In: residuals of ln L, a fit's Jacobian. Out: the Huber width that suits the tails, the standard
deviation of the noise, the covariance of theta.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from analysis.laws import FloatArray, LawForm
from analysis.newton import Data, Restriction

HUBER_PUBLISHED = 1e-3
"""Hoffmann et al. 2022, section 3.3; the compatibility objective."""
MAD_TO_SD = 1.4826
"""Median absolute deviation of a Gaussian to its standard deviation."""
HUBER_EFFICIENT = 1.345
"""Huber width in standard deviations that keeps 95 % efficiency for Gaussian noise."""


def data_driven_delta(residuals: FloatArray, n_free: int) -> float:
    """Huber width that suits the tails of least-squares residuals.

    Gaussian-looking residuals (kurtosis within two standard errors of 3): infinity, least squares.
    Heavier tails: 1.345 robust standard deviations. Tails beyond a Laplacian's (kurtosis 6) on
    enough runs: the published 1e-3, close to least absolute deviations, so that a few bad runs do
    not set the noise scale.

    Args:
        residuals: ln L residuals of a least-squares fit, shape (m,).
        n_free: number of fitted parameters.
    """
    size = len(residuals)
    square = float(np.mean(residuals**2))
    spread = robust_sd(residuals, n_free)
    if square <= 0 or spread <= 0:
        return np.inf
    kurtosis = float(np.mean(residuals**4)) / square**2
    if kurtosis <= 3.0 + 2.0 * np.sqrt(24.0 / size):
        return np.inf
    if size > 4 * n_free and kurtosis > 6.0:
        return HUBER_PUBLISHED
    return max(HUBER_EFFICIENT * spread, 1e-6)


def robust_sd(residuals: FloatArray, n_free: int) -> float:
    """Noise sd from residuals: 1.4826 median|r|, times sqrt(m/(m - p)) for the p parameters."""
    size = len(residuals)
    if size <= n_free:
        return 0.0
    inflation = np.sqrt(size / (size - n_free))
    return float(MAD_TO_SD * np.median(np.abs(residuals)) * inflation)


def noise_sd(residuals: FloatArray, weights: FloatArray, n_free: int, delta: float) -> float:
    """Residual sd: root mean square for least squares, Huber's proposal 2 otherwise."""
    size = len(residuals)
    if size <= n_free:
        return float("nan")
    mean_weight = weights.sum() / size
    if np.isinf(delta):
        square = (weights * residuals**2).sum() / mean_weight
        return float(np.sqrt(square / (size - n_free)))
    spread = robust_sd(residuals, n_free)
    if spread <= 0:
        return float(np.sqrt((residuals**2).sum() / (size - n_free)))
    for _ in range(30):
        limit = HUBER_EFFICIENT * spread
        clipped = np.clip(residuals, -limit, limit)
        # 0.7102 = E[min(|z|, 1.345)^2] of a standard Gaussian.
        updated = float(np.sqrt((clipped**2).sum() / (0.7102 * (size - n_free))))
        if abs(updated - spread) <= 1e-10 * spread:
            break
        spread = updated
    return spread


def covariance_of(
    form: LawForm,
    data: Data,
    theta: FloatArray,
    weights: FloatArray,
    delta: float,
    restriction: Restriction | None,
    free: np.ndarray,
    spread: float,
    precision: FloatArray | None = None,
) -> FloatArray:
    """sigma^2 (J'WJ)^-1 over the free directions, times Huber's loss of efficiency; (p, p).

    With priors of the given precisions (p,), which are information beside the runs', the inverse of
    the sum of both.
    """
    p = form.n_params
    basis = np.eye(p) if restriction is None else restriction.basis
    movable = (np.abs(basis) > 0) @ (~free) == 0
    basis = basis[movable]
    covariance = np.full((p, p), np.nan)
    if len(basis) == 0 or not np.isfinite(spread) or data.size <= len(basis):
        return covariance
    jacobian = form.jacobian(theta, data.n, data.d) @ basis.T
    information = (jacobian * weights[:, None]).T @ jacobian
    unit = _huber_inflation(delta / spread) * spread**2 if spread > 0 else spread**2
    if precision is not None:
        information = information + unit * (basis * precision) @ basis.T
    size = np.sqrt(np.diag(information))
    if not (size > 0).all():
        return covariance
    scaled = information / np.outer(size, size)
    if np.linalg.cond(scaled) > 1e13:
        return covariance
    inverse = np.linalg.inv(scaled) / np.outer(size, size)
    return unit * basis.T @ inverse @ basis


def objective_unit(spread: float, delta: float) -> float:
    """What one unit of log-likelihood is in the objective, for Gaussian noise of sd `spread`.

    E[psi^2]/E[psi'], psi clipped at delta: the variance for least squares. The objective's
    curvature over it is the inverse of the estimate's covariance.
    """
    if not spread > 0:
        return 0.0
    second, inside = _clipped_moments(delta / spread)
    return spread**2 * second / inside


def _huber_inflation(ratio: float) -> float:
    """Asymptotic variance of a Huber location fit over least squares, for Gaussian noise.

    E[psi^2]/(E[psi'])^2 with psi clipped at `ratio` standard deviations (Huber 1964).
    """
    second, inside = _clipped_moments(ratio)
    return second / inside**2


def _clipped_moments(ratio: float) -> tuple[float, float]:
    """E[psi^2] and E[psi'] of a standard Gaussian clipped at +-ratio."""
    if not np.isfinite(ratio) or ratio > 8:
        return 1.0, 1.0
    ratio = max(ratio, 1e-3)
    from_centre = np.sqrt(2.0 / np.pi) * ratio * np.exp(-0.5 * ratio**2)
    inside = float(erf(ratio / np.sqrt(2.0)))
    return float(inside - from_centre + ratio**2 * (1.0 - inside)), inside

"""Profile likelihood of the optimal ratio at a target compute.

For a given rho = ln(D/N)_opt(C_t) the optimum (N*, D*) on the cost curve is known, and the first
order condition alpha A N*^-alpha = beta B D*^-beta phi, phi = d ln f/d ln N, eliminates A:

    a = b + ln(beta phi/alpha) + alpha n* - beta d*          (centred coordinates)

The rest of theta is minimised for each rho. The interval is {rho : S(rho) <= S_min (1 + F/(m-p))}
with F the quantile of F(1, m - p): asymmetric where the data are, and open where they say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.cost import CostCurve
from analysis.fit import SurfaceFit
from analysis.laws import FloatArray
from analysis.newton import LOG_FLOOR
from analysis.quantiles import fisher_quantile
from analysis.uncertainty import delta_sd, log_ratios_at

_REACH = np.log(1000.0)
"""The profile is followed to a thousandfold ratio either way."""
MAX_POINTS = 5000
"""Beyond this many points the profile equals the delta method and is not computed."""
_MOST_STEPS = 400
_PROMISE = 1e-9
"""Share of the objective that a step must promise to lower it by for its ratio to go on."""
_DAMPING_MAX = 1e9
_LITTLE = -3.0
"""Ln of E over the mean loss below which a second start has more of it."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Objective as a function of the ratio at the target."""

    log_ratio: FloatArray
    """ln(D/N), increasing, shape (K,)."""
    excess: FloatArray
    """S(rho)/S_min - 1, shape (K,); with priors (S(rho) - S_min) over the runs' part of S_min."""
    interval: tuple[float, float]
    """Ends of D/N; 0 or infinity where the profile is open."""
    confidence: float
    """Nominal coverage."""

    @property
    def is_open(self) -> bool:
        """Whether the profile stays below its threshold on one side."""
        return self.interval[0] == 0.0 or not np.isfinite(self.interval[1])


def profile_ratio(
    fit: SurfaceFit, flops: float, cost: CostCurve, *, confidence: float = 0.95, points: int = 17
) -> Profile | None:
    """Profile likelihood interval of D/N at a compute.

    Args:
        fit: the fit; its objective (least squares or Huber) is profiled.
        flops: the target compute.
        cost: FLOPs per token as a function of N.
        confidence: nominal coverage.
        points: grid points on each side of the estimate.

    Returns:
        The profile; None with as many parameters as points, more than 5,000 points, tied or
        pinned exponents (where the ratio is not free), or an exact fit.
    """
    size, p = fit.data.size, fit.form.n_params
    if size <= p or size > MAX_POINTS or fit.restriction is not None or fit.misfit <= 0:
        return None
    centre = float(log_ratios_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    sd = delta_sd(fit, flops, cost)
    first = sd / 4 if np.isfinite(sd) and 0 < sd < 2 else 0.05
    steps = np.concatenate([np.geomspace(first, _REACH, points)])
    rho = centre + np.concatenate([-steps[::-1], [0.0], steps])
    objective = _profile_objective(fit, rho, flops, cost, fit.theta)
    level = fit.data.level
    if fit.theta[LOG_FLOOR] < level + _LITTLE:
        # In ln E a vanishing E is a place that no step leaves.
        raised = fit.theta.copy()
        raised[LOG_FLOOR] = level - 1.0
        objective = np.minimum(objective, _profile_objective(fit, rho, flops, cost, raised))
    excess = np.maximum((objective - fit.objective) / fit.misfit, 0.0)
    excess[points] = 0.0
    limit = fisher_quantile(confidence, 1, size - p) / (size - p)
    low = _crossing(rho[points::-1], excess[points::-1], limit)
    high = _crossing(rho[points:], excess[points:], limit)
    return Profile(
        log_ratio=rho,
        excess=excess,
        interval=(
            0.0 if low is None else float(np.exp(low)),
            np.inf if high is None else float(np.exp(high)),
        ),
        confidence=confidence,
    )


def _crossing(rho: FloatArray, excess: FloatArray, limit: float) -> float | None:
    """Where the profile first passes its limit going outwards; None when it never does."""
    above = np.flatnonzero(excess > limit)
    if len(above) == 0:
        return None
    j = int(above[0])
    # The square root of the excess is nearly linear in rho (it is |t|), so interpolate that.
    inner, outer = np.sqrt(excess[j - 1]), np.sqrt(excess[j])
    share = (np.sqrt(limit) - inner) / (outer - inner)
    return float(rho[j - 1] + share * (rho[j] - rho[j - 1]))


def _profile_objective(
    fit: SurfaceFit, rho: FloatArray, flops: float, cost: CostCurve, start: FloatArray
) -> FloatArray:
    """Minimum of the objective at each fixed rho, shape (K,), by Levenberg-Marquardt from theta.

    A ratio leaves the batch when a step promises nothing any more: most do within a few steps, and
    one on its way along a curved valley takes hundreds.
    """
    log_n, log_d = _optimum_at(rho, flops, cost)
    held = _Held(
        tilt=np.log(cost.slope(log_n)),
        n=log_n - fit.data.centre[0],
        d=log_d - fit.data.centre[1],
    )
    result = np.empty(len(rho))
    alive = np.arange(len(rho))
    phi = np.repeat(start[None, 1:], len(rho), axis=0)
    damping = np.full(len(rho), 1e-3)
    diagonal = np.arange(phi.shape[1])
    value, slope, normal = _evaluate(fit, phi, held)
    for _ in range(_MOST_STEPS):
        system = normal.copy()
        system[:, diagonal, diagonal] += damping[:, None] * (normal[:, diagonal, diagonal] + 1e-12)
        step = np.linalg.solve(system, -slope[..., None])[..., 0]
        promise = -(step * slope).sum(axis=1)
        done = (promise <= _PROMISE * value) | (damping >= _DAMPING_MAX)
        if done.any():
            result[alive[done]] = value[done]
            keep = ~done
            alive, held = alive[keep], held.rows(keep)
            phi, damping, step = phi[keep], damping[keep], step[keep]
            value, slope, normal = value[keep], slope[keep], normal[keep]
            if not len(alive):
                break
        trial = phi + np.clip(step, -0.5, 0.5)
        trial[:, 2:4] = np.clip(trial[:, 2:4], 0.01, 3.0)
        trial[:, 1] = np.clip(trial[:, 1], fit.data.level - 10.0, fit.data.level + 0.7)
        new = _evaluate(fit, trial, held)
        better = new[0] < value
        phi = np.where(better[:, None], trial, phi)
        slope = np.where(better[:, None], new[1], slope)
        normal = np.where(better[:, None, None], new[2], normal)
        value = np.where(better, new[0], value)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, _DAMPING_MAX)
    result[alive] = value
    return result


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What each fixed ratio says of the optimum: there d ln L/d ln N vanishes along the cost."""

    tilt: FloatArray
    """Ln of the slope of ln C in ln N, shape (K,)."""
    n: FloatArray
    """Centred ln N of the optimum, shape (K,)."""
    d: FloatArray
    """Centred ln D of the optimum, shape (K,)."""

    def rows(self, keep: np.ndarray) -> _Held:
        return _Held(tilt=self.tilt[keep], n=self.n[keep], d=self.d[keep])


def _evaluate(
    fit: SurfaceFit, phi: FloatArray, held: _Held
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Objective (K,), gradient (K, q) and J'WJ (K, q, q) in phi = theta without ln A.

    Ln A follows from the rest: it is what puts the optimum at the held ratio.
    """
    delta, w = fit.huber_delta, fit.weights
    b, alpha, beta = phi[:, 0], phi[:, 2], phi[:, 3]
    a = b + np.log(beta / alpha) + held.tilt + alpha * held.n - beta * held.d
    theta = np.column_stack([a, phi])
    residual = fit.form.log_loss(theta, fit.data.n, fit.data.d) - fit.data.y
    full = fit.form.jacobian(theta, fit.data.n, fit.data.d)
    jacobian = full[..., 1:].copy()
    jacobian[..., 0] += full[..., 0]
    jacobian[..., 2] += full[..., 0] * (held.n - 1 / alpha)[:, None]
    jacobian[..., 3] += full[..., 0] * (1 / beta - held.d)[:, None]
    size = np.abs(residual)
    inside = np.where(size <= delta, 1.0, delta / np.maximum(size, 1e-300)) * w
    if np.isinf(delta):
        value = 0.5 * (w * residual**2).sum(axis=1)
    else:
        quadratic = 0.5 * residual**2
        value = (w * np.where(size <= delta, quadratic, delta * (size - delta / 2))).sum(axis=1)
    weighted = jacobian * inside[..., None]
    normal = np.einsum("kmi,kmj->kij", weighted, jacobian)
    slope = np.einsum("kmi,km->ki", weighted, residual)
    if fit.penalty is not None:
        # Priors are on E and the exponents, never on the eliminated first entry.
        value = value + fit.penalty.value(theta)
        slope = slope + fit.penalty.slope(theta)[:, 1:]
        normal = normal + np.diag(fit.penalty.weight[1:])
    return value, slope, normal


def _optimum_at(rho: FloatArray, flops: float, cost: CostCurve) -> tuple[FloatArray, FloatArray]:
    """Ln N and ln D on the cost curve at ln(D/N) = rho: ln C = ln f(N) + rho + ln N."""
    low, high = np.full(len(rho), -20.0), np.full(len(rho), 120.0)
    for _ in range(70):
        middle = 0.5 * (low + high)
        short = cost.log_cost(middle) + middle + rho < np.log(flops)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    log_n = 0.5 * (low + high)
    return log_n, np.log(flops) - cost.log_cost(log_n)

"""The surface fit (Approach 3), to a certified global minimum.

In: N, D, L. Out: a law's parameters, their covariance and a certificate.

    minimise over theta   sum_i w_i rho_delta(ln L_law(N_i, D_i; theta) - ln L_i)

1. Variable projection: for fixed exponents the Chinchilla law is linear in (E, A, B), so a grid
   over the two exponents with a non-negative least squares inside (relative residuals) finds every
   basin (Czech et al. 2026, arXiv 2603.22339).
2. The best distinct basins are polished by an exact damped Newton in log space, the published
   objective (Hoffmann et al. 2022, eq. 3), through a continuation in the Huber width.
3. The minimum is certified by the starts that agree on it and by its gradient.

The sum, never the mean, is minimised: a mean of terms of size 1e-5 stops optimisers early
(Besiroglu et al. 2024, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from analysis.laws import CHINCHILLA, FloatArray, LawForm, Surface
from analysis.newton import Data, Restriction, Solutions, bounds, minimise

HUBER_PUBLISHED = 1e-3
"""Hoffmann et al. 2022, section 3.3; the compatibility objective."""
MAD_TO_SD = 1.4826
"""Median absolute deviation of a Gaussian to its standard deviation."""
HUBER_EFFICIENT = 1.345
"""Huber width in standard deviations that keeps 95 % efficiency for Gaussian noise."""
_GRID = np.geomspace(0.02, 2.0, 27)
"""Exponents of the variable-projection grid; reaches as far as the published grid of starts."""
_STARTS = 8
_MANY_POINTS = 50_000
"""Above this, basins are sought on a subsample and only the best ends are polished on all."""
_SUBSAMPLE = 5_000
_K_STARTS = (1.0, 0.75, 0.5, 0.35)
"""Outer exponents from which the Skaling law is started."""
_AGREE = 1e-10
"""Starts agree when their objectives differ by less than this share."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Why a fit is taken for the global minimum."""

    starts: int
    """Number of polished starts."""
    agreeing: int
    """Starts that ended within 1e-10 (relative) of the best objective."""
    gradient: float
    """Largest scaled gradient entry at the best."""
    minima: int
    """Distinct local minima met (objectives that differ by more than 1e-6 relative)."""
    runner_up: float
    """Objective of the second-best distinct minimum; infinity when there was one only."""
    runner_up_theta: FloatArray | None
    """Parameters of that minimum, shape (p,)."""


@dataclass(frozen=True, kw_only=True)
class SurfaceFit:
    """One law fitted to one set of points."""

    form: LawForm
    """Which law."""
    surface: Surface
    """The law with its fitted numbers."""
    theta: FloatArray
    """Parameters in centred coordinates, shape (p,)."""
    data: Data
    """The points, in centred logs."""
    weights: FloatArray
    """Weight of each point, shape (m,)."""
    objective: float
    """Sum of Huber terms at the minimum."""
    huber_delta: float
    """Huber width of the objective; infinity = least squares."""
    residuals: FloatArray
    """ln L_law - ln L, shape (m,)."""
    noise_sd: float
    """Residual standard deviation in ln L, robust, corrected for the number of parameters."""
    covariance: FloatArray
    """Covariance of theta (sandwich for Huber), shape (p, p); NaN where not identified."""
    free: np.ndarray
    """Which parameters were fitted and did not end at a limit, shape (p,), bool."""
    restriction: Restriction | None
    """Linear restriction under which theta was fitted, if any."""
    certificate: Certificate
    """Evidence that this is the global minimum."""

    @property
    def n_free(self) -> int:
        """Number of fitted parameters."""
        return self.form.n_params if self.restriction is None else len(self.restriction.basis)

    @property
    def degrees_of_freedom(self) -> int:
        """Points minus fitted parameters (at least 1)."""
        return max(1, self.data.size - self.n_free)

    @property
    def at_bound(self) -> tuple[str, ...]:
        """Names of parameters that ended at a limit."""
        low, high = bounds(self.form, self.data)
        edge = (self.theta <= low + 1e-9) | (self.theta >= high - 1e-9)
        names = self.form.parameter_names
        return tuple(name for name, hit in zip(names, edge, strict=True) if hit)


def centred(N: FloatArray, D: FloatArray, L: FloatArray) -> Data:
    """Centred logs of the points; the centre is the geometric mean of N and of D."""
    log_n, log_d = np.log(N), np.log(D)
    n0, d0 = float(log_n.mean()), float(log_d.mean())
    return Data(n=log_n - n0, d=log_d - d0, y=np.log(L), centre=(n0, d0))


def fit_surface(
    N: FloatArray,
    D: FloatArray,
    L: FloatArray,
    *,
    form: LawForm = CHINCHILLA,
    huber_delta: float | None = None,
    weights: FloatArray | None = None,
    restriction: Restriction | None = None,
    starts: Sequence[Surface] = (),
) -> SurfaceFit:
    """Fit a law to points, to its certified global minimum.

    Args:
        N: parameters, shape (m,).
        D: tokens, shape (m,).
        L: losses, shape (m,), positive.
        form: the law.
        huber_delta: width in ln L; None chooses it from the data (see `data_driven_delta`),
            `inf` is least squares, 1e-3 is the published objective.
        weights: non-negative weights, shape (m,).
        restriction: linear restriction on the centred parameters (see `tied_exponents`).
        starts: extra starting surfaces.

    Returns:
        The fit. Too few points still give one; whether it means anything is for
        `analysis.checks` to say.

    Raises:
        ValueError: when the arrays are empty, differ in length or hold values that are not
            positive and finite.
    """
    N, D, L = (np.asarray(v, dtype=np.float64).ravel() for v in (N, D, L))
    if not len(N) == len(D) == len(L) or len(N) == 0:
        raise ValueError(f"N, D, L must be non-empty and equally long: {len(N)} {len(D)} {len(L)}")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in (N, D, L)):
        raise ValueError("N, D and L must be positive and finite")
    data = centred(N, D, L)
    w = np.ones(len(N)) if weights is None else np.asarray(weights, dtype=np.float64)
    seeds = _seeds(form, data, w, starts)
    if data.size > _MANY_POINTS:
        seeds = _thinned_starts(form, data, w, seeds, restriction)
    if huber_delta is None:
        squares = minimise(form, data, seeds, weights=w, delta=np.inf, restriction=restriction)
        best = squares.theta[int(np.argmin(squares.objective))]
        free = form.n_params if restriction is None else len(restriction.basis)
        huber_delta = data_driven_delta(form.log_loss(best, data.n, data.d) - data.y, free)
        if np.isinf(huber_delta):
            return _finish(form, data, w, squares, huber_delta, restriction)
        seeds = squares.theta
    solved = minimise(form, data, seeds, weights=w, delta=huber_delta, restriction=restriction)
    return _finish(form, data, w, solved, huber_delta, restriction)


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


def tied_exponents(form: LawForm = CHINCHILLA) -> Restriction:
    """Alpha = beta: a constant optimal D/N (Muennighoff et al. 2023; Gadre et al. 2024)."""
    basis = np.delete(np.eye(form.n_params), 4, axis=0)
    basis[3, 4] = 1.0
    return Restriction(basis=basis, offset=np.zeros(form.n_params))


def pinned_exponents(alpha: float, beta: float, *, form: LawForm = CHINCHILLA) -> Restriction:
    """Both exponents held at given values; A, B, E (and k) are fitted."""
    offset = np.zeros(form.n_params)
    offset[3:5] = alpha, beta
    return Restriction(basis=np.delete(np.eye(form.n_params), (3, 4), axis=0), offset=offset)


def refit(
    fit: SurfaceFit,
    weights: FloatArray,
    *,
    targets: FloatArray | None = None,
    huber_delta: float | None = None,
) -> Solutions:
    """Refit a batch of weightings or losses, warm-started at a fit: every bootstrap's engine.

    Args:
        fit: where to start, with its data, law, width and restriction.
        weights: one row per refit, shape (K, m); resampling counts, for instance.
        targets: ln L of each refit, shape (K, m); None = the runs' own.
        huber_delta: another width than the fit's.
    """
    start = np.broadcast_to(fit.theta, (len(weights), fit.form.n_params))
    delta = fit.huber_delta if huber_delta is None else huber_delta
    return minimise(
        fit.form,
        fit.data,
        start,
        weights=weights,
        targets=targets,
        delta=delta,
        restriction=fit.restriction,
        max_steps=50,
        tolerance=1e-8,
    )


def projected_starts(data: Data, weights: FloatArray, *, count: int = _STARTS) -> FloatArray:
    """Starting points from the exponent grid: shape (<= count, 5), best first.

    For exponents (alpha, beta) the relative residuals (E + A N^-alpha + B D^-beta)/L - 1 are
    linear in (E, A, B); their normal equations separate over the grid into matrix products, so
    the whole grid costs O(grid points + grid size x data) operations.
    """
    scale = weights * np.exp(-2.0 * data.y)
    plain = weights * np.exp(-data.y)
    u = np.exp(-np.outer(_GRID, data.n))
    v = np.exp(-np.outer(_GRID, data.d))
    size = len(_GRID)
    gram = np.empty((size, size, 3, 3))
    gram[..., 0, 0] = scale.sum()
    gram[..., 0, 1] = gram[..., 1, 0] = (u @ scale)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (v @ scale)[None, :]
    gram[..., 1, 1] = ((u * u) @ scale)[:, None]
    gram[..., 2, 2] = ((v * v) @ scale)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = (u * scale) @ v.T
    right = np.empty((size, size, 3))
    right[..., 0] = plain.sum()
    right[..., 1] = (u @ plain)[:, None]
    right[..., 2] = (v @ plain)[None, :]
    solution, score = _nnls3(gram.reshape(-1, 3, 3), right.reshape(-1, 3))
    score = score.reshape(size, size)
    order = _grid_minima(score, count)
    floor = np.exp(data.y.mean()) * np.array([1e-3, 1e-4, 1e-4])
    starts = []
    for i, j in order:
        E, A, B = np.maximum(solution[i * size + j], floor)
        starts.append([np.log(A), np.log(B), np.log(E), _GRID[i], _GRID[j]])
    return np.array(starts)


def _nnls3(gram: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Non-negative least squares of three unknowns from normal equations, over a batch.

    Every support of the three is tried; the feasible one with the smallest x'Gx - 2 r'x wins.
    """
    best = np.zeros_like(right)
    score = np.zeros(len(right))
    jitter = 1e-12 * np.einsum("gii->gi", gram)
    for support in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        index = np.array(support)
        block = gram[:, index[:, None], index] + jitter[:, index][:, :, None] * np.eye(len(index))
        x = np.linalg.solve(block, right[:, index][..., None])[..., 0]
        value = -(x * right[:, index]).sum(axis=1)
        wins = (x >= 0).all(axis=1) & (value < score)
        score = np.where(wins, value, score)
        full = np.zeros_like(right)
        full[:, index] = x
        best = np.where(wins[:, None], full, best)
    return best, score


def _grid_minima(score: FloatArray, count: int) -> list[tuple[int, int]]:
    """Cells that are minima of their 5x5 neighbourhood first, then the best of the rest."""
    padded = np.pad(score, 2, constant_values=np.inf)
    window = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    local = score <= window.min(axis=(2, 3))
    order = np.lexsort((score.ravel(), ~local.ravel()))
    width = score.shape[1]
    chosen: list[tuple[int, int]] = []
    for flat in order:
        cell = (int(flat) // width, int(flat) % width)
        # Starts that are neighbours on the grid would only confirm each other.
        if all(max(abs(cell[0] - i), abs(cell[1] - j)) > 2 for i, j in chosen):
            chosen.append(cell)
        if len(chosen) == count:
            break
    return chosen


def _seeds(form: LawForm, data: Data, weights: FloatArray, extra: Sequence[Surface]) -> FloatArray:
    """Starting parameters of a form, shape (starts, p)."""
    projected = projected_starts(data, weights)
    given = [form.to_theta(surface, centre=data.centre) for surface in extra]
    if form.n_params == 5:
        return np.vstack([projected, *given]) if given else projected
    rows = []
    for start in projected[:4]:
        a, b, e, alpha, beta = start
        for k in _K_STARTS:
            # (A N^-alpha)^(1/k) inside the k-th power gives each term its own curve back.
            rows.append([a / k, b / k, e, alpha / k, beta / k, np.log(k)])
    return np.vstack([np.array(rows), *given]) if given else np.array(rows)


def _thinned_starts(
    form: LawForm,
    data: Data,
    weights: FloatArray,
    seeds: FloatArray,
    restriction: Restriction | None,
) -> FloatArray:
    """The two best ends of all starts on an even subsample: the starts for very many points."""
    step = -(-data.size // _SUBSAMPLE)
    part = Data(n=data.n[::step], d=data.d[::step], y=data.y[::step], centre=data.centre)
    ends = minimise(
        form, part, seeds, weights=weights[::step], delta=np.inf, restriction=restriction
    )
    return ends.theta[np.argsort(ends.objective)[:2]]


def _finish(
    form: LawForm,
    data: Data,
    weights: FloatArray,
    solved: Solutions,
    delta: float,
    restriction: Restriction | None,
) -> SurfaceFit:
    """Pick the best minimum, certify it, and attach residuals and covariance."""
    best = int(np.argmin(solved.objective))
    theta, objective = solved.theta[best], float(solved.objective[best])
    unit = max(abs(objective), 1e-20)
    gaps = (solved.objective - objective) / unit
    others = solved.objective[gaps > 1e-6]
    certificate = Certificate(
        starts=len(solved.objective),
        agreeing=int((gaps <= _AGREE).sum()),
        gradient=float(solved.gradient[best]),
        minima=1 + len(np.unique(np.round(others[np.isfinite(others)] / unit, 5))),
        runner_up=float(others.min()) if len(others) else np.inf,
        runner_up_theta=solved.theta[gaps > 1e-6][int(np.argmin(others))] if len(others) else None,
    )
    residuals = form.log_loss(theta, data.n, data.d) - data.y
    n_free = form.n_params if restriction is None else len(restriction.basis)
    low, high = bounds(form, data)
    free = (theta > low + 1e-9) & (theta < high - 1e-9)
    spread = _noise_sd(residuals, weights, n_free, delta)
    covariance = _covariance(form, data, theta, weights, delta, restriction, free, spread)
    return SurfaceFit(
        form=form,
        surface=form.to_surface(theta, centre=data.centre),
        theta=theta,
        data=data,
        weights=weights,
        objective=objective,
        huber_delta=delta,
        residuals=residuals,
        noise_sd=spread,
        covariance=covariance,
        free=free,
        restriction=restriction,
        certificate=certificate,
    )


def _noise_sd(residuals: FloatArray, weights: FloatArray, n_free: int, delta: float) -> float:
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


def _covariance(
    form: LawForm,
    data: Data,
    theta: FloatArray,
    weights: FloatArray,
    delta: float,
    restriction: Restriction | None,
    free: np.ndarray,
    noise_sd: float,
) -> FloatArray:
    """sigma^2 (J'WJ)^-1 over the free directions, times Huber's loss of efficiency."""
    p = form.n_params
    basis = np.eye(p) if restriction is None else restriction.basis
    movable = (np.abs(basis) > 0) @ (~free) == 0
    basis = basis[movable]
    covariance = np.full((p, p), np.nan)
    if len(basis) == 0 or not np.isfinite(noise_sd) or data.size <= len(basis):
        return covariance
    jacobian = form.jacobian(theta, data.n, data.d) @ basis.T
    information = (jacobian * weights[:, None]).T @ jacobian
    size = np.sqrt(np.diag(information))
    if not (size > 0).all():
        return covariance
    scaled = information / np.outer(size, size)
    if np.linalg.cond(scaled) > 1e13:
        return covariance
    inverse = np.linalg.inv(scaled) / np.outer(size, size)
    inflation = _huber_inflation(delta / noise_sd) if noise_sd > 0 else 1.0
    return inflation * noise_sd**2 * basis.T @ inverse @ basis


def _huber_inflation(ratio: float) -> float:
    """Asymptotic variance of a Huber location fit over least squares, for Gaussian noise.

    E[psi^2]/(E[psi'])^2 with psi clipped at `ratio` standard deviations (Huber 1964).
    """
    if not np.isfinite(ratio) or ratio > 8:
        return 1.0
    ratio = max(ratio, 1e-3)
    from_centre = np.sqrt(2.0 / np.pi) * ratio * np.exp(-0.5 * ratio**2)
    inside = float(erf(ratio / np.sqrt(2.0)))
    second = inside - from_centre + ratio**2 * (1.0 - inside)
    return second / inside**2

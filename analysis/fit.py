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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws import CHINCHILLA, FloatArray, LawForm, Surface
from analysis.newton import (
    LARGEST_EXPONENT,
    Data,
    Penalty,
    Restriction,
    Solutions,
    bounds,
    minimise,
)
from analysis.priors import Prior, applicable, centre_and_precision
from analysis.settling import settle
from analysis.spread import covariance_of, data_driven_delta, noise_sd, objective_unit
from analysis.starts import MANY_POINTS, seeds, thinned_starts
from analysis.surface_words import surface_dict, surface_latex, surface_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    """Sum of Huber terms at the minimum, and of the priors' terms where there are any."""
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
    priors: tuple[Prior, ...] = ()
    """Priors that the law was fitted under."""
    penalty: Penalty | None = None
    """Their terms in the objective; None without a prior."""

    @property
    def misfit(self) -> float:
        """The objective's part that the runs have: sum of Huber terms."""
        if self.penalty is None:
            return self.objective
        return self.objective - float(self.penalty.value(self.theta[None])[0])

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
        """Names of parameters that ended at a limit, or beyond what an exponent can mean."""
        low, high = bounds(self.form, self.data)
        edge = (self.theta <= low + 1e-9) | (self.theta >= high - 1e-9)
        edge[3:5] |= self.theta[3:5] >= LARGEST_EXPONENT
        names = self.form.parameter_names
        return tuple(name for name, hit in zip(names, edge, strict=True) if hit)

    def __str__(self) -> str:
        return surface_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The fit as plain values; None where a number is not finite."""
        return surface_dict(self)

    def to_latex(self) -> str:
        """The law as a LaTeX table."""
        return surface_latex(self)

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """Loss against N with the law at equal compute, C = 6 N D; see `analysis.drawing`."""
        from analysis.drawing import draw_surface

        return draw_surface(self, ax=ax, path=path)


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
    priors: Sequence[Prior] = (),
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
        priors: what is known of E and the exponents beforehand; none by default. Their weight
            rests on the noise of the fit without them.

    Returns:
        The fit. Too few points still give one; whether it means anything is for
        `analysis.checks` to say.

    Raises:
        ValueError: when the arrays are empty, differ in length or hold values that are not
            positive and finite; when a parameter has two priors, or there are priors and no more
            runs than parameters.
    """
    if taken := applicable(priors, form):
        plain = fit_surface(
            N,
            D,
            L,
            form=form,
            huber_delta=huber_delta,
            weights=weights,
            restriction=restriction,
            starts=starts,
        )
        return _under_priors(plain, taken)
    N, D, L = (np.asarray(v, dtype=np.float64).ravel() for v in (N, D, L))
    if not len(N) == len(D) == len(L) or len(N) == 0:
        raise ValueError(f"N, D, L must be non-empty and equally long: {len(N)} {len(D)} {len(L)}")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in (N, D, L)):
        raise ValueError("N, D and L must be positive and finite")
    data = centred(N, D, L)
    w = np.ones(len(N)) if weights is None else np.asarray(weights, dtype=np.float64)
    first = seeds(form, data, w, starts)
    if data.size > MANY_POINTS:
        first = thinned_starts(form, data, w, first, restriction)
    if huber_delta is None:
        squares = minimise(form, data, first, weights=w, delta=np.inf, restriction=restriction)
        squares = settle(form, data, squares, weights=w, delta=np.inf, restriction=restriction)
        best = squares.theta[int(np.argmin(squares.objective))]
        free = form.n_params if restriction is None else len(restriction.basis)
        huber_delta = data_driven_delta(form.log_loss(best, data.n, data.d) - data.y, free)
        if np.isinf(huber_delta):
            return _finish(form, data, w, squares, huber_delta, restriction)
        first = squares.theta
    solved = minimise(form, data, first, weights=w, delta=huber_delta, restriction=restriction)
    solved = settle(form, data, solved, weights=w, delta=huber_delta, restriction=restriction)
    return _finish(form, data, w, solved, huber_delta, restriction)


def _under_priors(plain: SurfaceFit, priors: tuple[Prior, ...]) -> SurfaceFit:
    """The fit again with the priors' terms in its objective."""
    if not np.isfinite(plain.noise_sd):
        raise ValueError(
            f"a prior is weighed by the noise of the runs, and {plain.data.size} runs leave none "
            f"to see beside {plain.n_free} parameters; give more runs"
        )
    centre, precision = centre_and_precision(priors, plain.form)
    penalty = Penalty(
        centre=centre, weight=precision * objective_unit(plain.noise_sd, plain.huber_delta)
    )
    first = seeds(plain.form, plain.data, plain.weights, ())
    if plain.data.size > MANY_POINTS:
        first = plain.theta[None]
    known = np.where(precision > 0, centre, plain.theta)
    solved = minimise(
        plain.form,
        plain.data,
        np.vstack([plain.theta, known, first]),
        weights=plain.weights,
        delta=plain.huber_delta,
        restriction=plain.restriction,
        penalty=penalty,
    )
    found = _finish(
        plain.form,
        plain.data,
        plain.weights,
        settle(
            plain.form,
            plain.data,
            solved,
            weights=plain.weights,
            delta=plain.huber_delta,
            restriction=plain.restriction,
            penalty=penalty,
        ),
        plain.huber_delta,
        plain.restriction,
        precision=precision,
    )
    return replace(found, priors=priors, penalty=penalty)


def drawn_penalty(fit: SurfaceFit, count: int, *, seed: int) -> Penalty | None:
    """The priors of each of `count` refits: a prior is resampled as a measurement would be.

    Refits that all pulled to the same centre would scatter less than the runs and the prior allow.
    """
    if fit.penalty is None:
        return None
    _, precision = centre_and_precision(fit.priors, fit.form)
    sd = np.where(precision > 0, 1.0 / np.sqrt(np.where(precision > 0, precision, 1.0)), 0.0)
    noise = np.random.default_rng(seed).standard_normal((count, fit.form.n_params))
    return Penalty(centre=fit.penalty.centre + sd * noise, weight=fit.penalty.weight)


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
    penalty: Penalty | None = None,
) -> Solutions:
    """Refit a batch of weightings or losses, warm-started at a fit: every bootstrap's engine.

    Args:
        fit: where to start, with its data, law, width and restriction.
        weights: one row per refit, shape (K, m); resampling counts, for instance.
        targets: ln L of each refit, shape (K, m); None = the runs' own.
        huber_delta: another width than the fit's.
        penalty: priors of the refits; None = the fit's own.
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
        penalty=fit.penalty if penalty is None else penalty,
        max_steps=300,
        tolerance=1e-8,
    )


def _finish(
    form: LawForm,
    data: Data,
    weights: FloatArray,
    solved: Solutions,
    delta: float,
    restriction: Restriction | None,
    *,
    precision: FloatArray | None = None,
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
    spread = noise_sd(residuals, weights, n_free, delta)
    covariance = covariance_of(
        form, data, theta, weights, delta, restriction, free, spread, precision
    )
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

"""Batched damped Newton for sum-of-Huber fits of ln L.

In: a law form, centred data, one weight row per problem, starting points. Out: the minimum of

    sum_i w_i rho_delta(f(theta; x_i) - y_i),   rho_delta(r) = r^2/2 if |r| <= delta
                                                 else delta (|r| - delta/2)

for every problem at once. The exact Hessian is assembled from the law's channel derivatives with
a few matrix products (problems, points) x (points, 3), so thousands of bootstrap refits of one
table cost about as much as one product each. A Newton step uses |eigenvalue| of the scaled
Hessian plus a damping per problem (it then descends where the Hessian is indefinite, which a
small delta makes common); a step that leaves a curved valley is first brought back to its floor by
a second one; a problem that has converged leaves the batch. A small delta is reached through larger
ones: started directly at 1e-3, a fit stays near its start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.laws import FloatArray, LawForm, linear_forms

DELTA_STEPS = (1.0, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""Huber widths on the way to a small one."""
_STRETCH = 20_000
"""Points whose derivatives are summed at a time."""
_CHUNK_CELLS = 40_000
"""Problems are solved in blocks of about this many (problem, point) cells, to stay in cache."""
_DAMPING, _DAMPING_MAX = 1e-6, 1e12
"""First and last, on the curvature of the scaled Hessian."""
_ROUNDING = 1e-7
"""Newton decrement, in units of the objective's scale, that rounding alone can leave."""
LOG_FLOOR = 2
"""Place of ln E in theta."""
LEAST_EXPONENT = 0.005
LARGEST_EXPONENT = 3.0
"""A fit may pass it on the way to a minimum, but an exponent beyond it is none of a scaling law."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a surface is fitted to, in centred logs."""

    n: FloatArray
    """ln N - n0, shape (m,)."""
    d: FloatArray
    """ln D - d0, shape (m,)."""
    y: FloatArray
    """ln L, shape (m,)."""
    centre: tuple[float, float]
    """(n0, d0)."""

    @property
    def size(self) -> int:
        """Number of points m."""
        return len(self.y)

    @cached_property
    def level(self) -> float:
        """Mean of ln L."""
        return float(np.mean(self.y))

    @cached_property
    def stretches(self) -> tuple[tuple[slice, Data], ...]:
        """The points in stretches short enough for the cache, with their places."""
        if self.size <= _STRETCH:
            return ((slice(None), self),)
        places = [slice(first, first + _STRETCH) for first in range(0, self.size, _STRETCH)]
        return tuple(
            (at, Data(n=self.n[at], d=self.d[at], y=self.y[at], centre=self.centre))
            for at in places
        )

    @cached_property
    def levers(self) -> tuple[tuple[list[int], FloatArray], ...]:
        """How each channel moves with theta: indices and factors (m, indices), per channel.

        z_A = a - alpha n moves with entries 0 and 3, z_B = b - beta d with 1 and 4, e and kappa
        with one entry each.
        """
        one = np.ones_like(self.n)
        return (
            ([0, 3], np.stack([one, -self.n], axis=1)),
            ([1, 4], np.stack([one, -self.d], axis=1)),
            ([2], one[:, None]),
            ([5], one[:, None]),
        )

    @cached_property
    def lever_pairs(self) -> dict[tuple[int, int], tuple[list[int], list[int], FloatArray]]:
        """Rows, columns and products of factors (m, entries) of each pair of channels."""
        pairs = {}
        for j, (index_j, factors_j) in enumerate(self.levers):
            for i, (index_i, factors_i) in enumerate(self.levers[: j + 1]):
                rows = [a for a in index_i for _ in index_j]
                columns = [b for _ in index_i for b in index_j]
                products = factors_i[:, :, None] * factors_j[:, None, :]
                pairs[i, j] = (rows, columns, products.reshape(len(self.n), -1))
        return pairs


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """Which parameters move, and how: theta = offset + phi @ basis."""

    basis: FloatArray
    """Rows span the directions that may move, shape (q, p)."""
    offset: FloatArray
    """Values of what may not, shape (p,)."""

    @staticmethod
    def none(form: LawForm) -> Restriction:
        """Every parameter moves."""
        return Restriction(basis=np.eye(form.n_params), offset=np.zeros(form.n_params))

    def with_floor(self, log_floor: float) -> Restriction:
        """The same with ln E held."""
        offset = self.offset.copy()
        offset[LOG_FLOOR] = log_floor
        return Restriction(basis=self.basis[self.basis[:, LOG_FLOOR] == 0], offset=offset)


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A quadratic added to the objective: sum_j weight_j (theta_j - centre_j)^2/2."""

    centre: FloatArray
    """Shape (p,), or (K, p) with a centre for each problem."""
    weight: FloatArray
    """Non-negative, shape (p,)."""

    def value(self, theta: FloatArray) -> FloatArray:
        """The term at theta of shape (K, p); result (K,)."""
        return 0.5 * ((theta - self.centre) ** 2 @ self.weight)

    def slope(self, theta: FloatArray) -> FloatArray:
        """Its gradient at theta, shape (K, p)."""
        return self.weight * (theta - self.centre)

    def rows(self, chosen: slice | np.ndarray) -> Penalty:
        """The penalty of some of the problems."""
        if self.centre.ndim == 1:
            return self
        return Penalty(centre=self.centre[chosen], weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Solutions:
    """Minima of a batch of problems."""

    theta: FloatArray
    """Parameters, shape (K, p)."""
    objective: FloatArray
    """Sum of Huber terms and penalty, shape (K,)."""
    gradient: FloatArray
    """Largest absolute gradient entry of the free parameters, over max(delta, rms)^2, (K,)."""
    converged: np.ndarray
    """Whether the Newton decrement reached the tolerance, shape (K,), bool."""


def bounds(form: LawForm, data: Data) -> tuple[FloatArray, FloatArray]:
    """Lower and upper limits of theta that keep a fit finite, each of shape (p,).

    The exponents stay in [0.005, 8], E between e^-10 and e^0.7 times the geometric mean loss,
    Skaling's k in [0.05, 20].
    """
    level = data.level
    low = np.array(
        [level - 60.0, level - 60.0, level - 10.0, LEAST_EXPONENT, LEAST_EXPONENT, np.log(0.05)]
    )
    high = np.array([level + 60.0, level + 60.0, level + 0.7, 8.0, 8.0, np.log(20.0)])
    return low[: form.n_params], high[: form.n_params]


def minimise(
    form: LawForm,
    data: Data,
    start: FloatArray,
    *,
    weights: FloatArray | None = None,
    targets: FloatArray | None = None,
    delta: float,
    restriction: Restriction | None = None,
    penalty: Penalty | None = None,
    continuation: bool = True,
    max_steps: int = 60,
    tolerance: float = 1e-13,
) -> Solutions:
    """Minimise a batch of weighted Huber objectives.

    Args:
        form: the law.
        data: the points, m of them.
        start: starting parameters, shape (K, p).
        weights: non-negative, shape (K, m) or (m,); None = 1. Resampling is a matter of weights.
        targets: ln L to fit in place of the data's, shape (K, m) or (m,); None = the data's.
        delta: Huber width; `inf` is least squares.
        restriction: linear restriction on theta (tied or pinned exponents).
        penalty: quadratic in theta that is added to the objective (priors).
        continuation: approach a small delta through larger ones.
        max_steps: Newton steps per delta.
        tolerance: Newton decrement, in units of the objective's scale, at which to stop.

    Returns:
        One solution per start.
    """
    start = np.atleast_2d(np.asarray(start, dtype=np.float64))
    problems = _Problems(
        form=form,
        data=data,
        weights=np.ones((1, data.size)) if weights is None else np.atleast_2d(weights),
        targets=np.atleast_2d(data.y if targets is None else targets),
        delta=delta,
        penalty=penalty,
    )
    widths = [w for w in DELTA_STEPS if w > delta * 1.0001] if continuation else []
    block = max(1, _CHUNK_CELLS // max(data.size, 1))
    parts = []
    for first in range(0, len(start), block):
        rows = slice(first, first + block)
        theta, part = start[rows], problems.rows(rows)
        for width in widths:
            wide = replace(part, delta=width)
            most = 12 if width > 1e-2 else 25
            theta = _newton(wide, theta, restriction, max_steps=most, tolerance=1e-5).theta
        parts.append(_newton(part, theta, restriction, max_steps=max_steps, tolerance=tolerance))
    return Solutions(
        theta=np.concatenate([p.theta for p in parts]),
        objective=np.concatenate([p.objective for p in parts]),
        gradient=np.concatenate([p.gradient for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class _Problems:
    """A batch of K objectives over the same points."""

    form: LawForm
    data: Data
    weights: FloatArray
    """Shape (K, m), or (1, m) for all."""
    targets: FloatArray
    """Ln L to fit, shape (K, m), or (1, m) for all."""
    delta: float
    penalty: Penalty | None

    def rows(self, chosen: slice | np.ndarray) -> _Problems:
        """Some of the problems."""
        return replace(
            self,
            weights=self.weights if len(self.weights) == 1 else self.weights[chosen],
            targets=self.targets if len(self.targets) == 1 else self.targets[chosen],
            penalty=None if self.penalty is None else self.penalty.rows(chosen),
        )

    def at(self, theta: FloatArray) -> _Point:
        """Value and derivatives at theta (K, p), moved into its limits."""
        theta = np.clip(theta, *bounds(self.form, self.data))
        return _Point(
            theta,
            *derivatives(
                self.form,
                self.data,
                theta,
                self.weights,
                self.delta,
                targets=self.targets,
                penalty=self.penalty,
            ),
        )

    @cached_property
    def mass(self) -> FloatArray:
        """Sum of weights, shape (K,) or (1,)."""
        return np.maximum(self.weights.sum(axis=1), 1e-300)

    def scale(self, value: FloatArray) -> FloatArray:
        """Natural unit of the objectives: a squared residual (mean, floored by rounding), (K,)."""
        mean = np.maximum(2.0 * value / self.mass, 1e-24)
        return np.minimum(mean, self.delta**2) if np.isfinite(self.delta) else mean


@dataclass(frozen=True)
class _Point:
    """Where a batch of problems stands."""

    theta: FloatArray
    """(K, p)."""
    value: FloatArray
    """(K,)."""
    gradient: FloatArray
    """(K, p)."""
    hessian: FloatArray
    """(K, p, p)."""

    def rows(self, chosen: np.ndarray) -> _Point:
        return _Point(*(part[chosen] for part in self._parts))

    def replaced(self, chosen: np.ndarray, by: _Point) -> _Point:
        """The same with the chosen rows (indices or a mask) those of another."""
        wholes = [part.copy() for part in self._parts]
        for whole, part in zip(wholes, by._parts, strict=True):
            whole[chosen] = part
        return _Point(*wholes)

    @property
    def _parts(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        return self.theta, self.value, self.gradient, self.hessian


def _newton(
    problems: _Problems,
    theta: FloatArray,
    restriction: Restriction | None,
    *,
    max_steps: int,
    tolerance: float,
) -> Solutions:
    allowed = Restriction.none(problems.form) if restriction is None else restriction
    if restriction is not None:
        basis = restriction.basis
        inside = np.linalg.lstsq(basis.T, (theta - restriction.offset).T, rcond=None)[0]
        theta = restriction.offset + inside.T @ basis
    point = problems.at(theta)
    result = Solutions(
        theta=point.theta.copy(),
        objective=point.value.copy(),
        gradient=np.zeros(len(theta)),
        converged=np.zeros(len(theta), dtype=bool),
    )
    alive = np.arange(len(theta))
    damping = np.full(len(theta), _DAMPING)
    for step in range(max_steps + 1):
        scale = problems.scale(point.value)
        free_gradient, direction, decrement = _direction(problems, point, allowed.basis, damping)
        done = decrement <= tolerance * np.maximum(scale, 1e-300)
        leave = done | (damping > _DAMPING_MAX) | (step == max_steps)
        if leave.any():
            at = alive[leave]
            result.theta[at] = point.theta[leave]
            result.objective[at] = point.value[leave]
            result.gradient[at] = np.abs(free_gradient[leave]).max(axis=1) / scale[leave]
            # At the limit of rounding a step can no longer lower the objective: that is a minimum
            # when the decrement is already at the rounding error of the objective itself.
            result.converged[at] = (done | (decrement <= _ROUNDING * scale))[leave]
            keep = ~leave
            if not keep.any():
                break
            alive, damping, direction = alive[keep], damping[keep], direction[keep]
            decrement, scale = decrement[keep], scale[keep]
            problems, point = problems.rows(keep), point.rows(keep)
        new = problems.at(point.theta + direction)
        # A step to where a law overflows, or that promised no more than rounding, is only rejected.
        lost = np.flatnonzero(
            ~(new.value < point.value)
            & (decrement > _ROUNDING * scale)
            & np.isfinite(new.hessian).all(axis=(1, 2))
        )
        if len(lost):
            back = _back_to_the_floor(problems.rows(lost), new.rows(lost), allowed.basis)
            new = new.replaced(lost, back)
        better = new.value < point.value
        point = point.replaced(better, new.rows(better))
        damping = np.where(better, np.maximum(damping * 0.1, 1e-14), damping * 10.0)
    return result


def _back_to_the_floor(problems: _Problems, point: _Point, basis: FloatArray) -> _Point:
    """Steps that raised the objective, each with a second one from where it led.

    The floor of a valley is curved in the logs of A, B and E and the exponents, so a straight step
    along it ends on its wall; the next Newton step leads down again, further along the floor.
    """
    _, direction, _ = _direction(problems, point, basis, np.full(len(point.theta), _DAMPING))
    return problems.at(point.theta + direction)


def _direction(
    problems: _Problems, point: _Point, basis: FloatArray, damping: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Projected gradient (K, q), step (K, p) and Newton decrement (K,) in the span of a basis."""
    low, high = bounds(problems.form, problems.data)
    theta, gradient = point.theta, point.gradient
    free = ~(((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0)))
    # A parameter held at its limit stops every direction that moves it.
    held = (~free).astype(np.float64) @ (np.abs(basis).T > 0) > 0
    g = np.where(held, 0.0, gradient @ basis.T)
    h = basis @ point.hessian @ basis.T
    mask = (~held).astype(np.float64)
    h = h * mask[:, :, None] * mask[:, None, :]
    diagonal = np.sqrt(np.abs(np.einsum("kii->ki", h)))
    top = diagonal.max(axis=1, keepdims=True)
    # Without any curvature there is no unit to measure in, and a tiny one would overflow.
    size = np.where(held | (top < 1e-100), 1.0, np.maximum(diagonal, 1e-9 * top))
    scaled = h / (size[:, :, None] * size[:, None, :])
    values, vectors = np.linalg.eigh(scaled)
    curvature = np.maximum(np.abs(values), 1e-14) + damping[:, None]
    along = np.einsum("kji,kj->ki", vectors, g / size)
    step = -np.einsum("kij,kj->ki", vectors, along / curvature) / size
    decrement = (along * along / curvature).sum(axis=1)
    return g, step @ basis, decrement


def derivatives(
    form: LawForm,
    data: Data,
    theta: FloatArray,
    weights: FloatArray,
    delta: float,
    *,
    targets: FloatArray | None = None,
    penalty: Penalty | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Objective (K,), gradient (K, p) and exact Hessian (K, p, p) of a batch of fits.

    Args:
        form: the law.
        data: the points.
        theta: parameters, shape (K, p).
        weights: shape (K, m) or (1, m).
        delta: Huber width, `inf` for least squares.
        targets: ln L in place of the data's, shape (K, m) or (1, m); None = the data's.
        penalty: quadratic in theta that is added.
    """
    y = data.y[None] if targets is None else targets
    count, p = len(theta), form.n_params
    value, gradient, hessian = np.zeros(count), np.zeros((count, p)), np.zeros((count, p, p))
    for rows, part in data.stretches:
        sums = _sums(form, part, theta, weights[:, rows], y[:, rows], delta)
        value, gradient, hessian = value + sums[0], gradient + sums[1], hessian + sums[2]
    if penalty is not None:
        value = value + penalty.value(theta)
        gradient = gradient + penalty.slope(theta)
        hessian[:, np.arange(p), np.arange(p)] += penalty.weight
    return value, gradient, hessian


def _sums(
    form: LawForm,
    data: Data,
    theta: FloatArray,
    weights: FloatArray,
    targets: FloatArray,
    delta: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Objective, gradient and Hessian of a stretch of the points, without penalty."""
    law = form.channels(*linear_forms(theta, data.n, data.d))
    residual = law.value - targets
    if np.isinf(delta):
        inside = np.broadcast_to(weights, residual.shape)
        pull = weights * residual
        value = 0.5 * (pull * residual).sum(axis=1)
    else:
        clipped = np.clip(residual, -delta, delta)
        inside = weights * (np.abs(residual) <= delta)
        pull = weights * clipped
        # rho = clipped * (r - clipped/2) holds on both branches.
        value = (pull * (residual - 0.5 * clipped)).sum(axis=1)
    first = law.first
    count, p = len(theta), form.n_params
    gradient = np.empty((count, p))
    hessian = np.empty((count, p, p))
    for j, (index, factors) in enumerate(data.levers[: len(first)]):
        gradient[:, index] = (pull * first[j]) @ factors
        for i in range(j + 1):
            bend = inside * first[i] * first[j]
            if (i, j) in law.second:
                bend = bend + pull * law.second[i, j]
            rows, columns, products = data.lever_pairs[i, j]
            block = bend @ products
            hessian[:, rows, columns] = block
            hessian[:, columns, rows] = block
    return value, gradient, hessian

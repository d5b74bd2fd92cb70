"""Where fits start: every basin that variable projection over the exponents finds.

For fixed exponents the Chinchilla law is linear in (E, A, B), so a grid over the two exponents with
a non-negative least squares inside (relative residuals) stands for every start with those exponents
(Czech et al. 2026, arXiv 2603.22339).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.laws import FloatArray, LawForm, Surface
from analysis.newton import Data, Restriction, minimise

_GRID = np.geomspace(0.02, 2.0, 27)
"""Exponents of the variable-projection grid; reaches as far as the published grid of starts."""
_STARTS = 8
MANY_POINTS = 5_000
"""Above this, basins are sought on a subsample and only the best ends are polished on all."""
_SUBSAMPLE = 2_500
_K_STARTS = (1.0, 0.75, 0.5, 0.35)
"""Outer exponents from which the Skaling law is started."""


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
    floor = np.exp(data.level) * np.array([1e-3, 1e-4, 1e-4])
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


def seeds(form: LawForm, data: Data, weights: FloatArray, extra: Sequence[Surface]) -> FloatArray:
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


def thinned_starts(
    form: LawForm,
    data: Data,
    weights: FloatArray,
    first: FloatArray,
    restriction: Restriction | None,
) -> FloatArray:
    """The two best ends of all starts on a subsample: the starts for very many points.

    The subsample is drawn: every k-th run of a sorted design could be all of one size.
    """
    drawn = np.random.default_rng(0).choice(data.size, _SUBSAMPLE, replace=False)
    part = Data(n=data.n[drawn], d=data.d[drawn], y=data.y[drawn], centre=data.centre)
    ends = minimise(
        form, part, first, weights=weights[drawn], delta=np.inf, restriction=restriction
    )
    return ends.theta[np.argsort(ends.objective)[:2]]

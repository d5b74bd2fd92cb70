"""A fitted surface as one picture, for a notebook; beside the report the only room that draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.cost import SIX_N, CostCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.fit import SurfaceFit

_CURVES = 5


def draw_surface(
    fit: SurfaceFit,
    *,
    cost: CostCurve = SIX_N,
    ax: Axes | None = None,
    path: str | Path | None = None,
) -> Axes:
    """Loss against N: the runs coloured by compute, the law at equal compute, and its optima.

    Args:
        fit: the law.
        cost: FLOPs per token as a function of N.
        ax: where to draw; None makes a figure.
        path: file to save the figure to, by its ending; None saves none.

    Returns:
        The axes.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    if ax is None:
        # A figure of its own, known to no global state: whoever draws in a loop leaks nothing.
        ax = Figure(figsize=(6.4, 4.2), layout="constrained").subplots()
    N = np.exp(fit.data.n + fit.data.centre[0])
    D = np.exp(fit.data.d + fit.data.centre[1])
    L, C = np.exp(fit.data.y), np.asarray(cost(N)) * D
    norm = LogNorm(C.min(), C.max() * (1 + 1e-9) if C.max() > C.min() else 2 * C.max())
    colours = colormaps["viridis"]
    sizes = np.geomspace(N.min() / 2, N.max() * 2, 200)
    best = []
    for flops in np.geomspace(C.min(), C.max(), _CURVES):
        tokens = flops / np.asarray(cost(sizes))
        loss = np.asarray(fit.surface.loss(sizes, tokens))
        shown = loss <= 1.1 * L.max()
        ax.plot(sizes[shown], loss[shown], color=colours(norm(flops)), lw=1)
        best.append((sizes[loss.argmin()], loss.min()))
    ax.plot(*zip(*best, strict=True), "k--", lw=1, label="optimum of the law")
    points = ax.scatter(N, L, c=C, cmap=colours, norm=norm, s=14, zorder=3)
    ax.figure.colorbar(points, ax=ax, label="compute, FLOPs")
    ax.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="loss L")
    ax.legend(frameon=False)
    if path is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(path)
    return ax

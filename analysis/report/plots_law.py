"""The fitted law: contours over N and D with the frontier, and loss against compute.

In: an `Evidence`. Out: `Picture`s. Without an answer the runs are drawn alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.laws import FloatArray
from analysis.report.evidence import Evidence, Optimum, Run
from analysis.report.picture import (
    RUN_COLUMNS,
    Picture,
    PointNames,
    level_styles,
    mark_runs,
    run_rows,
    side_labels,
    star,
    thinned,
)
from analysis.report.plot_axes import (
    COMPUTE_LABEL,
    DECADES,
    TOKEN_LABEL,
    group_labels,
    loss_axis,
    parameter_label,
)
from analysis.report.plot_style import (
    DASHES,
    PAPER,
    SMALL,
    VERMILION,
    log_axis,
    new_figure,
    padded,
    ramp,
)
from analysis.report.words import (
    count,
    known,
    listed,
    plural,
    power,
    si,
    significant,
)

_CONTOURS = 9
_GRID = 90


def surface_picture(evidence: Evidence) -> Picture | None:
    """Runs in the plane of N and D, contours of the fitted loss, lines of equal compute."""
    runs = [r for r in evidence.runs if known(r.params) and known(r.tokens) and r.tokens > 0]
    if not runs:
        return None
    figure, (ax,) = new_figure(height=4.3)
    styles = level_styles(evidence)
    names: PointNames = {}
    frontier = [r for r in evidence.path if r.flops <= _far(evidence)]
    x_limits = padded([r.params for r in runs] + [r.params for r in frontier])
    y_limits = padded([r.tokens for r in runs] + [r.tokens for r in frontier])
    log_axis(ax, "x", parameter_label(evidence), x_limits, "si")
    log_axis(ax, "y", TOKEN_LABEL, y_limits, "si")
    if evidence.surface is not None:
        _contours(ax, evidence, x_limits, y_limits)
    labels = _equal_compute(ax, evidence, x_limits, y_limits) or group_labels(
        evidence, {r.group: r.tokens for r in runs}
    )
    if len(frontier) > 1 and evidence.answer:
        C = _between(frontier)
        N, D = (evidence.along_frontier(name, C) for name in ("params", "tokens"))
        frontier_line(ax, evidence, N, D, C)
        star(ax, evidence.answer.params, evidence.answer.tokens, colour=VERMILION, size=170)
        ax.annotate(
            f"target: {count(evidence.answer.tokens_per_parameter)} tokens per parameter",
            (evidence.answer.params, evidence.answer.tokens),
            xytext=(-9, 5),
            textcoords="offset points",
            ha="right",
            fontsize=SMALL,
            color=VERMILION,
            zorder=7,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    mark_runs(
        ax,
        runs,
        [r.params for r in runs],
        [r.tokens for r in runs],
        styles=styles,
        names=names,
        group="plane",
    )
    side_labels(ax, labels)
    return Picture(
        slug="surface",
        title="Where the runs lie, and the fitted loss between them",
        caption=(
            "Each point is a run. "
            + ("Dotted lines join equal compute. " if evidence.levels else DECADES + " ")
            + (
                "Thin contours are the fitted loss. The heavy line is the compute-optimal "
                "frontier: solid where runs reach, dashed beyond them; the star is the target."
                if evidence.answer
                else "No frontier is drawn: the fit was refused."
            )
        ),
        alt=_surface_alt(evidence, runs),
        columns=RUN_COLUMNS,
        rows=run_rows(runs),
        figure=figure,
        names=names,
    )


def _far(evidence: Evidence) -> float:
    """Largest compute that is drawn: the target, or three times the largest run."""
    return max(evidence.target or 0.0, 3.0 * evidence.max_flops) * 1.001


def _between(rows: Sequence[Optimum]) -> FloatArray:
    """Computes from the first row to the last, evenly in ln C."""
    return np.geomspace(rows[0].flops, rows[-1].flops, 60)


def _contours(
    ax: Axes, evidence: Evidence, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> None:
    assert evidence.surface is not None
    N = np.geomspace(*x_limits, _GRID)
    D = np.geomspace(*y_limits, _GRID)
    loss = evidence.surface.loss(N[None, :], D[:, None])
    shares = np.linspace(0.02, 0.97, _CONTOURS)
    levels = sorted({float(f"{v:.3g}") for v in np.quantile(loss, shares)})
    if len(levels) < 2 or not levels[-1] > levels[0]:
        return
    colours = [ramp(len(levels) - 1 - i, len(levels)) for i in range(len(levels))]
    drawn = ax.contour(N, D, loss, levels=levels, colors=colours, linewidths=0.8, zorder=1)
    for text in ax.clabel(drawn, fmt=lambda v: significant(v, 3), fontsize=7, inline_spacing=2):
        text.set_zorder(2)


def _equal_compute(
    ax: Axes, evidence: Evidence, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> list[tuple[float, str, str]]:
    """Lines of equal compute for the levels; returns their labels at the right edge."""
    if evidence.cost is None:
        return []
    order = {v.name: v.flops for v in evidence.levels}
    styles = level_styles(evidence)
    labels = []
    for name, flops in order.items():
        N = np.geomspace(*x_limits, 60)
        D = flops / evidence.cost(N)
        inside = (y_limits[0] <= D) & (y_limits[1] >= D)
        if not inside.any():
            continue
        colour = styles.get(name, styles[""]).colour
        ax.plot(N[inside], D[inside], linestyle=DASHES[2], color=colour, linewidth=1.0, zorder=1)
        labels.append((max(float(D[-1]), y_limits[0]), f"{power(flops, 2)} FLOPs", colour))
    return thinned(labels)


def frontier_line(
    ax: Axes,
    evidence: Evidence,
    x: FloatArray,
    y: FloatArray,
    flops: FloatArray,
) -> None:
    """The optimum through compute: solid up to the largest run, dashed beyond."""
    inside = flops <= evidence.max_flops * 1.02
    reach = max(int(inside.sum()), 1)
    ax.plot(x[:reach], y[:reach], color=VERMILION, linewidth=2.4, zorder=3)
    ax.plot(
        x[reach - 1 :],
        y[reach - 1 :],
        color=VERMILION,
        linewidth=2.0,
        linestyle=DASHES[1],
        zorder=3,
    )


def _surface_alt(evidence: Evidence, runs: Sequence[Run]) -> str:
    text = (
        f"{plural(len(runs), 'run')} in the plane of parameters "
        f"({si(min(r.params for r in runs))} to {si(max(r.params for r in runs))}) and tokens "
        f"({si(min(r.tokens for r in runs))} to {si(max(r.tokens for r in runs))})."
    )
    if evidence.answer:
        best = evidence.answer
        text += (
            f" The optimum at the target of {power(best.flops)} FLOPs is N = {si(best.params)}, "
            f"D = {si(best.tokens)}."
        )
    return text


def scaling_picture(evidence: Evidence) -> Picture | None:
    """Loss against compute: every run, and the loss of the optimum."""
    runs = [r for r in evidence.runs if r.drawable]
    fitted = [r for r in runs if r.used] or runs
    if not runs:
        return None
    figure, (ax,) = new_figure(height=3.5)
    styles = level_styles(evidence)
    names: PointNames = {}
    frontier = [r for r in evidence.path if known(r.loss) and r.flops <= _far(evidence)]
    limits = padded([r.flops for r in runs] + [r.flops for r in frontier])
    log_axis(ax, "x", COMPUTE_LABEL, limits, "power")
    ceiling = loss_axis(ax, evidence, [r.loss for r in fitted] + [r.loss for r in frontier])
    if len(frontier) > 1:
        C = _between(frontier)
        frontier_line(ax, evidence, C, evidence.along_frontier("loss", C), C)
    mark_runs(
        ax,
        runs,
        [r.flops for r in runs],
        [min(r.loss, ceiling) for r in runs],
        styles=styles,
        names=names,
        group="scaling",
    )
    best = evidence.answer
    if best is not None and known(best.loss):
        star(ax, best.flops, best.loss, colour=VERMILION, size=170)
        ax.annotate(
            f"loss {significant(best.loss, 3)}\nat the target",
            (best.flops, best.loss),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL,
            color=VERMILION,
            zorder=7,
        )
    words = f"Loss against compute for {plural(len(runs), 'run')}, from " + listed(
        [f"{significant(f(r.loss for r in runs), 4)}" for f in (max, min)]
    ).replace(" and ", " down to ")
    if best is not None and known(best.loss):
        words += (
            f"; the fitted loss at the target of {power(best.flops)} FLOPs is "
            f"{significant(best.loss, 3)}"
        )
    return Picture(
        slug="scaling",
        title="Loss against compute",
        caption="Every run. "
        + (
            "The heavy line is the loss of the optimum by the fitted law: solid up to the largest "
            "run, dashed beyond it; the star is the target."
            if len(frontier) > 1
            else "No law is drawn."
        ),
        alt=words + ".",
        columns=RUN_COLUMNS,
        rows=run_rows(runs),
        figure=figure,
        names=names,
    )

"""IsoFLOP curves: loss against model size, one curve for each compute level.

In: an `Evidence`. Out: a `Picture`. Runs far above the others are drawn at the chart's edge.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from analysis.report.evidence import Evidence, Level
from analysis.report.picture import (
    RUN_COLUMNS,
    Picture,
    PointNames,
    level_styles,
    mark_runs,
    remark,
    run_rows,
    side_labels,
    star,
    thinned,
)
from analysis.report.plot_axes import DECADES, group_labels, loss_axis, parameter_label
from analysis.report.plot_style import (
    DASHES,
    INK,
    SMALL,
    log_axis,
    new_figure,
    padded,
)
from analysis.report.words import (
    known,
    plural,
    power,
    si,
    significant,
)

_MOST_LINKS = 60
"""More points than this would be a wall of links for a keyboard: they have titles only."""


def isoflop_picture(evidence: Evidence) -> Picture | None:
    """Loss against N, one curve for each compute level, with the minima."""
    runs = [r for r in evidence.runs if r.drawable]
    fitted = [r for r in runs if r.used] or runs
    if not runs:
        return None
    figure, (ax,) = new_figure()
    styles = level_styles(evidence)
    names: PointNames = {}
    limits = padded([r.params for r in runs])
    log_axis(ax, "x", parameter_label(evidence), limits, "si")
    ceiling = loss_axis(ax, evidence, [r.loss for r in fitted])
    labels = []
    for level in evidence.levels:
        style = styles.get(level.name, styles[""])
        mine = [r.params for r in fitted if r.level == level.name]
        if level.curve is None or not mine:
            continue
        N = np.geomspace(max(min(mine) / 1.1, limits[0]), min(max(mine) * 1.1, limits[1]), 80)
        loss = level.loss(N)
        shown = loss <= ceiling
        dash = "-" if level.accepted else DASHES[1]
        ax.plot(N[shown], loss[shown], color=style.colour, linestyle=dash, zorder=2)
        labels.append((float(loss[shown][-1]) if shown.any() else ceiling, level, style.colour))
    for level in evidence.levels:
        if level.accepted and known(level.params_opt):
            _mark_minimum(ax, level, annotate=len(evidence.levels) <= 6)
    mark_runs(
        ax,
        runs,
        [r.params for r in runs],
        [min(r.loss, ceiling) for r in runs],
        styles=styles,
        names=names,
        group="run",
    )
    levels = [
        (y, f"{power(v.flops, 2)} FLOPs" + ("" if v.accepted else "\n(not counted)"), colour)
        for y, v, colour in thinned(labels)
    ]
    ends = {r.group: min(r.loss, ceiling) for r in sorted(fitted, key=lambda r: r.params)}
    side_labels(ax, levels or group_labels(evidence, ends))
    high = sum(r.loss > ceiling for r in runs)
    hollow = any(not r.used for r in runs)
    notes = ["hollow: left out of the fit"] if hollow else []
    notes += [f"{plural(high, 'run')} above the chart, at its edge"] if high else []
    if notes:
        remark(ax, "; ".join(notes))
    return Picture(
        slug="isoflop",
        title="Loss of every run, by model size at equal compute",
        caption=_isoflop_caption(evidence),
        alt=_isoflop_alt(evidence),
        columns=RUN_COLUMNS,
        rows=run_rows(runs),
        figure=figure,
        names=names,
        focusable=len(runs) <= _MOST_LINKS,
    )


def _mark_minimum(ax: Axes, level: Level, *, annotate: bool) -> None:
    """A star at a level's minimum, its uncertainty as a bar, its N in words below."""
    if known(level.sd_ln_params):
        spread = math.exp(min(level.sd_ln_params, 3.0))
        ax.plot(
            [level.params_opt / spread, level.params_opt * spread],
            [level.loss_opt] * 2,
            color=INK,
            linewidth=1.2,
            zorder=5,
        )
    star(ax, level.params_opt, level.loss_opt)
    if annotate:
        ax.annotate(
            f"N = {si(level.params_opt)}",
            (level.params_opt, level.loss_opt),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=SMALL,
            color=INK,
            zorder=6,
        )


def _isoflop_caption(evidence: Evidence) -> str:
    if not evidence.levels:
        return f"Each point is a run. {DECADES} No curve of equal compute can be drawn."
    text = (
        "Each colour is one compute level: models of different size N, each trained on as many "
        "tokens as that compute pays for. Too small a model (left) or too few tokens (right) "
        "costs loss. "
    )
    if any(v.accepted for v in evidence.levels):
        text += "Stars mark the minimum of each parabola; the bar through a star is ±1 sd in N."
    if any(not v.accepted and v.curve for v in evidence.levels):
        text += " The minimum of a dashed parabola does not count; the table below says why."
    return text


def _isoflop_alt(evidence: Evidence) -> str:
    parts = []
    for level in evidence.levels:
        if level.accepted:
            parts.append(
                f"at {power(level.flops)} FLOPs the least loss is {significant(level.loss_opt, 4)} "
                f"at N = {si(level.params_opt)}"
            )
        else:
            parts.append(f"at {power(level.flops)} FLOPs no minimum counts ({level.reason})")
    words = "; ".join(thinned(parts)) or "no compute level has enough runs for a curve"
    return f"Held-out loss against parameters, {plural(len(evidence.runs), 'run')}: {words}."

"""The best ratio against compute: the fit with its band, the isoFLOP minima, published laws.

In: an `Evidence`. Out: a `Picture`. Without an answer only the runs and the
published laws are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from analysis.published import PUBLISHED
from analysis.report.evidence import Evidence, Level
from analysis.report.picture import (
    Column,
    Picture,
    PointNames,
    level_styles,
    mark_runs,
    side_labels,
    star,
    thinned,
)
from analysis.report.plot_axes import COMPUTE_LABEL, DECADES
from analysis.report.plot_style import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    SHADE,
    SMALL,
    VERMILION,
    log_axis,
    new_figure,
    padded,
)
from analysis.report.plots_law import frontier_line
from analysis.report.words import (
    confidence,
    count,
    interval,
    known,
    listed,
    power,
    significant,
)


def ratio_picture(evidence: Evidence) -> Picture | None:
    """The best D/N against compute: the fit with its band, the minima, published laws."""
    runs = [r for r in evidence.runs if known(r.ratio) and known(r.flops)]
    used = [r for r in runs if r.used]
    if not used:
        return None
    figure, (ax,) = new_figure()
    names: PointNames = {}
    last = max(evidence.target or 0.0, evidence.max_flops) * 3
    x_limits = (min(r.flops for r in runs) / 1.6, max(last, max(r.flops for r in runs) * 1.6))
    scale = evidence.tokens_per_bpe_token
    shown = [r.ratio for r in runs] + [20.0, 20.0 * scale]
    if evidence.answer:
        shown += [evidence.answer.low, evidence.answer.high]
    y_limits = padded([v for v in shown if known(v) and 0 < v < 1e6])
    log_axis(ax, "x", COMPUTE_LABEL, x_limits, "power")
    log_axis(ax, "y", "Tokens per parameter D/N", y_limits, "plain")
    low, high = min(r.flops for r in used), max(r.flops for r in used)
    ax.axvspan(low, high, color=SHADE, zorder=0)
    ax.text(
        low,
        0.985,
        " compute sampled",
        transform=ax.get_xaxis_transform(),
        ha="left",
        va="top",
        fontsize=SMALL,
        color=MUTED,
    )
    styles = level_styles(evidence)
    mark_runs(
        ax,
        runs,
        [r.flops for r in runs],
        [r.ratio for r in runs],
        styles=styles,
        names=names,
        group="ratio",
        size=17,
    )
    labels, hidden = _published_lines(ax, x_limits, y_limits, scale)
    if evidence.answer:
        labels += _ratio_band(ax, evidence, x_limits)
        for level in evidence.levels:
            if level.accepted and known(level.tokens_per_parameter):
                _ratio_minimum(ax, evidence, level)
    if evidence.target:
        ax.axvline(evidence.target, color=MUTED, linewidth=1.0, linestyle=DASHES[3], zorder=1)
        ax.text(
            evidence.target,
            0.015,
            " target",
            transform=ax.get_xaxis_transform(),
            fontsize=SMALL,
            color=INK,
            va="bottom",
            ha="left",
        )
    side_labels(ax, labels)
    return Picture(
        slug="ratio",
        title="The best ratio against compute" if evidence.answer else "The ratios of the runs",
        caption=_ratio_caption(evidence, hidden),
        alt=_ratio_alt(evidence),
        columns=_RATIO_COLUMNS,
        rows=_ratio_rows(evidence),
        figure=figure,
        names=names,
    )


_PUBLISHED_FROM = 1e18
_RATIO_COLUMNS = (
    Column(key="source", heading="Source", kind="text"),
    Column(key="flops", heading="C (FLOPs)", kind="power"),
    Column(key="params", heading="N", kind="si"),
    Column(key="tokens", heading="D", kind="si"),
    Column(key="tokens_per_parameter", heading="D/N", kind="count"),
    Column(key="low", heading="Interval from", kind="count"),
    Column(key="high", heading="to", kind="count"),
)


def _ratio_rows(evidence: Evidence) -> tuple[tuple[object, ...], ...]:
    rows: list[tuple[object, ...]] = [
        ("this fit", r.flops, r.params, r.tokens, r.tokens_per_parameter, r.low, r.high)
        for r in evidence.frontier
    ]
    if evidence.answer:
        for v in evidence.levels:
            if v.accepted:
                ends = _minimum_ends(evidence, v)
                rows.append(
                    (
                        "isoFLOP minimum",
                        v.flops,
                        v.params_opt,
                        v.params_opt * v.tokens_per_parameter,
                        v.tokens_per_parameter,
                        *ends,
                    )
                )
    else:
        rows += [
            (f"run {r.label}", r.flops, r.params, r.tokens, r.ratio, math.nan, math.nan)
            for r in evidence.used
        ]
    return tuple(rows)


def _minimum_ends(evidence: Evidence, level: Level) -> tuple[float, float]:
    """One sd of D/N about a minimum: at fixed C, ln(D/N) moves 1 + phi times as ln N does."""
    if not known(level.sd_ln_params) or evidence.cost is None:
        return math.nan, math.nan
    phi = float(evidence.cost.slope(np.asarray(math.log(level.params_opt))))
    fold = math.exp(min((1 + phi) * level.sd_ln_params, 5.0))
    return level.tokens_per_parameter / fold, level.tokens_per_parameter * fold


def _ratio_minimum(ax: Axes, evidence: Evidence, level: Level) -> None:
    low, high = _minimum_ends(evidence, level)
    if known(low):
        ax.plot([level.flops] * 2, [low, high], color=INK, linewidth=1.2, zorder=5)
    star(ax, level.flops, level.tokens_per_parameter)


def _ratio_band(
    ax: Axes, evidence: Evidence, x_limits: tuple[float, float]
) -> list[tuple[float, str, str]]:
    """The fit's ratio and interval through compute; returns its label."""
    rows = [r for r in evidence.frontier if known(r.low) and known(r.high) and r.low > 0]
    best = evidence.answer
    assert best is not None
    if len(rows) < 2:
        return []
    last = min(rows[-1].flops, x_limits[1])
    C = np.geomspace(max(rows[0].flops, x_limits[0]), last, 60)
    low, high = (evidence.along_frontier(name, C) for name in ("low", "high"))
    ax.fill_between(C, low, high, color=VERMILION, alpha=0.16, linewidth=0, zorder=1)
    ax.plot(C, low, color=VERMILION, linewidth=0.6, zorder=2)
    ax.plot(C, high, color=VERMILION, linewidth=0.6, zorder=2)
    C = np.geomspace(max(evidence.path[0].flops, x_limits[0]), last, 60)
    middle = evidence.along_frontier("tokens_per_parameter", C)
    frontier_line(ax, evidence, C, middle, C)
    star(ax, best.flops, best.tokens_per_parameter, colour=VERMILION, size=170)
    name = f"this sweep\n({confidence(best.confidence)} band)"
    return [(float(middle[-1]), name, VERMILION)]


def _published_lines(
    ax: Axes, x_limits: tuple[float, float], y_limits: tuple[float, float], scale: float
) -> tuple[list[tuple[float, str, str]], list[str]]:
    """The published laws; returns labels of those on the chart and names of those off it."""
    colours = (BLUE, GREEN, PURPLE, MUTED)
    C = np.geomspace(*x_limits, 60)
    labels: list[tuple[float, str, str]] = []
    hidden: list[str] = []
    if scale != 1:
        ax.axhline(20, color=MUTED, linewidth=1.0, linestyle=DASHES[2], zorder=1)
        labels.append((20.0, "20 bytes", MUTED))
    for i, law in enumerate(PUBLISHED):
        ratio = np.array([law.ratio(float(c)) for c in C]) * scale
        inside = (ratio >= y_limits[0]) & (ratio <= y_limits[1])
        if not inside[-1]:
            hidden.append(law.name)
            continue
        ax.plot(
            C[inside],
            ratio[inside],
            color=colours[i],
            linewidth=1.1,
            linestyle=DASHES[(i + 1) % len(DASHES)],
            zorder=2,
        )
        name = (
            law.name if scale == 1 or i else f"Hoffmann 1, 2\n(20 BPE, {count(ratio[-1], 2)} bytes)"
        )
        labels.append((float(ratio[-1]), name, colours[i]))
    return labels, hidden


def _ratio_caption(evidence: Evidence, hidden: Sequence[str]) -> str:
    text = "Small points are the runs. "
    if evidence.answer:
        text += (
            "The heavy line with its band is this sweep's answer: solid over the compute that was "
            "sampled (grey), dashed where it is an extrapolation; the coloured star is the "
            "target. "
        )
        if any(v.accepted for v in evidence.levels):
            text += "Black stars are the isoFLOP minima with ±1 sd. "
    if not evidence.levels:
        text += DECADES + " "
    text += "Thin lines are published laws, with other data and other counting rules"
    if hidden:
        text += f" ({listed(hidden)} off the chart: see the table)"
    if evidence.byte_level:
        text += (
            f"; they count BPE tokens, so their lines are multiplied by "
            f"{significant(evidence.tokens_per_bpe_token, 2)} to stand in bytes "
            "(a byte is about a quarter of a BPE token)"
        )
    text += "."
    if evidence.target and evidence.target < _PUBLISHED_FROM:
        text += " Most of them rest on 6×10¹⁸ FLOPs and more: here they are extrapolated too."
    return text


def _ratio_alt(evidence: Evidence) -> str:
    best = evidence.answer
    if best is None:
        used = [r.ratio for r in evidence.used if known(r.ratio)]
        return (
            f"Ratios D/N of the runs, {count(min(used))} to {count(max(used))}, against their "
            "compute; no best ratio is drawn because the fit was refused."
        )
    points = "; ".join(
        f"{count(r.tokens_per_parameter)} ({interval((r.low, r.high))}) at {power(r.flops)} FLOPs"
        for r in thinned(evidence.frontier)
    )
    return f"Best tokens per parameter with {confidence(best.confidence)} intervals: {points}."

"""The pictures that question an answer: cost of a wrong ratio, training curves, residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.report.evidence import Evidence
from analysis.report.gather import read_surface
from analysis.report.picture import (
    RUN_COLUMNS,
    Column,
    Picture,
    PointNames,
    level_styles,
    mark_runs,
    name_of,
    side_labels,
    star,
    thinned,
)
from analysis.report.plot_style import (
    DASHES,
    GREEN,
    INK,
    MUTED,
    SHADE,
    SMALL,
    VERMILION,
    log_axis,
    new_figure,
    padded,
)
from analysis.report.sweep_facts import CurvePoint
from analysis.report.words import (
    confidence,
    count,
    interval,
    known,
    percent,
    plural,
    power,
    si,
    significant,
)

_MOST_POINTS = 120
"""Points drawn of one training curve: more than the picture has pixels for is waste."""


def waste_picture(evidence: Evidence) -> Picture | None:
    """Compute wasted at the target against the ratio that is used instead of the best."""
    best = evidence.answer
    if best is None or evidence.waste(np.ones(1)) is None:
        return None
    reach = max(8.0, best.high / best.tokens_per_parameter, best.tokens_per_parameter / best.low)
    reach = min(reach * 1.3, 60.0)
    ratio = best.tokens_per_parameter * np.geomspace(1 / reach, reach, 161)
    waste = evidence.waste(ratio)
    assert waste is not None
    ceiling = min(max(0.16, 1.15 * _waste_at(evidence, best.low, best.high)), 0.6)
    shown = waste <= ceiling
    figure, (ax,) = new_figure(height=2.9)
    log_axis(
        ax,
        "x",
        "Tokens per parameter D/N used instead",
        (ratio[shown][0], ratio[shown][-1]),
        "plain",
    )
    ax.set_ylim(0, 100 * ceiling)
    ax.set_ylabel("Compute wasted (%)")
    ax.axvspan(best.low, best.high, color=SHADE, zorder=0)
    ax.text(
        best.low,
        0.985,
        f" {confidence(best.confidence)} interval",
        transform=ax.get_xaxis_transform(),
        ha="left",
        va="top",
        fontsize=SMALL,
        color=MUTED,
    )
    ax.plot(ratio[shown], 100 * waste[shown], color=VERMILION, linewidth=2.2, zorder=3)
    star(ax, best.tokens_per_parameter, 0.0, colour=VERMILION, size=150)
    for name, share in (("waste_1pct", 1), ("waste_5pct", 5)):
        band = best.near_optimal.get(name)
        if band:
            ax.plot(band, [share] * 2, color=GREEN, linewidth=1.6, marker="|", zorder=4)
            ax.text(
                best.tokens_per_parameter,
                share + 100 * ceiling * 0.015,
                f"{share} %: {interval(band)}",
                ha="center",
                va="bottom",
                fontsize=SMALL,
                color=INK,
                zorder=5,
                bbox={"facecolor": "none", "edgecolor": "none", "pad": 1},
            )
    table = np.geomspace(0.25, 4, 9) * best.tokens_per_parameter
    values = evidence.waste(table)
    assert values is not None
    return Picture(
        slug="waste",
        title="What another ratio would cost at the target",
        caption=(
            "Share of the target's compute that is thrown away by training at another ratio. The "
            "curve is flat near its minimum: the green bars are the ratios that waste at most 1 % "
            "and 5 %; the grey band is where the best ratio may lie."
        ),
        alt=_waste_alt(evidence),
        columns=(
            Column(key="tokens_per_parameter", heading="D/N used", kind="count"),
            Column(key="of_best", heading="Times the best", kind="count"),
            Column(key="compute_wasted", heading="Compute wasted", kind="percent"),
        ),
        rows=tuple(
            (float(r), float(r / best.tokens_per_parameter), float(w))
            for r, w in zip(table, values, strict=True)
        ),
        figure=figure,
    )


def _waste_at(evidence: Evidence, *ratios: float) -> float:
    values = evidence.waste(np.array([r for r in ratios if known(r) and r > 0]))
    return float(values.max()) if values is not None and len(values) else 0.0


def _waste_alt(evidence: Evidence) -> str:
    best = evidence.answer
    assert best is not None
    parts = [
        f"{interval(best.near_optimal[name])} wastes at most {share} %"
        for name, share in (("waste_1pct", 1), ("waste_5pct", 5))
        if name in best.near_optimal
    ]
    double = _waste_at(evidence, 2 * best.tokens_per_parameter)
    parts.append(f"twice the best ratio wastes {percent(double)}")
    return (
        f"Compute wasted against the ratio used, at {power(best.flops)} FLOPs: "
        + "; ".join(parts)
        + "."
    )


def training_picture(
    evidence: Evidence, curves: Mapping[str, Sequence[CurvePoint]]
) -> Picture | None:
    """Training loss of every run against the compute it had spent."""
    found = [(r, _thin(curves[r.trial_id])) for r in evidence.runs if curves.get(r.trial_id)]
    found = [(r, points) for r, points in found if len(points) > 1]
    if not found:
        return None
    figure, (ax,) = new_figure()
    styles = level_styles(evidence)
    names: PointNames = {}
    ends = [p[-1].loss for _, p in found]
    tops = [p[min(len(p) // 20 + 1, len(p) - 1)].loss for _, p in found]
    high = max([*ends, float(np.quantile(tops, 0.9))])
    log_axis(
        ax,
        "x",
        "Training compute so far (FLOPs)",
        padded([q.flops for _, p in found for q in (p[1], p[-1])]),
        "power",
    )
    log_axis(ax, "y", "Training loss (nats per token)", padded([min(ends), high], 1.04), "plain")
    for number, (run, points) in enumerate(found):
        style = styles.get(run.group, styles[""])
        gid = f"curve-{number}"
        ax.plot(
            [p.flops for p in points],
            [p.loss for p in points],
            color=style.colour,
            linewidth=1.0,
            linestyle="-" if run.used else DASHES[2],
            gid=gid,
        )
        names[gid] = (name_of(run),)
    finals = [(r, p[-1]) for r, p in found]
    mark_runs(
        ax,
        [r for r, _ in finals],
        [p.flops for _, p in finals],
        [min(p.loss, ax.get_ylim()[1]) for _, p in finals],
        styles=styles,
        names=names,
        group="end",
        size=18,
    )
    labels = []
    for name in evidence.group_order():
        mine = [p for r, p in finals if r.group == name]
        flops = [r.flops for r, _ in finals if r.group == name]
        if mine:
            labels.append(
                (
                    min(p.loss for p in mine),
                    f"{power(float(np.median(flops)), 2)} FLOPs",
                    styles[name].colour,
                )
            )
    side_labels(ax, thinned(labels))
    return Picture(
        slug="training",
        title="Training curves",
        caption=(
            "Training loss of each run against the compute it had spent; the point is its end. "
            "Curves that end at the same compute belong to one level. A curve that jumps or ends "
            "before its neighbours deserves a look."
        ),
        alt="Training loss against compute for "
        + plural(len(found), "run")
        + ": last training losses from "
        + f"{significant(max(ends), 4)} down to {significant(min(ends), 4)}.",
        columns=(
            RUN_COLUMNS[0],
            Column(key="step", heading="Step", kind="si"),
            Column(key="tokens", heading="Tokens", kind="si"),
            Column(key="flops", heading="FLOPs", kind="power"),
            Column(key="training_loss", heading="Training loss", kind="loss"),
        ),
        rows=tuple((r.label, p.step, p.tokens, p.flops, p.loss) for r, p in finals),
        figure=figure,
        names=names,
    )


def _thin(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """A curve's finite points, evenly spread in ln C, at most `_MOST_POINTS`, the last kept."""
    good = [p for p in points if known(p.loss) and p.loss > 0 and p.flops > 0]
    if len(good) <= _MOST_POINTS:
        return good
    at = np.log([p.flops for p in good])
    wanted = np.linspace(at[0], at[-1], _MOST_POINTS)
    kept = sorted({*np.searchsorted(at, wanted).clip(0, len(good) - 1).tolist(), len(good) - 1})
    return [good[i] for i in kept]


def residual_picture(evidence: Evidence) -> Picture | None:
    """What the fitted law leaves over, against N and against D/N."""
    surface = evidence.surface or read_surface(evidence.fit, "chinchilla")
    runs = [r for r in evidence.used if r.drawable]
    if surface is None or not runs:
        return None
    left = [100 * math.log(r.loss / float(surface.loss(r.params, r.tokens))) for r in runs]
    figure, (first, second) = new_figure(1, 2, height=2.8, share_y=True)
    styles = level_styles(evidence)
    names: PointNames = {}
    panels = (
        (first, "Parameters N", [r.params for r in runs], "si"),
        (second, "Tokens per parameter D/N", [r.ratio for r in runs], "plain"),
    )
    sd = math.sqrt(sum(v * v for v in left) / len(left))
    for number, (ax, label, x, kind) in enumerate(panels):
        log_axis(ax, "x", label, padded(x), kind, most=5)
        ax.axhspan(-sd, sd, color=SHADE, zorder=0)
        ax.axhline(0, color=INK, linewidth=0.9)
        mark_runs(ax, runs, x, left, styles=styles, names=names, group=f"left-{number}", size=24)
    first.set_ylabel("Measured over fitted loss (%)")
    worst = max(zip(left, runs, strict=True), key=lambda pair: abs(pair[0]))
    return Picture(
        slug="residuals",
        title="What the law leaves unexplained",
        caption=(
            "Measured loss over the law's, in per cent; the grey band is the root mean square. "
            "Points should scatter about zero without a pattern: a curve here means that the law "
            "has the wrong form, and an interval from it is too narrow."
        ),
        alt=f"Residuals of {plural(len(runs), 'run')}: root mean square {significant(sd, 2)} %, "
        f"largest {significant(worst[0], 2)} % at N = {si(worst[1].params)}, "
        f"D/N = {count(worst[1].ratio)}.",
        columns=(
            RUN_COLUMNS[0],
            *RUN_COLUMNS[2:5],
            RUN_COLUMNS[6],
            Column(key="fitted_loss", heading="Fitted loss", kind="loss"),
            Column(key="residual", heading="Residual", kind="percent"),
        ),
        rows=tuple(
            (r.label, r.params, r.tokens, r.ratio, r.loss, r.loss / math.exp(v / 100), v / 100)
            for r, v in zip(runs, left, strict=True)
        ),
        figure=figure,
        names=names,
    )

"""The main pictures: isoFLOP curves, loss surface, scaling curve, best ratio against compute.

In: an `Evidence`. Out: `Picture`s, in the order in which a reader meets them. Nothing here opens a
file; nothing of the table's text enters a drawing (names go into `Picture.names`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from analysis.evidence import Evidence, Level, Run
from analysis.picture import (
    RUN_COLUMNS,
    Column,
    Picture,
    corner_note,
    level_styles,
    mark_runs,
    run_rows,
    side_labels,
    star,
    thinned,
)
from analysis.plot_style import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    RC,
    SHADE,
    SMALL,
    VERMILION,
    log_axis,
    new_figure,
    padded,
    ramp,
)
from analysis.plots_checks import residual_picture, training_picture, waste_picture
from analysis.published import PUBLISHED
from analysis.sweep_facts import CurvePoint
from analysis.words import count, interval, known, listed, plural, power, si, significant

_CONTOURS = 9
_GRID = 90
PARAMETER_LABELS = {
    "matmul": "Parameters N (matmul)",
    "total": "Parameters N (total)",
    "body": "Parameters N (without vocabulary)",
    "active": "Parameters N (active)",
}
TOKEN_LABEL = "Training tokens D"
COMPUTE_LABEL = "Training compute C (FLOPs)"
LOSS_LABEL = "Held-out loss (nats/token)"


def draw_pictures(
    evidence: Evidence, curves: Mapping[str, Sequence[CurvePoint]]
) -> tuple[Picture, ...]:
    """Every picture that the evidence carries, in the order of the report.

    Args:
        evidence: fit, table and sweep.
        curves: training curve of each trial_id; may be empty.
    """
    with mpl.rc_context(RC):
        pictures = [
            waste_picture(evidence),
            isoflop_picture(evidence),
            surface_picture(evidence),
            scaling_picture(evidence),
            ratio_picture(evidence),
            training_picture(evidence, curves),
            residual_picture(evidence),
        ]
    return tuple(p for p in pictures if p is not None)


def parameter_label(evidence: Evidence) -> str:
    """Axis label of N, with what it counts."""
    return PARAMETER_LABELS.get(evidence.table.convention, "Parameters N")


def loss_axis(ax: Axes, values: Sequence[float], *, top: float | None = None) -> float:
    """Scale and limit the ordinate for losses; logarithmic beyond a factor of two.

    Returns:
        The upper limit, at which losses above it are drawn.
    """
    low, high = min(values), max([*values, top or 0.0])
    if high / low > 2:
        low, high = padded([low, high], 1.03)
        log_axis(ax, "y", LOSS_LABEL, (low, high), "plain")
        return high
    margin = max(0.07 * (high - low), 0.005 * low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_ylabel(LOSS_LABEL)
    return high + margin


def isoflop_picture(evidence: Evidence) -> Picture | None:
    """Loss against N, one curve for each compute level, with the minima."""
    runs = [r for r in evidence.runs if r.drawable]
    fitted = [r for r in runs if r.used] or runs
    if not runs:
        return None
    figure, (ax,) = new_figure()
    styles, names = level_styles(evidence), {}
    limits = padded([r.params for r in runs])
    log_axis(ax, "x", parameter_label(evidence), limits, "si")
    ceiling = loss_axis(ax, [r.loss for r in fitted])
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
    side_labels(
        ax,
        [
            (y, f"{power(v.flops, 2)} FLOPs" + ("" if v.accepted else "\nno minimum"), c)
            for y, v, c in thinned(labels)
        ],
    )
    high = sum(r.loss > ceiling for r in runs)
    hollow = any(not r.used for r in runs)
    notes = ["hollow: left out of the fit"] if hollow else []
    notes += [f"{plural(high, 'run')} above the chart, at its edge"] if high else []
    if notes:
        corner_note(ax, "; ".join(notes), top=not high)
    return Picture(
        slug="isoflop",
        title="Loss of every run, by model size at equal compute",
        caption=_isoflop_caption(evidence),
        alt=_isoflop_alt(evidence),
        columns=RUN_COLUMNS,
        rows=run_rows(runs),
        figure=figure,
        names=names,
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
    text = (
        "Each colour is one compute level: models of different size N, each trained on as many "
        "tokens as that compute pays for. Too small a model (left) or too few tokens (right) "
        "costs loss. "
    )
    if any(v.accepted for v in evidence.levels):
        text += "Stars mark the minimum of each parabola; the bar through a star is ±1 sd in N."
    if any(not v.accepted and v.curve for v in evidence.levels):
        text += " A dashed parabola has no minimum that counts."
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


def surface_picture(evidence: Evidence) -> Picture | None:
    """Runs in the plane of N and D, contours of the fitted loss, lines of equal compute."""
    runs = [r for r in evidence.runs if known(r.params) and known(r.tokens) and r.tokens > 0]
    if not runs:
        return None
    figure, (ax,) = new_figure(height=4.3)
    styles, names = level_styles(evidence), {}
    frontier = [r for r in evidence.frontier if evidence.answer and r.flops <= _far(evidence)]
    x_limits = padded([r.params for r in runs] + [r.params for r in frontier])
    y_limits = padded([r.tokens for r in runs] + [r.tokens for r in frontier])
    log_axis(ax, "x", parameter_label(evidence), x_limits, "si")
    log_axis(ax, "y", TOKEN_LABEL, y_limits, "si")
    if evidence.surface is not None:
        _contours(ax, evidence, x_limits, y_limits)
    labels = _equal_compute(ax, evidence, x_limits, y_limits)
    if frontier and evidence.answer:
        _frontier_line(
            ax,
            evidence,
            [r.params for r in frontier],
            [r.tokens for r in frontier],
            [r.flops for r in frontier],
        )
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
            "Each point is a run. Dotted lines join equal compute. "
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


def _frontier_line(
    ax: Axes,
    evidence: Evidence,
    x: Sequence[float],
    y: Sequence[float],
    flops: Sequence[float],
) -> None:
    """The optimum through compute: solid up to the largest run, dashed beyond."""
    inside = [i for i, c in enumerate(flops) if c <= evidence.max_flops * 1.05]
    outside = range(inside[-1] if inside else 0, len(flops))
    ax.plot(
        [x[i] for i in inside], [y[i] for i in inside], color=VERMILION, linewidth=2.4, zorder=3
    )
    if len(outside) > 1:
        ax.plot(
            [x[i] for i in outside],
            [y[i] for i in outside],
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
    styles, names = level_styles(evidence), {}
    frontier = [r for r in evidence.frontier if known(r.loss) and r.flops <= _far(evidence)]
    limits = padded([r.flops for r in runs] + [r.flops for r in frontier])
    log_axis(ax, "x", COMPUTE_LABEL, limits, "power")
    ceiling = loss_axis(ax, [r.loss for r in fitted] + [r.loss for r in frontier])
    if len(frontier) > 1:
        _frontier_line(
            ax,
            evidence,
            [r.flops for r in frontier],
            [r.loss for r in frontier],
            [r.flops for r in frontier],
        )
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


def ratio_picture(evidence: Evidence) -> Picture | None:
    """The best D/N against compute: the fit with its band, the minima, published laws."""
    runs = [r for r in evidence.runs if known(r.ratio) and known(r.flops)]
    used = [r for r in runs if r.used]
    if not used:
        return None
    figure, (ax,) = new_figure()
    names: dict[str, tuple[str, ...]] = {}
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
        math.sqrt(low * high),
        0.985,
        "compute sampled",
        transform=ax.get_xaxis_transform(),
        ha="center",
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
        size=13,
    )
    labels = _published_lines(ax, evidence, x_limits, y_limits, scale)
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
        title="The best ratio against compute",
        caption=_ratio_caption(evidence),
        alt=_ratio_alt(evidence),
        columns=_RATIO_COLUMNS,
        rows=_ratio_rows(evidence),
        figure=figure,
        names=names,
    )


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
    x = np.log([r.flops for r in rows])
    C = np.geomspace(max(rows[0].flops, x_limits[0]), min(rows[-1].flops, x_limits[1]), 60)
    middle, low, high = (
        np.exp(np.interp(np.log(C), x, np.log([getattr(r, n) for r in rows])))
        for n in ("tokens_per_parameter", "low", "high")
    )
    ax.fill_between(C, low, high, color=VERMILION, alpha=0.16, linewidth=0, zorder=1)
    ax.plot(C, low, color=VERMILION, linewidth=0.6, zorder=2)
    ax.plot(C, high, color=VERMILION, linewidth=0.6, zorder=2)
    _frontier_line(ax, evidence, list(C), list(middle), list(C))
    star(ax, best.flops, best.tokens_per_parameter, colour=VERMILION, size=170)
    name = f"this sweep\n({best.confidence:.0%} band)"
    return [(float(middle[-1]), name, VERMILION)]


def _published_lines(
    ax: Axes,
    evidence: Evidence,
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    scale: float,
) -> list[tuple[float, str, str]]:
    """The published laws that pass through the chart; returns their labels."""
    colours = (BLUE, GREEN, PURPLE, MUTED)
    C = np.geomspace(*x_limits, 60)
    labels = []
    if scale != 1:
        ax.axhline(20, color=MUTED, linewidth=1.0, linestyle=DASHES[2], zorder=1)
        labels.append((20.0, "20 tokens (bytes)", MUTED))
    for i, law in enumerate(PUBLISHED):
        ratio = np.array([law.ratio(float(c)) for c in C]) * scale
        inside = (ratio >= y_limits[0]) & (ratio <= y_limits[1])
        if not inside[-1]:
            continue
        ax.plot(
            C[inside],
            ratio[inside],
            color=colours[i],
            linewidth=1.1,
            linestyle=DASHES[(i + 1) % len(DASHES)],
            zorder=2,
        )
        labels.append((float(ratio[-1]), law.name, colours[i]))
    return labels


def _ratio_caption(evidence: Evidence) -> str:
    text = "Small points are the runs. "
    if evidence.answer:
        text += (
            "The heavy line with its band is this sweep's answer: solid over the compute that was "
            "sampled (grey), dashed where it is an extrapolation. Black stars are the isoFLOP "
            "minima with ±1 sd; the coloured star is the target. "
        )
    text += "Thin lines are published laws, with other data and other counting rules"
    if evidence.byte_level:
        text += (
            f"; they count BPE tokens, so their lines are multiplied by "
            f"{significant(evidence.tokens_per_bpe_token, 2)} to stand in bytes "
            "(a byte is about a quarter of a BPE token)"
        )
    return text + "."


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
    return f"Best tokens per parameter with {best.confidence:.0%} intervals: {points}."

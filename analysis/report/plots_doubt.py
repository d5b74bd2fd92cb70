"""The pictures that ask how far an answer can be trusted.

A forecast of runs held out, where the law misses, how sharply the runs point to the ratio, and
what other choices would have said. In: an `Evidence`. Out: `Picture`s; None where `fit.json` has
nothing to draw, and where an answer was refused for those that would show a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from analysis.laws import FloatArray
from analysis.report.evidence import Evidence, Run
from analysis.report.gather import read_surface
from analysis.report.picture import (
    RUN_COLUMNS,
    Column,
    Picture,
    PointName,
    PointNames,
    level_styles,
    mark_runs,
    star,
)
from analysis.report.plot_axes import TOKEN_LABEL, loss_label, parameter_label
from analysis.report.plot_style import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    PURPLE,
    SHADE,
    SMALL,
    VERMILION,
    log_axis,
    new_figure,
    padded,
)
from analysis.report.words import (
    confidence,
    count,
    interval,
    known,
    percent,
    plural,
    power,
    significant,
)

_GROUPS = (
    ("drop", "some runs left out", BLUE),
    ("objective", "another objective", GREEN),
    ("estimator", "another estimator", VERMILION),
    ("convention", "N counted otherwise", PURPLE),
    ("exclusions", "excluded runs put back", MUTED),
)
"""Groups of the variants of `fit.json`: key, words, colour; keys that are not here are left out."""


def holdout_picture(evidence: Evidence) -> Picture | None:
    """The dearest runs beside what the cheaper ones forecast of them."""
    found = evidence.fit.get("holdout") or {}
    pairs = [
        (run, item)
        for item in found.get("runs") or ()
        if (run := _run_of(evidence, item)) is not None and _drawable(item)
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[1]["params"])
    figure, (ax,) = new_figure(height=3.1)
    names: PointNames = {}
    N = [item["params"] for _, item in pairs]
    log_axis(ax, "x", parameter_label(evidence), padded(N), "si")
    ax.set_ylabel(loss_label(evidence))
    for (_, item), x in zip(pairs, N, strict=True):
        low, high = item["prediction_interval"]
        ax.plot([x] * 2, [low, high], color=BLUE, linewidth=4.5, alpha=0.35, zorder=2)
    ax.scatter(
        N,
        [item["forecast"] for _, item in pairs],
        marker="D",
        s=34,
        facecolors=PAPER,
        edgecolors=BLUE,
        linewidths=1.4,
        zorder=3,
        label="forecast from the cheaper runs",
        gid="forecast",
    )
    ax.plot([], [], color=BLUE, linewidth=4.5, alpha=0.35, label=_band_words(found))
    styles = level_styles(evidence)
    mark_runs(
        ax,
        [run for run, _ in pairs],
        N,
        [item["loss"] for _, item in pairs],
        styles=styles,
        names=names,
        group="measured",
        size=26,
    )
    own = styles.get(pairs[0][0].group, styles[""])
    ax.scatter([], [], marker=own.marker, color=own.colour, s=26, label="measured")
    names["forecast"] = tuple(_forecast_name(run, item) for run, item in pairs)
    ax.legend(frameon=False, fontsize=SMALL, loc="best")
    return Picture(
        slug="holdout",
        title="The dearest runs, forecast from the cheaper ones",
        caption=(
            "How an extrapolation by one level would have gone: the law was fitted without the "
            "dearest runs and asked for their losses. Points inside their bars are forecasts that "
            "held. Where the measured points lie to one side of all forecasts, expect the same of "
            "the target, which is further away."
        ),
        alt=f"Held-out loss against parameters for {plural(len(pairs), 'run')} of "
        f"{power(found['flops'])} FLOPs: the forecast misses by {percent(found['rms'])} (root mean "
        f"square), {percent(found['inside'], 3)} inside the prediction interval.",
        columns=(
            RUN_COLUMNS[0],
            *RUN_COLUMNS[2:5],
            Column(key="loss", heading="Measured loss", kind="loss"),
            Column(key="forecast", heading="Forecast", kind="loss"),
            Column(key="low", heading="Interval from", kind="loss"),
            Column(key="high", heading="to", kind="loss"),
        ),
        rows=tuple(
            (
                run.label,
                run.params,
                run.tokens,
                run.ratio,
                item["loss"],
                item["forecast"],
                *item["prediction_interval"],
            )
            for run, item in pairs
        ),
        figure=figure,
        names=names,
    )


def _band_words(found: Mapping[str, Any]) -> str:
    return f"{confidence(found['confidence'])} prediction interval"


def _drawable(item: Mapping[str, Any]) -> bool:
    values = (item["params"], item["loss"], item["forecast"], *item["prediction_interval"])
    return all(known(v) and v > 0 for v in values)


def _run_of(evidence: Evidence, item: Mapping[str, Any]) -> Run | None:
    """The run that an item of the hold-out is about."""
    wanted = (item["params"], item["tokens"], item["loss"])
    return next((r for r in evidence.used if (r.params, r.tokens, r.loss) == wanted), None)


def _forecast_name(run: Run, item: Mapping[str, Any]) -> PointName:
    text = f"{run.label}: forecast {significant(item['forecast'], 4)}"
    return PointName(f"{text}, measured {significant(run.loss, 4)}", text, run.anchor)


def residual_map(evidence: Evidence) -> Picture | None:
    """Residuals over the plane of N and D, and against a normal distribution."""
    surface = evidence.surface or read_surface(evidence.fit, "chinchilla")
    runs = [r for r in evidence.used if r.drawable]
    if surface is None or len(runs) < 3:
        return None
    left = [100 * math.log(r.loss / float(surface.loss(r.params, r.tokens))) for r in runs]
    figure, (plane, normal) = new_figure(1, 2, height=3.1)
    names: PointNames = {}
    log_axis(plane, "x", parameter_label(evidence), padded([r.params for r in runs]), "si", most=5)
    log_axis(plane, "y", TOKEN_LABEL, padded([r.tokens for r in runs]), "si")
    largest = max(map(abs, left)) or 1.0
    for sign, marker, colour, word in ((1, "^", VERMILION, "above"), (-1, "v", BLUE, "below")):
        mine = [i for i, v in enumerate(left) if (v >= 0) == (sign > 0)]
        if not mine:
            continue
        gid = f"map-{word}"
        plane.scatter(
            [runs[i].params for i in mine],
            [runs[i].tokens for i in mine],
            s=[14 + 110 * abs(left[i]) / largest for i in mine],
            marker=marker,
            color=colour,
            edgecolors=PAPER,
            linewidths=0.6,
            zorder=4,
            clip_on=False,
            gid=gid,
            label=f"{word} the law",
        )
        names[gid] = tuple(_residual_name(runs[i], left[i]) for i in mine)
    plane.legend(
        frameon=False, fontsize=SMALL, loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
        handletextpad=0.2, columnspacing=0.8, borderaxespad=0.1,
    )  # fmt: skip
    order = sorted(range(len(runs)), key=lambda i: left[i])
    expected = [NormalDist().inv_cdf((k + 0.5) / len(runs)) for k in range(len(runs))]
    mean = sum(left) / len(left)
    sd = math.sqrt(sum((v - mean) ** 2 for v in left) / (len(left) - 1))
    reach = max(map(abs, expected)) * 1.1
    normal.plot([-reach, reach], [mean - sd * reach, mean + sd * reach], color=INK, linewidth=0.9)
    mark_runs(
        normal,
        [runs[i] for i in order],
        expected,
        [left[i] for i in order],
        styles=level_styles(evidence),
        names=names,
        group="normal",
        size=22,
    )
    normal.set_xlabel("Normal quantile (sd)")
    normal.set_ylabel("Measured over fitted loss (%)")
    skew = sum((v - mean) ** 3 for v in left) / len(left) / max(sd, 1e-300) ** 3
    return Picture(
        slug="residual-map",
        title="Where the law misses",
        caption=(
            "Left: each run's residual at its place; the larger the mark, the further off, up when "
            "it lies above the law and down when below. Marks of one sign in one corner mean that "
            "the law has the wrong form there. Right: the same residuals against those of a normal "
            "distribution; on the line they are noise, an end that bends away is a run to look at."
        ),
        alt=f"Residuals of {plural(len(runs), 'run')} over parameters and tokens: "
        f"{sum(v >= 0 for v in left)} above the law and {sum(v < 0 for v in left)} below, standard "
        f"deviation {significant(sd, 2)} %, skewness {significant(skew, 2)}.",
        columns=(
            RUN_COLUMNS[0],
            *RUN_COLUMNS[2:5],
            Column(key="residual", heading="Residual", kind="percent"),
            Column(key="normal_sd", heading="Expected (sd)", kind="count"),
        ),
        rows=tuple(
            (
                runs[i].label,
                runs[i].params,
                runs[i].tokens,
                runs[i].ratio,
                left[i] / 100,
                expected[k],
            )
            for k, i in enumerate(order)
        ),
        figure=figure,
        names=names,
    )


def _residual_name(run: Run, left: float) -> PointName:
    side = "above" if left >= 0 else "below"
    text = f"{run.label}: {significant(abs(left), 2)} % {side} the law"
    return PointName(text, text, run.anchor)


def profile_picture(evidence: Evidence) -> Picture | None:
    """What it costs the fit to believe in another ratio at the target."""
    profile, best = evidence.fit.get("profile") or {}, evidence.answer
    ratios, excess = profile.get("tokens_per_parameter") or (), profile.get("excess") or ()
    points = [
        (r, e) for r, e in zip(ratios, excess, strict=True) if known(r) and known(e) and r > 0
    ]
    if best is None or len(points) < 5:
        return None
    low, high = profile.get("interval") or (None, None)
    # An end that the runs leave open is 0, or null for infinity.
    low, high = (v if known(v) and v > 0 else None for v in (low, high))
    limit = max((_excess_at(points, v) for v in (low, high) if v is not None), default=0.0)
    top = 5 * limit or max(e for _, e in points)
    shown = [(r, e) for r, e in points if e <= top]
    if len(shown) < 3 or top <= 0:
        return None
    figure, (ax,) = new_figure(height=2.9)
    limits = padded([*(r for r, _ in shown), *(v for v in (low, high) if v is not None)], 1.1)
    log_axis(ax, "x", "Tokens per parameter D/N at the target", limits, "plain")
    ax.set_ylim(0, 104 * top)
    ax.set_ylabel("Sum of squares above its least (%)")
    ax.axvspan(low or limits[0], high or limits[1], color=SHADE, zorder=0)
    share = confidence(profile["confidence"])
    if limit:
        ax.axhline(100 * limit, color=MUTED, linewidth=1.0, linestyle=DASHES[1])
        ax.text(
            0.99,
            100 * limit,
            f"limit of the {share} interval",
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=SMALL,
            color=MUTED,
        )
    x, y = _smooth(points, limits)
    inside = y <= top
    ax.plot(x[inside], 100 * y[inside], color=VERMILION, zorder=3)
    ax.scatter([r for r, _ in shown], [100 * e for _, e in shown], s=12, color=VERMILION, zorder=4)
    star(ax, best.tokens_per_parameter, 0.0, colour=VERMILION, size=150)
    ends = f"{count(low) if low else 'any smaller'} to {count(high) if high else 'any larger'}"
    least = min(points, key=lambda p: p[1])[0]
    return Picture(
        slug="profile",
        title="Profile likelihood of the ratio at the target",
        caption=(
            "For each ratio the law was fitted again with its optimum held there; the height is "
            "how much worse it then fits the runs. Ratios below the dashed line are those that "
            f"the runs cannot tell from the best at {share}: {ends} (grey). A narrow valley is a "
            "sharp answer; a side that never climbs over the line is an end that the runs leave "
            "open. The star is the answer."
        ),
        alt=f"Loss of fit against the ratio held at the target: least at {count(least)}, below "
        f"the {share} limit from {ends}.",
        columns=(
            Column(key="tokens_per_parameter", heading="D/N held", kind="count"),
            Column(key="excess", heading="Sum of squares above its least", kind="percent"),
        ),
        rows=tuple(points),
        figure=figure,
    )


def _rooted(points: Sequence[tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
    """ln(D/N), and the excess's root with the sign of its side: nearly a straight line."""
    x, root = np.log([r for r, _ in points]), np.sqrt([e for _, e in points])
    return x, np.where(np.arange(len(root)) < int(np.argmin(root)), -root, root)


def _excess_at(points: Sequence[tuple[float, float]], ratio: float) -> float:
    """The excess at a ratio between the profile's points."""
    return float(np.interp(math.log(ratio), *_rooted(points))) ** 2


def _smooth(
    points: Sequence[tuple[float, float]], limits: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """The profile between its points: ratios and excesses, shape (201,)."""
    curve = PchipInterpolator(*_rooted(points))
    low, high = max(limits[0], points[0][0]), min(limits[1], points[-1][0])
    x = np.geomspace(low, high, 201)
    return x, curve(np.log(x)) ** 2


def sensitivity_picture(evidence: Evidence) -> Picture | None:
    """The ratio under every other choice that was tried, one row for each kind."""
    best = evidence.answer
    variants = (evidence.fit.get("sensitivity") or {}).get("variants") or ()
    found = [
        (kind, v)
        for v in variants
        if known(v.get("tokens_per_parameter"))
        and v["tokens_per_parameter"] > 0
        and (kind := _kind(str(v.get("group"))))
    ]
    if best is None or not found:
        return None
    rows = [group for group in _GROUPS if any(kind == group[0] for kind, _ in found)]
    figure, (ax,) = new_figure(height=1.15 + 0.42 * len(rows))
    names: PointNames = {}
    values = [v["tokens_per_parameter"] for _, v in found]
    limits = padded([*values, best.low, best.high], 1.1)
    log_axis(ax, "x", "Tokens per parameter D/N at the target", limits, "plain")
    ax.axvspan(best.low, best.high, color=SHADE, zorder=0)
    ax.axvline(best.tokens_per_parameter, color=INK, linewidth=1.0)
    for place, (key, _, colour) in enumerate(rows):
        mine = [v for kind, v in found if kind == key]
        ax.scatter(
            [v["tokens_per_parameter"] for v in mine],
            _spread(len(mine), place),
            s=26,
            marker=MARKERS[place],
            color=colour,
            edgecolors=PAPER,
            linewidths=0.6,
            zorder=4,
            gid=f"choice-{key}",
        )
        names[f"choice-{key}"] = tuple(_choice_name(v) for v in mine)
    ax.set_yticks(range(len(rows)), [words for _, words, _ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.text(
        best.tokens_per_parameter,
        1.0,
        f"{count(best.tokens_per_parameter)}, the answer",
        transform=ax.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=INK,
    )
    return Picture(
        slug="sensitivity",
        title="The ratio under other choices",
        caption=(
            "Each point is the ratio that one other choice would have given: a run or a level left "
            "out, another objective, another estimator, another way of counting. Grey is the "
            f"answer's {confidence(best.confidence)} interval: choices that leave it are doubts "
            "that the interval does not hold. Another way of counting moves the number, not "
            "necessarily the advice."
        ),
        alt=f"{plural(len(found), 'other choice')} give ratios from {count(min(values))} to "
        f"{count(max(values))}, against {count(best.tokens_per_parameter)} "
        f"({interval((best.low, best.high))}): "
        + "; ".join(
            f"{words} {interval(_ends(v for kind, v in found if kind == key))}"
            for key, words, _ in rows
        )
        + ".",
        columns=(
            Column(key="kind", heading="Kind", kind="text"),
            Column(key="choice", heading="Choice", kind="text"),
            Column(key="tokens_per_parameter", heading="D/N", kind="count"),
            Column(key="change", heading="Change", kind="percent"),
        ),
        rows=tuple(
            (
                next(words for key, words, _ in _GROUPS if key == kind),
                str(v.get("name", "")),
                v["tokens_per_parameter"],
                v["tokens_per_parameter"] / best.tokens_per_parameter - 1,
            )
            for kind, v in found
        ),
        figure=figure,
        names=names,
    )


def _kind(group: str) -> str:
    """The kind of choice that a group of `fit.json` belongs to; '' for one that is not drawn."""
    if group.startswith("leave"):
        return "drop"
    return next((key for key, _, _ in _GROUPS if group.startswith(key)), "")


def _ends(variants: Any) -> tuple[float, float]:
    values = [v["tokens_per_parameter"] for v in variants]
    return min(values), max(values)


def _spread(number: int, place: int) -> list[float]:
    """Ordinates of points in one row, a little apart so that equal ones can be seen."""
    return [place + 0.22 * ((i % 5) / 2 - 1) for i in range(number)]


def _choice_name(variant: Mapping[str, Any]) -> PointName:
    text = f"{variant.get('name', '')}: D/N = {count(variant['tokens_per_parameter'])}"
    return PointName(text, text, "sensitivity")

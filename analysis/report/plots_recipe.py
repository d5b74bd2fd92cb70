"""Pictures of recipes: a search (loss against learning rate, the best rate against N), a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.recipe import RateRule, SizeOptimum, TriedRun
from analysis.report.evidence import Evidence
from analysis.report.picture import Column, Picture
from analysis.report.plot_style import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    drawing_style,
    log_axis,
    new_figure,
    padded,
    ramp,
)
from analysis.report.words import listed, si, significant


def draw_recipe(
    path: Path,
    runs: Mapping[float, Sequence[TriedRun]],
    optima: Sequence[SizeOptimum],
    rule: RateRule,
) -> Path:
    """Write the picture as SVG.

    Args:
        path: file to write.
        runs: every run tried, by N.
        optima: the best rate of each size, ascending in N.
        rule: the power law through them.

    Returns:
        The file.
    """
    with drawing_style():
        figure, (left, right) = new_figure(columns=2)
        rates = [run.learning_rate for tried in runs.values() for run in tried]
        for place, best in enumerate(optima):
            colour, marker = ramp(place, len(optima)), MARKERS[place % len(MARKERS)]
            done = [run for run in runs[best.params] if run.loss is not None]
            left.plot(
                [run.learning_rate for run in done],
                [100 * ((run.loss or np.nan) / best.loss - 1) for run in done],
                marker=marker,
                linestyle="none",
                color=colour,
                label=f"N = {si(best.params)}",
            )
            left.axvline(best.learning_rate, color=colour, linewidth=1, linestyle=DASHES[1])
            low, high = best.interval
            right.plot([best.params] * 2, [low, high], color=colour)
            right.plot([best.params], [best.learning_rate], marker=marker, color=colour)
        log_axis(left, "x", "Peak learning rate", padded(rates), "plain")
        left.set_ylabel("Loss above the best run (%)")
        left.legend(frameon=False)
        sizes = padded([best.params for best in optima])
        grid = np.geomspace(*sizes, 50)
        line = [rule.rate(n) for n in grid]
        right.plot(grid, line, color=MUTED, linestyle=DASHES[1], zorder=0)
        ends = [end for best in optima for end in best.interval]
        log_axis(right, "x", "Parameters N (matmul)", sizes, "si")
        log_axis(right, "y", "Best peak learning rate", padded([*ends, *line]), "plain")
        right.set_title(rule.learning_rate_text, color=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def recipe_picture(evidence: Evidence) -> Picture | None:
    """The check of a recipe: loss at multiples of its learning rate, above each size's least."""
    checks = [
        (check, sorted((f, v) for f, v in check.losses.items() if v is not None))
        for check in (evidence.sweep.recipe_checks if evidence.sweep else ())
    ]
    checks = [(check, points) for check, points in checks if len(points) > 1]
    if not checks:
        return None
    figure, (ax,) = new_figure(height=2.7)
    factors = [f for _, points in checks for f, _ in points]
    log_axis(ax, "x", "Learning rate, multiples of the recipe's", padded(factors), "plain")
    ax.set_ylabel("Loss above the least of its size (%)")
    rows = []
    for place, (check, points) in enumerate(checks):
        least = min(v for _, v in points)
        ax.plot(
            [f for f, _ in points],
            [100 * (v / least - 1) for _, v in points],
            color=ramp(place, len(checks)),
            marker=MARKERS[place % len(MARKERS)],
            linestyle=DASHES[place % len(DASHES)],
            label=f"N = {si(check.params)}",
            clip_on=False,
            zorder=3,
        )
        rows += [(check.params, f, f * check.learning_rate, v, v / least - 1) for f, v in points]
    ax.axvline(1.0, color=MUTED, linewidth=1.0, linestyle=DASHES[3], zorder=1)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    best = [(check, min(points, key=lambda p: p[1])[0]) for check, points in checks]
    return Picture(
        slug="recipe",
        title="The recipe's learning rate and its neighbours",
        caption=(
            "Each line is one size, trained at half, at once and at twice the recipe's learning "
            "rate (the upright line is the recipe). A line that falls all the way to one side says "
            "that the recipe's rate is off at that size."
        ),
        alt="Least loss at "
        + listed([f"{significant(f)}× the recipe's rate for N = {si(c.params)}" for c, f in best])
        + ".",
        columns=(
            Column(key="params", heading="N", kind="si"),
            Column(key="factor", heading="Times the recipe's rate", kind="count"),
            Column(key="learning_rate", heading="Learning rate", kind="count"),
            Column(key="loss", heading="Held-out loss", kind="loss"),
            Column(key="above_least", heading="Above the least", kind="percent"),
        ),
        rows=tuple(rows),
        figure=figure,
    )

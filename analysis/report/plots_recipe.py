"""The picture of a search for a recipe: loss against learning rate, and the best rate against N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.recipe import RateRule, SizeOptimum, TriedRun
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
from analysis.report.words import si


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

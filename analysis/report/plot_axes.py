"""Axes that several pictures share: what they are called, how losses are scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from analysis.report.evidence import Evidence
from analysis.report.picture import level_styles, thinned
from analysis.report.plot_style import (
    log_axis,
    padded,
)

PARAMETER_LABELS = {
    "matmul": "Parameters N (matmul)",
    "total": "Parameters N (total)",
    "body": "Parameters N (without vocabulary)",
    "active": "Parameters N (active)",
}
TOKEN_LABEL = "Training tokens D"
COMPUTE_LABEL = "Training compute C (FLOPs)"


def parameter_label(evidence: Evidence) -> str:
    """Axis label of N, with what it counts."""
    return PARAMETER_LABELS.get(evidence.table.convention, "Parameters N")


def loss_label(evidence: Evidence) -> str:
    """Axis label of L, with its unit where the table names one."""
    unit = evidence.loss_unit
    return f"Held-out loss ({unit})" if unit else "Held-out loss"


def loss_axis(
    ax: Axes, evidence: Evidence, values: Sequence[float], *, top: float | None = None
) -> float:
    """Scale, limit and name the ordinate for losses; logarithmic beyond a factor of two.

    Returns:
        The upper limit, at which losses above it are drawn.
    """
    low, high = min(values), max([*values, top or 0.0])
    if high / low > 2:
        low, high = padded([low, high], 1.03)
        log_axis(ax, "y", loss_label(evidence), (low, high), "plain")
        return high
    margin = max(0.07 * (high - low), 0.005 * low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_ylabel(loss_label(evidence))
    return high + margin


DECADES = "The table names no levels of equal compute: colour and marker show its decade."
"""Caption of a picture whose runs belong to no level."""


def group_labels(evidence: Evidence, places: Mapping[str, float]) -> list[tuple[float, str, str]]:
    """Labels of the decades of compute, for a picture without levels.

    Args:
        evidence: the runs.
        places: ordinate of each group's label.

    Returns:
        (ordinate, text, colour) for `picture.side_labels`; empty when there are levels.
    """
    if evidence.levels:
        return []
    styles = level_styles(evidence)
    order = [name for name in evidence.group_order() if name in places]
    return [(places[name], f"{name} FLOPs", styles[name].colour) for name in thinned(order)]

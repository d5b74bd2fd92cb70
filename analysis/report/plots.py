"""Every picture of a report, in the order in which a reader meets them.

In: an `Evidence` and the training curves. Out: `Picture`s. Nothing here opens a file, and nothing
of the table's text enters a drawing (names of points go into `Picture.names`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.report.evidence import Evidence
from analysis.report.picture import Picture
from analysis.report.plot_style import drawing_style
from analysis.report.plots_checks import residual_picture, training_picture, waste_picture
from analysis.report.plots_doubt import (
    holdout_picture,
    profile_picture,
    residual_map,
    sensitivity_picture,
)
from analysis.report.plots_law import scaling_picture, surface_picture
from analysis.report.plots_levels import isoflop_picture
from analysis.report.plots_ratio import ratio_picture
from analysis.report.plots_recipe import recipe_picture
from analysis.report.sweep_facts import CurvePoint


def draw_pictures(
    evidence: Evidence, curves: Mapping[str, Sequence[CurvePoint]]
) -> tuple[Picture, ...]:
    """Every picture that the evidence carries, in the order of the report.

    Args:
        evidence: fit, table and sweep.
        curves: training curve of each trial_id; may be empty.
    """
    with drawing_style():
        pictures = [
            waste_picture(evidence),
            isoflop_picture(evidence),
            surface_picture(evidence),
            ratio_picture(evidence),
            scaling_picture(evidence),
            holdout_picture(evidence),
            residual_picture(evidence),
            residual_map(evidence),
            profile_picture(evidence),
            sensitivity_picture(evidence),
            recipe_picture(evidence),
            training_picture(evidence, curves),
        ]
    return tuple(p for p in pictures if p is not None)

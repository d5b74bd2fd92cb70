"""Which design a budget asks for, bound to what can be trained."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.design_section import AdaptiveDesign, Design, IsoflopDesign
from orchestrator.designs.base import Designer, Ground, Point
from orchestrator.designs.fixed import Fixed, named
from orchestrator.designs.isoflop import Isoflop


def designer(design: Design, ground: Ground, *, points: Sequence[Point] = ()) -> Designer:
    """The design as something that can be asked for its next round.

    Args:
        design: its settings.
        ground: what can be trained, and with how much.
        points: all points of a design that knows them beforehand.
    """
    if isinstance(design, IsoflopDesign):
        return Isoflop(design, ground)
    if isinstance(design, AdaptiveDesign):
        # Imported here: a plan of plain levels must not pay for the fitting library.
        from orchestrator.designs.adaptive import Adaptive

        return Adaptive(design, ground)
    return Fixed(points, ground, reason=named(design))

"""Designs whose points are all known at once: a grid, a ladder, a list.

A grid of N x D with a small span is the worst way to spend a budget on a ratio: span in compute and
in D/N buys more than the number of runs. `narrow_span` is what planning asks before it agrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.design_section import FileDesign, GridDesign, LadderDesign
from orchestrator.designs.base import Centre, Ground, Measured, Point, Progress, Round

LEAST_SPAN = 30.0
"""Largest over smallest N, and D, that a grid needs (simulated: a span of 5.6 leaves a fivefold
95 % range of D/N where the same budget over a span of 32 leaves 1.6-fold)."""


class Fixed:
    """Points that are all known at once, as a `Designer` of a single round."""

    learns = False
    rounds: int | None = 1

    def __init__(self, points: Sequence[Point], ground: Ground, *, reason: str) -> None:
        self._points = tuple(points)
        self._ground = ground
        self._reason = reason

    def lag(self, number: int, measured: Measured) -> int:
        """Every round waits for the one before it."""
        return 0

    def expected_lag(self, number: int) -> int:
        """As `lag`."""
        return 0

    def propose(self, progress: Progress) -> Round | None:
        """Everything, once."""
        if progress.rounds:
            return None
        tokens = [float(point.tokens or 0.0) for point in self._points]
        ratios = [d / point.params for d, point in zip(tokens, self._points, strict=True)]
        computes = [
            d * self._ground.flops_per_token(point.params)
            for d, point in zip(tokens, self._points, strict=True)
        ]
        middle = math.exp(sum(map(math.log, ratios)) / len(ratios))
        return Round(
            number=1,
            flops=max(computes),
            centre=Centre(tokens_per_parameter=middle, reason=self._reason),
            even=False,
            points=self._points,
        )


def grid(design: GridDesign) -> tuple[Point, ...]:
    """Points of a grid, by size and then by ratio."""
    return tuple(
        Point(
            params=params,
            tokens=ratio * params,
            keep_ratio=True,
            reason=f"grid: N = {params:.3g} at {ratio:g} tokens per parameter",
        )
        for params in design.sizes
        for ratio in design.tokens_per_parameter
    )


def ladder(design: LadderDesign) -> tuple[Point, ...]:
    """Points of a ladder, by size and then by multiple."""
    return tuple(
        Point(
            params=params,
            tokens=multiple * design.tokens_per_parameter * params,
            keep_ratio=True,
            reason=f"ladder: {multiple:g} x {design.tokens_per_parameter:g} tokens per parameter",
        )
        for params in design.sizes
        for multiple in design.multiples
    )


def narrow_span(points: Sequence[Point]) -> tuple[float, float] | None:
    """Spans of N and of D when one of them is below `LEAST_SPAN`, else None."""
    params = np.array([point.params for point in points])
    tokens = np.array([float(point.tokens or 0.0) for point in points])
    spans = float(params.max() / params.min()), float(tokens.max() / tokens.min())
    return spans if min(spans) < LEAST_SPAN else None


def points_of(design: GridDesign | LadderDesign) -> tuple[Point, ...]:
    """Points of a grid or a ladder."""
    return grid(design) if isinstance(design, GridDesign) else ladder(design)


def named(design: GridDesign | LadderDesign | FileDesign) -> str:
    """The design in words."""
    return {
        "grid": "a grid of sizes and tokens per parameter",
        "ladder": "a ladder of sizes and multiples",
        "file": "the listed points",
    }[design.kind]

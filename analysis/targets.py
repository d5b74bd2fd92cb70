"""The optimum for a run of given size, tokens or loss: what is held, and how sure the rest is.

At a compute C the ratio D/N has an interval, and so have N and D along the cost curve. Where N (or
D) is held instead, the question is at which compute it is optimal: the answer's interval is every
C whose own interval of N (or D) holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from analysis.cost import CostCurve, log_ratio

_REACH = math.log(1e4)
"""How far from the best answer the ends of an interval are sought, in ln C."""
_TOLERANCE = 1e-4

Ends = tuple[float, float]
IntervalAt = Callable[[float], Ends]
"""Compute -> low and high end there."""


def sizes_at(flops: float, ratios: Ends, cost: CostCurve) -> tuple[Ends, Ends]:
    """Intervals of N and of D at a compute, from the interval of D/N.

    Args:
        flops: C, FLOPs.
        ratios: low and high D/N.
        cost: FLOPs per token as a function of N.

    Returns:
        (low, high) of N and of D; NaN at an end that is no number.
    """
    (most, least), (fewest, longest) = zip(
        *(_size_at(flops, ratio, cost) for ratio in ratios), strict=True
    )
    return (least, most), (fewest, longest)


def computes_holding(value: float, interval_at: IntervalAt, flops: float) -> Ends:
    """The computes whose interval of a growing quantity holds a value.

    Args:
        value: N, D or -L that is held.
        interval_at: interval of that quantity at a compute.
        flops: the compute at which `value` is the best answer.

    Returns:
        (low, high) in FLOPs: where the interval first reaches the value, and where it leaves it;
        NaN at an end that lies more than 10,000 times away.
    """
    centre = math.log(flops)

    def crossing(end: int, start: float, stop: float) -> float:
        def excess(log_c: float) -> float:
            return interval_at(math.exp(log_c))[end] - value

        if not excess(start) < 0 <= excess(stop):
            return math.nan
        return math.exp(brentq(excess, start, stop, xtol=_TOLERANCE))

    return (
        crossing(1, centre - _REACH, centre + _TOLERANCE),
        crossing(0, centre - _TOLERANCE, centre + _REACH),
    )


def _size_at(flops: float, ratio: float, cost: CostCurve) -> Ends:
    """N and D of a ratio at a compute."""
    if not (0 < ratio < math.inf):
        return math.nan, math.nan
    log_c = math.log(flops)

    def excess(log_n: float) -> float:
        return float(log_ratio(np.asarray(log_n), log_c, cost)) - math.log(ratio)

    if excess(0.0) < 0 or excess(log_c) > 0:
        return math.nan, math.nan
    params = math.exp(brentq(excess, 0.0, log_c, xtol=1e-12))
    return params, params * ratio

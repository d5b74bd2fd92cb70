"""The isoFLOP design: levels of equal compute, several sizes in each, re-centred as it learns.

In: the design's settings, the money, and what has been measured so far. Out: the levels and, for
each, the sizes N to train. Chinchilla's approach 2 (Hoffmann et al. 2022, arXiv 2203.15556,
section 3.2) lays the same slices; it keeps one list of sizes for all of them, whose centre then
drifts away from the optimum, the largest bias of that approach (Czech et al. 2026,
arXiv 2603.22339). Here each level is centred where the levels below it found their minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.design_section import IsoflopDesign
from orchestrator.designs.base import (
    Centre,
    Ground,
    Measured,
    Measurement,
    Point,
    Progress,
    Round,
)

SNAP = 2.0
"""A wanted N is trained as the nearest shape within this factor; beyond it there is none."""
FEWEST_WITH_A_MINIMUM = 4
"""Runs of a level from which a parabola is laid through them: any three lie on one."""
MAX_STEP = math.log(4.0)
"""A level's centre moves at most this far in ln N from the centre before it."""


class Isoflop:
    """The isoFLOP design as a `Designer`: one round per level, each after the one below it."""

    learns = True

    def __init__(self, design: IsoflopDesign, ground: Ground) -> None:
        self.design = design
        """Its settings."""
        self._ground = ground
        self.levels = level_flops(design, ground.spendable, ground.seeds)
        """Compute of one trial in each level, FLOPs."""
        self.rounds: int | None = len(self.levels)

    def lag(self, number: int, measured: Measured) -> int:
        """Each level waits for the one below it, or with `overlap` for the one below that.

        The second waits for the first, and so does any above a level that had no interior minimum:
        its centre is still on the move.
        """
        if not self.expected_lag(number):
            return 0
        return int(_minimum([m for m in measured() if m.level == number - 2]) is not None)

    def expected_lag(self, number: int) -> int:
        """As `lag` where every level has an interior minimum."""
        runs = self.design.sizes * self._ground.seeds
        return int(self.design.overlap and number >= 3 and runs >= FEWEST_WITH_A_MINIMUM)

    def propose(self, progress: Progress) -> Round | None:
        """The next level, centred by the levels below it."""
        number = progress.rounds + 1
        if number > len(self.levels):
            return None
        flops = self.levels[number - 1]
        middle = centre(self.design, progress.measurements)
        ground = self._ground
        wanted = sizes(
            self.design,
            flops,
            middle.tokens_per_parameter,
            ground.flops_per_token,
            trainable=trainable_sizes(ground, flops),
        )
        return Round(
            number=number,
            flops=flops,
            centre=middle,
            even=True,
            points=tuple(Point(params=params, flops=flops) for params in wanted),
        )


def level_flops(design: IsoflopDesign, spendable: float, seeds: int) -> tuple[float, ...]:
    """Compute of one trial in each level, ascending, FLOPs.

    Given levels are taken as they are; a number of levels is laid out so that they cost
    `spendable` in all, a factor apart, and rounded down to two digits.
    """
    if isinstance(design.levels, tuple):
        return design.levels
    shares = [design.level_factor**-k for k in range(design.levels)]
    top = spendable / (design.sizes * seeds * sum(shares))
    return tuple(sorted(_round_down(top * share) for share in shares))


def centre(design: IsoflopDesign, measurements: Sequence[Measurement]) -> Centre:
    """Centre of the next level: the ratio at the minimum of the highest level measured.

    The minimum is the vertex of a parabola of ln loss over ln N when it lies inside the sizes
    tried; otherwise the centre moves to the best size's side of the range.
    """
    if not measurements:
        return Centre(
            tokens_per_parameter=design.tokens_per_parameter, reason="the budget's starting centre"
        )
    top = max(item.level for item in measurements)
    level = sorted((m for m in measurements if m.level == top), key=lambda item: item.params)
    ratio = _minimum(level)
    if ratio is not None:
        return Centre(tokens_per_parameter=ratio, reason=f"the minimum of level {top}")
    ratios = np.log([item.tokens / item.params for item in level])
    best = int(np.argmin([item.loss for item in level]))
    if 0 < best < len(level) - 1:
        return Centre(
            tokens_per_parameter=float(np.exp(ratios[best])), reason=f"the best size of level {top}"
        )
    # The optimum lies beyond the edge: go on in that direction by one half-range, D ~ C / 6N, so
    # that ln(D/N) moves twice as far as ln N, the other way.
    shift = min(math.log(design.span), MAX_STEP) * (1 if best else -1)
    return Centre(
        tokens_per_parameter=float(np.exp(ratios[best] - 2 * shift)),
        reason=f"beyond the edge of level {top}: its best size was the "
        f"{'largest' if best else 'smallest'}",
    )


def trainable_sizes(ground: Ground, flops: float) -> tuple[float, float]:
    """Smallest and largest N with a shape and, at a compute, enough steps."""
    known = ground.sizes()
    enough = [size for size in known if flops >= ground.min_tokens * size.flops_per_token]
    return ground.smallest(), (enough or known)[-1].params


def sizes(
    design: IsoflopDesign,
    flops: float,
    ratio: float,
    flops_per_token: Callable[[float], float],
    *,
    trainable: tuple[float, float] = (0.0, math.inf),
) -> tuple[float, ...]:
    """Sizes N of a level, log-spaced around its centre, ascending.

    Where they would reach beyond the sizes that can be trained, all of them are moved, so that
    none is lost: a parabola through three sizes at one side of a level says nothing.

    Args:
        design: number of sizes and their span.
        flops: compute of each trial of the level.
        ratio: tokens per parameter at the centre.
        flops_per_token: training FLOPs per token of a model with N matmul parameters.
        trainable: smallest and largest N that can be trained.
    """
    middle = centre_params(flops, ratio, flops_per_token)
    low, high = middle / design.span, middle * design.span
    least, most = trainable
    if low < least / SNAP:
        low, high = least, min(least * design.span**2, most)
    elif high > most:
        low, high = max(most / design.span**2, least), most
    return tuple(float(low * (high / low) ** step) for step in np.linspace(0, 1, design.sizes))


def centre_params(flops: float, ratio: float, flops_per_token: Callable[[float], float]) -> float:
    """The N with D = ratio * N at a compute: solves N * ratio * flops_per_token(N) = flops."""
    params = math.sqrt(flops / (6 * ratio))
    for _ in range(20):
        params = math.sqrt(params * flops / (ratio * flops_per_token(params)))
    return params


def _minimum(level: Sequence[Measurement]) -> float | None:
    """D/N at the vertex of a level's parabola of ln loss over ln N, if inside the sizes tried."""
    level = sorted(level, key=lambda item: item.params)
    x = np.log([item.params for item in level])
    vertex = _vertex(x, np.log([item.loss for item in level]))
    if vertex is None or not x[0] < vertex < x[-1]:
        return None
    ratios = np.log([item.tokens / item.params for item in level])
    return float(np.exp(np.interp(vertex, x, ratios)))


def _vertex(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < FEWEST_WITH_A_MINIMUM:
        return None
    a, b, _ = np.polyfit(x - x.mean(), y, 2)
    return float(x.mean() - b / (2 * a)) if a > 0 else None


def _round_down(value: float) -> float:
    digits = 10 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / digits * (1 + 1e-12)) * digits:.6g}")

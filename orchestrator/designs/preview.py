"""What a list of points would know about D/N before any of it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.cost import read_cost
from analysis.doe import make_design
from orchestrator.designs.adaptive import prior_law
from orchestrator.designs.base import Point


def expected_sd(
    points: Sequence[Point], flops_per_token: Sequence[float], *, target_flops: float | None
) -> float:
    """Expected sd of ln(D/N) at the target, by a prior law centred on the points.

    Args:
        points: points with `tokens`.
        flops_per_token: training FLOPs per token of each.
        target_flops: compute the ratio is wanted at; None: ten times the dearest point.
    """
    N = np.array([point.params for point in points], dtype=np.float64)
    D = np.array([float(point.tokens or 0.0) for point in points])
    C = D * np.asarray(flops_per_token, dtype=np.float64)
    middle = math.exp(float(np.log(D / N).mean()))
    design = make_design(
        prior_law(float(C.max()), middle),
        target_flops=target_flops or 10 * float(C.max()),
        N=N,
        D=D,
        cost=read_cost(N, D, C),
    )
    return design.sd_ln_ratio(N, D)

"""Which trials of a search are ended early: asynchronous successive halving, the stopping variant.

Li et al. 2020 (arXiv 1810.05934), as Ray Tune's `ASHAScheduler` applies it: at a rung a trial goes
on unless its loss is above the 1 / FACTOR quantile of the losses that were there before it. Under
Ray that scheduler decides; where there is no Ray, the function here does, and a test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RUNGS = (25, 50)
"""Where trials are compared, percent of their steps. Early enough to save half of a bad run, late
enough that a high learning rate, which pays off when it decays, is not mistaken for a bad one."""
FACTOR = 2
"""One in so many goes on, and the rungs are so far apart."""
PROTECTED = 4
"""The first runs of a size go to their end whatever happens: a parabola needs losses on both sides
of its minimum, and a quantile of one or two losses says little."""
LOG_POINTS = 20
"""Points at which a raced trial is logged: the loss at a rung is the mean of 5 % of the run."""


def goes_on(loss: float, before: Sequence[float]) -> bool:
    """Whether a trial goes on past a rung.

    Args:
        loss: its training loss there.
        before: losses of the trials that passed there earlier.
    """
    return not before or loss <= float(np.percentile(before, 100 / FACTOR))

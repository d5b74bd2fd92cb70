"""Priors on a law's floor and exponents: off unless asked for, disclosed where used.

    alpha, beta   Gaussian                (alpha - mean)^2/(2 sd^2)
    E             log-normal              (ln E - ln mean)^2/(2 (sd/mean)^2)

Each adds its term to the objective in the objective's own unit, the noise of the runs, so that a
prior weighs as much as a measurement of that precision would. The exponents of the six-parameter
law are inside its outer power and mean something else: it takes a prior on E alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analysis.laws import FloatArray, LawForm

_INDEX = {"E": 2, "alpha": 3, "beta": 4}
"""Place in theta of what may have a prior."""
_TEXT = re.compile(r"\s*(\w+)\s*=\s*([0-9.eE+-]+?)\s*(?:\+-|\+/-|±)\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prior:
    """What is held to be known of one parameter before the runs speak."""

    parameter: str
    """`E`, `alpha` or `beta`."""
    mean: float
    """Its value; of E, the median."""
    sd: float
    """Standard deviation, in the parameter's own unit."""

    def __post_init__(self) -> None:
        if self.parameter not in _INDEX:
            raise ValueError(
                f"a prior is on one of {', '.join(_INDEX)}; got {self.parameter!r}: A, B and k "
                "have no value that carries over from other runs"
            )
        if not (math.isfinite(self.mean) and self.mean > 0):
            raise ValueError(f"the mean of {self.parameter} must be positive, got {self.mean:g}")
        if not (math.isfinite(self.sd) and self.sd > 0):
            raise ValueError(
                f"the standard deviation of {self.parameter} must be positive, got {self.sd:g}"
            )

    @property
    def centre(self) -> float:
        """Value of the entry of theta."""
        return math.log(self.mean) if self.parameter == "E" else self.mean

    @property
    def spread(self) -> float:
        """Standard deviation of the entry of theta."""
        return self.sd / self.mean if self.parameter == "E" else self.sd

    def __str__(self) -> str:
        kind = "log-normal" if self.parameter == "E" else "Gaussian"
        return f"{self.parameter} = {self.mean:g} +- {self.sd:g} ({kind})"


def parse_prior(text: str) -> Prior:
    """`alpha=0.34+-0.05` as a prior; `+/-` and the sign itself are understood too.

    Raises:
        ValueError: when the text is not of that form, or the prior is none.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"a prior reads NAME=MEAN+-SD, got {text!r}")
    try:
        mean, sd = float(found[2]), float(found[3])
    except ValueError:
        raise ValueError(f"a prior reads NAME=MEAN+-SD with two numbers, got {text!r}") from None
    return Prior(parameter=found[1], mean=mean, sd=sd)


def applicable(priors: Iterable[Prior], form: LawForm) -> tuple[Prior, ...]:
    """The priors that a law takes.

    Raises:
        ValueError: when a parameter has two priors.
    """
    given = tuple(priors)
    names = [prior.parameter for prior in given]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} has more than one prior; give one")
    return tuple(p for p in given if form.n_params == 5 or p.parameter == "E")


def centre_and_precision(priors: Iterable[Prior], form: LawForm) -> tuple[FloatArray, FloatArray]:
    """Centre and precision 1/sd^2 of each entry of theta, shape (p,) each; 0 where none is."""
    centre, precision = np.zeros(form.n_params), np.zeros(form.n_params)
    for prior in priors:
        centre[_INDEX[prior.parameter]] = prior.centre
        precision[_INDEX[prior.parameter]] = prior.spread**-2
    return centre, precision

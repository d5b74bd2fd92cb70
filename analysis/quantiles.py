"""Quantiles and tails of Student's, Fisher's and the normal distribution.

Those of `scipy.stats` to the last bit, without its import, which takes longer than all the rest of
this package.
"""

from __future__ import annotations

from scipy import special


def student_quantile(probability: float, freedom: float) -> float:
    """Below which a Student variable lies with a probability; infinite freedom is the normal.

    Args:
        probability: in (0, 1).
        freedom: degrees of freedom, positive.
    """
    return float(special.stdtrit(freedom, probability))


def normal_quantile(probability: float) -> float:
    """Below which a standard normal variable lies with a probability in (0, 1)."""
    return float(special.ndtri(probability))


def fisher_quantile(probability: float, above: float, below: float) -> float:
    """Below which an F variable lies with a probability.

    Args:
        probability: in (0, 1).
        above: degrees of freedom of the numerator.
        below: degrees of freedom of the denominator.
    """
    return float(special.fdtri(above, below, probability))


def fisher_tail(statistic: float, above: float, below: float) -> float:
    """Probability that an F variable exceeds a statistic; freedoms as for `fisher_quantile`."""
    return float(special.fdtrc(above, below, statistic))

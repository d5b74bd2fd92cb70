"""The headline estimator's optimum at a compute: N, D, loss, interval and near-optimal band.

In: a study and which estimator answers. Out: one `OptimumRow` per compute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.bytes import bytes_per_token
from analysis.checks import form_is_covered
from analysis.predict import Prediction, predict_optimum
from analysis.quantiles import normal_quantile
from analysis.study import Study, headline_sd
from analysis.uncertainty import Interval, ratio_intervals

_CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
_MULTIPLES = (3.0, 10.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class OptimumRow:
    """The headline estimator's optimum at one compute."""

    flops: float
    """C, FLOPs."""
    params: float
    """N_opt."""
    tokens: float
    """D_opt."""
    loss: float
    """Loss there; NaN when the estimator gives none."""
    interval: Interval
    """Of D/N."""
    intervals: Mapping[str, tuple[float, float]]
    """Of D/N by confidence, as `{"0.5": (low, high), ...}`."""
    near_optimal: Mapping[str, tuple[float, float]]
    """Ranges of D/N that waste at most 1 % and 5 % of compute."""
    extrapolation: float
    """C over the largest C of the runs."""
    bytes_per_token: float | None = None
    """Bytes of raw text in a token; None when the table does not say."""

    def to_dict(self) -> dict[str, Any]:
        """The row as `fit.json` holds it; bytes only where the table tells their number."""
        ratio = self.tokens / self.params
        size = self.bytes_per_token
        in_bytes = (
            {}
            if size is None
            else {
                "bytes_per_token": size,
                "bytes_per_parameter": ratio * size,
                "bytes_per_parameter_interval": [
                    self.interval.low * size,
                    self.interval.high * size,
                ],
                "bpb": self.loss / (math.log(2.0) * size),
            }
        )
        return {
            "flops": self.flops,
            "params": self.params,
            "tokens": self.tokens,
            "tokens_per_parameter": ratio,
            "interval": [self.interval.low, self.interval.high],
            "confidence": self.interval.confidence,
            "method": self.interval.method,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "near_optimal": {k: list(v) for k, v in self.near_optimal.items()},
            "extrapolation": self.extrapolation,
            "loss": self.loss,
            **in_bytes,
        }


def optimum_rows(study: Study, headline: str, confidence: float) -> tuple[OptimumRow, ...]:
    """The optimum at the target, at each level and at 3x, 10x and 30x the largest run."""
    top = float(study.table.flops.max())
    computes = [study.target, *(f.flops for f in study.levels), *(m * top for m in _MULTIPLES)]
    return tuple(optimum_row(study, headline, flops, confidence) for flops in computes)


def optimum_row(study: Study, headline: str, flops: float, confidence: float) -> OptimumRow:
    """The optimum at one compute.

    Args:
        study: what was computed.
        headline: `isoflop` for the line through the minima, else the name of a fitted law.
        flops: C, FLOPs.
        confidence: nominal coverage of the interval.
    """
    if headline == "isoflop":
        return _line_row(study, flops, confidence)
    fit, draws = study.fits[headline], study.draws.get(headline)
    top = float(study.table.flops.max())
    found: Prediction = predict_optimum(
        fit, flops, cost=study.cost, draws=draws, max_flops=top, confidence=confidence
    )
    form_sd = _tied_sd(study, flops, found) if headline == "tied" else _form_sd(study)
    intervals = {
        f"{own.confidence:g}": (widened.low, widened.high)
        for own in ratio_intervals(fit, draws, flops, study.cost, _CONFIDENCES)
        if (widened := _widened(own, form_sd))
    }
    return OptimumRow(
        flops=flops,
        params=found.optimum.params,
        tokens=found.optimum.tokens,
        loss=found.optimum.loss,
        interval=_widened(found.interval, form_sd),
        intervals=intervals,
        near_optimal=found.near_optimal,
        extrapolation=found.extrapolation,
        bytes_per_token=bytes_per_token(study.table),
    )


def _form_sd(study: Study) -> float:
    """Standard deviation of ln(D/N) that the choice of law adds to the headline's interval.

    Nothing while the headline's own error covers it; where rule R7 finds that it does not, an
    interval of one law alone would be narrower than what the runs can carry.
    """
    form = study.selection.sd_form if study.selection is not None else math.nan
    own = headline_sd(study)
    dominates = math.isfinite(form) and math.isfinite(own) and not form_is_covered(form, own)
    return form if dominates else 0.0


def _tied_sd(study: Study, flops: float, tied: Prediction) -> float:
    """Standard deviation of ln(D/N) that stands for the choice of equal exponents.

    Half the distance to the ratio of the law with free exponents, as the standard deviation of a
    uniform distribution of that half-width.
    """
    free = study.fits.get("chinchilla")
    if free is None:
        return 0.0
    other = predict_optimum(
        free, flops, cost=study.cost, max_flops=float(study.table.flops.max())
    ).optimum
    chosen = tied.optimum
    apart = math.log(chosen.tokens / chosen.params) - math.log(other.tokens / other.params)
    return abs(apart) / 2 / math.sqrt(3) if math.isfinite(apart) else 0.0


def _widened(interval: Interval, form_sd: float) -> Interval:
    """An interval of a ratio with the standard deviation of the law's form added in quadrature."""
    if form_sd == 0.0:
        return interval
    middle = 0.5 * (math.log(interval.low) + math.log(interval.high))
    half = 0.5 * math.log(interval.fold)
    extra = normal_quantile(0.5 + interval.confidence / 2) * form_sd
    total = math.hypot(half, extra)
    return replace(
        interval,
        low=math.exp(middle - total),
        high=math.exp(middle + total),
        method=f"{interval.method}, widened by the law's form",
    )


def _line_row(study: Study, flops: float, confidence: float) -> OptimumRow:
    """The optimum by the line through the isoFLOP minima."""
    line = study.line
    assert line is not None
    log_n = min(max(line.log_params_at(flops), 0.0), math.log(flops))
    params = math.exp(log_n)
    tokens = flops / float(study.cost(np.asarray(params)))
    ratio = tokens / params
    stretch = 1.0 + float(study.cost.slope(np.asarray(log_n)))

    def ends(level: float) -> tuple[float, float]:
        half = min(stretch * line.quantile(level) * line.sd_at(flops), 300.0)
        return ratio * math.exp(-half), ratio * math.exp(half)

    low, high = ends(confidence)
    fit = study.fits.get("chinchilla")
    loss = float(fit.surface.loss(np.asarray(params), np.asarray(tokens))) if fit else math.nan
    return OptimumRow(
        flops=flops,
        params=params,
        tokens=tokens,
        loss=loss,
        interval=Interval(low=low, high=high, confidence=confidence, method="isoflop line"),
        intervals={f"{c:g}": ends(c) for c in _CONFIDENCES},
        near_optimal=_line_bands(study, ratio, stretch),
        extrapolation=flops / float(study.table.flops.max()),
        bytes_per_token=bytes_per_token(study.table),
    )


def _line_bands(study: Study, ratio: float, stretch: float) -> dict[str, tuple[float, float]]:
    """Near-optimal ratios from the parabolas: loss excess p x^2 against d ln L/d ln C."""
    good = [f for f in study.levels if f.accepted]
    if len(good) < 2:
        return {}
    slope = np.polyfit(np.log([f.flops for f in good]), np.log([f.loss_opt for f in good]), 1)[0]
    curvature = float(np.mean([f.curve[0] for f in good]))
    if not slope < 0 < curvature:
        return {}
    bands = {}
    for percent in (1, 5):
        x = math.sqrt(-math.log1p(-percent / 100) * -float(slope) / curvature)
        reach = stretch * x
        bands[f"waste_{percent}pct"] = (ratio * math.exp(-reach), ratio * math.exp(reach))
    return bands

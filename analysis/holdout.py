"""The dearest level held out, forecast from the cheaper runs, and scored.

In: a table and the report of all of it. Out: a `TopForecast`: how far the losses of the dearest
level were from those forecast without it, and whether its optimal D/N lay in the forecast interval.
This is how a sweep's own extrapolation by one level would have gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.answer import fit_table
from analysis.fit_report import FitReport
from analysis.numerals import spell
from analysis.predict import predict_loss
from analysis.priors import Prior
from analysis.record import finite
from analysis.table import LossTable

_DEAREST_SHARE = 0.8
"""Without levels: runs dearer than this quantile of compute are the top."""


@dataclass(frozen=True, kw_only=True)
class HeldOutRun:
    """One run of the dearest level: its loss, and the one that the cheaper runs forecast."""

    params: float
    """N."""
    tokens: float
    """D."""
    loss: float
    """Measured loss."""
    forecast: float
    """Loss forecast."""
    prediction_interval: tuple[float, float]
    """Of that forecast."""


@dataclass(frozen=True, kw_only=True)
class TopForecast:
    """A forecast of the dearest level, beside what was measured there."""

    flops: float
    """Mean ln compute of the level, as FLOPs."""
    n_held_out: int
    """Runs held out."""
    n_fitted: int
    """Runs that the forecast rests on."""
    law: str | None
    """Law that forecast the losses; None when the cheaper runs carry none."""
    status: str
    """Status of the fit to the cheaper runs."""
    rms: float
    """Root mean square error of ln loss; NaN without a law."""
    bias: float
    """Mean error of ln loss, positive where losses were forecast too high; NaN without a law."""
    inside: float
    """Share of the losses inside their prediction interval; NaN without a law."""
    confidence: float
    """Nominal coverage of the intervals."""
    tokens_per_parameter: float
    """Forecast D/N at that compute; NaN when refused."""
    interval: tuple[float, float] | None
    """Of that ratio."""
    measured_tokens_per_parameter: float
    """D/N at the level's own parabola's minimum; NaN when it has no interior one."""
    runs: tuple[HeldOutRun, ...] = ()
    """The runs held out, one by one; empty without a law."""

    @property
    def message(self) -> str:
        """The score in words."""
        head = f"the {self.n_held_out} dearest runs ({self.flops:.3g} FLOPs), held out"
        if self.law is None:
            return f"{head}: the {self.n_fitted} cheaper runs carry no law to forecast them with"
        text = (
            f"{head} and forecast from {self.n_fitted} cheaper ones ({self.law} law): error of the "
            f"loss {self.rms:.2%} (mean {self.bias:+.2%}), {self.inside:.0%} inside the "
            f"{self.confidence:.0%} prediction interval"
        )
        if self.interval is None:
            return f"{text}; D/N not forecast: the cheaper runs alone are {self.status}"
        low, high = self.interval
        text += f"; D/N forecast {spell(self.tokens_per_parameter)} [{spell(low)}, {spell(high)}]"
        if not np.isfinite(self.measured_tokens_per_parameter):
            return f"{text}, and no interior minimum was measured there to compare"
        verdict = "inside" if low <= self.measured_tokens_per_parameter <= high else "outside"
        own = self.measured_tokens_per_parameter
        return f"{text}, the level's own minimum is at {spell(own)}: {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `fit.json`."""
        return {**asdict(self), "message": self.message}


def forecast_top(
    table: LossTable,
    report: FitReport,
    *,
    law: str | None = None,
    convention: str = "matmul",
    seed: int = 0,
    resamples: int = 2000,
    huber_delta: float | None = None,
    confidence: float = 0.9,
    priors: Sequence[Prior] = (),
) -> TopForecast:
    """Hold the dearest level out, fit the rest, and score the forecast.

    Args:
        table: the runs.
        report: of `fit_table` on all of them.
        law: as for `fit_table`.
        convention: as for `fit_table`.
        seed: as for `fit_table`.
        resamples: as for `fit_table`.
        huber_delta: as for `fit_table`.
        confidence: of the intervals.
        priors: as for `fit_table`.

    Raises:
        ValueError: when the table has no run, or all runs are of one level.
    """
    if convention in table.conventions:
        table = table.with_convention(convention)
    top, label = _top(table)
    if top.all() or not top.any():
        raise ValueError(
            f"holding out the dearest level needs cheaper runs; {int(top.sum())} of "
            f"{table.n_points} runs are in it"
        )
    flops = float(np.exp(np.log(table.flops[top]).mean()))
    cheaper = fit_table(
        table.select(~top, reason="held out: the dearest level"),
        target_flops=flops,
        convention=convention,
        seed=seed,
        resamples=resamples,
        huber_delta=huber_delta,
        confidence=confidence,
        detail=False,
        law=law,
        priors=priors,
    )
    name = next((n for n in (cheaper.headline_law, law, "chinchilla") if n in cheaper.fits), None)
    rms = bias = inside = float("nan")
    runs: tuple[HeldOutRun, ...] = ()
    if name is not None:
        found = [
            predict_loss(cheaper.fits[name], float(N), float(D), confidence=confidence)
            for N, D in zip(table.params[top], table.tokens[top], strict=True)
        ]
        loss = table.loss[top]
        error = np.log([f.loss for f in found]) - np.log(loss)
        low, high = np.array([f.prediction_interval for f in found]).T
        rms, bias = float(np.sqrt(np.mean(error**2))), float(error.mean())
        inside = float(np.mean((low <= loss) & (loss <= high)))
        runs = tuple(
            HeldOutRun(
                params=float(N),
                tokens=float(D),
                loss=float(measured),
                forecast=f.loss,
                prediction_interval=(f.prediction_interval[0], f.prediction_interval[1]),
            )
            for N, D, measured, f in zip(
                table.params[top], table.tokens[top], loss, found, strict=True
            )
        )
    row = cheaper.optimum[0] if cheaper.optimum else None
    own = next((f for f in report.isoflop if f.level == label and f.accepted), None)
    return TopForecast(
        flops=flops,
        n_held_out=int(top.sum()),
        n_fitted=int((~top).sum()),
        law=name,
        status=cheaper.status,
        rms=rms,
        bias=bias,
        inside=inside,
        confidence=confidence,
        tokens_per_parameter=row.tokens / row.params if row else float("nan"),
        interval=(row.interval.low, row.interval.high) if row else None,
        measured_tokens_per_parameter=own.tokens_per_parameter if own else float("nan"),
        runs=runs,
    )


def holdout_section(
    table: LossTable, report: FitReport, *, resamples: int, confidence: float = 0.9
) -> dict[str, Any]:
    """`holdout` of `fit.json` as the key of a section; empty where nothing can be held out.

    Args:
        table: the runs.
        report: of `fit_table` on all of them.
        resamples: as for `forecast_top`.
        confidence: as for `forecast_top`.
    """
    try:
        found = forecast_top(
            table,
            report,
            convention=report.convention,
            resamples=resamples,
            confidence=confidence,
        )
    except ValueError:
        return {}
    return {"holdout": finite(found.to_dict())}


def _top(table: LossTable) -> tuple[np.ndarray, str]:
    """Which runs are the dearest level, shape (n_points,), and its label ('' = dearest fifth)."""
    if table.n_points == 0:
        return np.zeros(0, dtype=bool), ""
    log_c, levels = np.log(table.flops), table.levels
    names = [name for name in np.unique(levels) if name]
    if names:
        label = max(names, key=lambda name: float(np.median(log_c[levels == name])))
        return levels == label, str(label)
    # Runs within 2 % of each other are one level: never cut through it.
    return log_c >= min(float(np.quantile(log_c, _DEAREST_SHARE)), log_c.max() - 0.02), ""

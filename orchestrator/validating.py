"""`target.validate`: the predicted optimum, forecast, frozen, trained at what is left, and scored.

The forecast is journalled before its run begins and never computed again, so that nothing that
comes after can improve it; the run stays out of the fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from analysis.answer import fit_table
from analysis.predict import predict_loss
from analysis.table import read_rows
from orchestrator.designs.base import Centre, Point, Round
from orchestrator.lattice import nearest_shape
from orchestrator.outcome import loss_frame
from orchestrator.setting import Setting
from orchestrator.state import SweepState
from orchestrator.trial import Notes, Trial, plan_trial
from orchestrator.units import format_count, format_flops

_STEP_DOWN = 0.97
"""A run that costs a little too much, by rounding of shapes, is made so much smaller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A run of the predicted optimum and what is expected of it."""

    trial: Trial
    """The run."""
    record: dict[str, Any]
    """As the journal keeps it."""


def forecast(setting: Setting, state: SweepState, *, resamples: int) -> Forecast | None:
    """The predicted optimum at the most compute that is left; None when there is no answer.

    Args:
        setting: budget, data and hardware.
        state: the sweep, its design done.
        resamples: bootstrap refits behind the answer.
    """
    assert state.opened is not None
    left = state.opened["budget_flops"] - state.charged_flops
    table = read_rows(loss_frame(state))
    flops = left
    for _ in range(60):
        report = fit_table(table, target_flops=flops, resamples=resamples, detail=False)
        fit = report.fits.get(report.headline_law or "")
        if report.status == "not_identified" or fit is None or not report.optimum:
            return None
        best = report.optimum[0].to_dict()
        trial = _run(setting, best["params"], flops)
        if trial is None:
            return None
        if trial.cost_flops <= left:
            break
        flops *= _STEP_DOWN * min(1.0, left / trial.cost_flops)
    else:
        return None
    expected = predict_loss(fit, trial.counts.matmul, trial.config.tokens)
    low, high = expected.prediction_interval
    return Forecast(
        trial=trial,
        record={
            "trial_id": trial.trial_id,
            "law": report.headline_law,
            "n_points": report.to_dict()["n_points"],
            "flops": trial.flops,
            "params": trial.counts.matmul,
            "tokens": trial.config.tokens,
            "tokens_per_parameter": trial.tokens_per_parameter,
            "loss": expected.loss,
            "prediction_interval": [low, high],
            "confidence": expected.confidence,
            "extrapolation": expected.extrapolation,
        },
    )


def score(state: SweepState) -> dict[str, Any] | None:
    """The frozen forecast beside what its run measured; None before the run is over."""
    frozen = state.forecast
    if frozen is None:
        return None
    run = state.trials.get(frozen["trial_id"])
    if run is None or run.result is None or run.result.loss is None:
        return None
    low, high = frozen["prediction_interval"]
    loss = run.result.loss
    inside = low <= loss <= high
    error = math.log(loss / frozen["loss"])
    message = (
        f"forecast before it was trained: N = {format_count(frozen['params'])}, "
        f"D = {format_count(frozen['tokens'])}, {format_flops(frozen['flops'])} FLOPs, loss "
        f"{frozen['loss']:.4f} [{low:.4f}, {high:.4f}] ({frozen['confidence']:.0%} interval of one "
        f"run, {frozen['law']} law, {frozen['n_points']} runs); measured {loss:.4f}, "
        f"{error:+.2%}: {'inside' if inside else 'outside'}"
    )
    return {**frozen, "measured": loss, "error_ln": error, "inside": inside, "message": message}


def _run(setting: Setting, params: float, flops: float) -> Trial | None:
    """The nearest real run to a size and a compute."""
    budget, facts = setting.budget, setting.data.facts
    shape = nearest_shape(budget.model, facts.vocab_size, params)
    if shape is None:
        return None
    asked = Round(
        number=0,
        flops=flops,
        centre=Centre(tokens_per_parameter=1.0, reason="the predicted optimum"),
        even=False,
        points=(),
    )
    seed = max(budget.training.seeds)
    point = Point(params=params, shape=shape, flops=flops)
    return plan_trial(budget, facts, setting.hardware, asked, point, shape, seed, Notes())

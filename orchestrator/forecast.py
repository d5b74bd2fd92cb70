"""What a person asks of a fit next: what would this run reach, which of two sweeps is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.answer import FitReport, finite, fit_table
from analysis.compare import compare_reports, comparison_dict
from analysis.predict import compute_for, predict_loss
from analysis.table import LossTable, read_rows
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state
from orchestrator.outcome import RESAMPLES, loss_frame


def table_and_fit(sweep_dir: Path) -> tuple[LossTable, FitReport]:
    """A sweep's loss table and its fit."""
    state = read_state(sweep_dir)
    assert state.opened is not None
    table = read_rows(loss_frame(state))
    return table, fit_table(table, target_flops=state.opened["target_flops"], resamples=RESAMPLES)


def predict(
    sweep_dir: Path,
    *,
    flops: float | None,
    params: float | None,
    tokens: float | None,
    loss: float | None,
) -> dict[str, Any]:
    """Predict a run: the optimum at a compute, the loss of (N, D), or the compute for a loss.

    Args:
        sweep_dir: a fitted sweep.
        flops: compute of the run; gives its optimum.
        params: N; with `tokens` the loss of that run, alone the compute it is optimal for.
        tokens: D, likewise.
        loss: a loss to reach; gives the least compute.

    Returns:
        Plain values, schema `sweep.predict/1`.

    Raises:
        BadInput: when the sweep has no answer, or the question is not one of these.
    """
    table, report = table_and_fit(sweep_dir)
    fit = report.fits.get(report.headline_law or "")
    if report.status == "not_identified" or fit is None or report.cost is None:
        raise _no_answer(sweep_dir, report)
    record: dict[str, Any] = {
        "schema": "sweep.predict/1",
        "law": report.headline_law,
        "status": report.status,
    }
    if params is not None and tokens is not None and flops is None and loss is None:
        run = predict_loss(fit, params, tokens)
        record |= {
            "params": params,
            "tokens": tokens,
            "loss": run.loss,
            "confidence_interval": list(run.confidence_interval),
            "prediction_interval": list(run.prediction_interval),
            "confidence": run.confidence,
            "extrapolation": run.extrapolation,
        }
        return finite(record)
    try:
        if flops is None:
            flops = compute_for(fit, cost=report.cost, params=params, tokens=tokens, loss=loss)
        elif not (params is None and tokens is None and loss is None):
            raise ValueError("give --flops alone, --params with --tokens, or one of the others")
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1312",
                rule=f"a prediction takes --flops, --params and --tokens, or --loss: {error}",
                remedy="for example: sweep predict quickstart --flops 1e14",
            )
        ) from None
    # The same question as the fit's own, at another compute: the same estimator and interval.
    there = fit_table(table, target_flops=flops, resamples=RESAMPLES)
    if there.status == "not_identified":
        raise _no_answer(sweep_dir, there)
    best = there.optimum[0].to_dict()
    at_best = predict_loss(fit, best["params"], best["tokens"])
    record |= {
        "status": there.status,
        "law": there.headline_law,
        **best,
        "prediction_interval": list(at_best.prediction_interval),
    }
    return finite(record)


def _no_answer(sweep_dir: Path, report: FitReport) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-1311",
            rule=f"a prediction rests on a fit that found an answer; this one says: "
            f"{report.message}",
            place=str(sweep_dir),
            remedy="`sweep fit` lists the rules; more levels or sizes may satisfy them",
        )
    )


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare the best losses of two sweeps at equal compute, schema `sweep.compare/1`.

    Raises:
        BadInput: when either sweep has no fitted surface.
    """
    table_a, report_a = table_and_fit(first)
    table_b, report_b = table_and_fit(second)
    try:
        levels = compare_reports(report_a, report_b, table_a, table_b)
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1313",
                rule=f"two sweeps are compared by their fitted surfaces: {error}",
                place=f"{first.name}, {second.name}",
                remedy="`sweep fit` says what each of them lacks",
            )
        ) from None
    return comparison_dict(levels)

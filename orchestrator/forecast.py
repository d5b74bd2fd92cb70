"""What a person asks of a fit next: what would this run reach, which of two sweeps is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.answer import FitReport, finite, fit_table
from analysis.compare import compare_reports, comparison_dict
from analysis.predict import compute_for, predict_loss
from analysis.targets import Ends, computes_holding, sizes_at
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state
from orchestrator.measurements import Measurements
from orchestrator.outcome import RESAMPLES
from trainer.shapes import count_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked for: one of these, or `params` with `tokens`."""

    flops: float | None = None
    """Compute of the run, FLOPs; gives its optimum."""
    gpu_hours: float | None = None
    """Hours of one device; become FLOPs by its speed."""
    params: float | None = None
    """N; with `tokens` the loss of that run, alone the compute it is optimal for."""
    tokens: float | None = None
    """D, likewise."""
    loss: float | None = None
    """A loss to reach; gives the least compute."""
    device_flops: float | None = None
    """Peak FLOPs per second of one device; with `mfu` its speed, in place of a measured one."""
    mfu: float | None = None
    """Share of the peak that training reaches."""

    @property
    def held(self) -> tuple[str, ...]:
        """Names of what is given."""
        names = ("flops", "gpu_hours", "params", "tokens", "loss")
        return tuple(name for name in names if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast one device trains."""

    flops_per_s: float
    """Training FLOPs per second."""
    source: str
    """Where the number comes from."""


def fit_of(runs: Measurements) -> FitReport:
    """The fit of measured runs at the compute that they were for."""
    return _fit_at(runs, runs.target_flops)


def _fit_at(runs: Measurements, flops: float | None) -> FitReport:
    """The answer alone: the sections that only a report prints are left out."""
    return fit_table(runs.table, target_flops=flops, resamples=RESAMPLES, detail=False)


def predict(runs: Measurements, question: Question) -> dict[str, Any]:
    """Predict a run: the optimum at a compute, the loss of (N, D), or the compute for a target.

    Args:
        runs: a sweep or a table whose fit has an answer.
        question: what is held.

    Returns:
        Plain values, schema `sweep.predict/1`: N, D and loss, each with an interval.

    Raises:
        BadInput: when there is no answer, or the question is not one of these.
    """
    report = fit_of(runs)
    fit = report.fits.get(report.headline_law or "") or report.fits.get("chinchilla")
    if report.status == "not_identified" or fit is None or report.cost is None:
        raise _no_answer(runs, report)
    record: dict[str, Any] = {
        "schema": "sweep.predict/1",
        "asked": list(question.held),
        "loss_unit": runs.loss_unit,
    }
    if question.held == ("params", "tokens"):
        assert question.params is not None
        assert question.tokens is not None
        run = predict_loss(fit, question.params, question.tokens)
        record |= {
            "law": report.headline_law,
            "status": report.status,
            "flops": question.tokens * float(report.cost(np.asarray(question.params))),
            "params": question.params,
            "tokens": question.tokens,
            "loss": run.loss,
            "confidence_interval": list(run.confidence_interval),
            "prediction_interval": list(run.prediction_interval),
            "confidence": run.confidence,
            "extrapolation": run.extrapolation,
        }
        return finite(record)
    if len(question.held) != 1:
        raise _no_question("give one of them, or --params with --tokens")
    flops = question.flops
    if question.gpu_hours is not None:
        speed = device_speed(runs, question)
        flops = 3600 * question.gpu_hours * speed.flops_per_s
        record |= {"gpu_hours": question.gpu_hours, "speed": speed.source}
    if flops is None:
        try:
            flops = compute_for(
                fit,
                cost=report.cost,
                params=question.params,
                tokens=question.tokens,
                loss=question.loss,
            )
        except ValueError as error:
            raise _no_question(str(error)) from None
    # The same question as the fit's own, at another compute: the same estimator and interval.
    there = _fit_at(runs, flops)
    if there.status == "not_identified":
        raise _no_answer(runs, there)
    return finite(record | _optimum(there, flops, question))


def _optimum(report: FitReport, flops: float, question: Question) -> dict[str, Any]:
    """The optimum at a compute, with an interval of whatever was not held."""
    row, cost = report.optimum[0], report.cost
    fit = report.fits.get(report.headline_law or "") or report.fits["chinchilla"]
    assert cost is not None
    at_best = predict_loss(fit, row.params, row.tokens)

    def sizes(compute: float) -> tuple[Ends, Ends]:
        interval = report.optimum_at(compute).interval
        return sizes_at(compute, (interval.low, interval.high), cost)

    def loss_gain(compute: float) -> Ends:
        there = report.optimum_at(compute)
        low, high = predict_loss(fit, there.params, there.tokens).confidence_interval
        return -high, -low

    params, tokens = sizes(flops)
    computes: Ends | None = None
    if question.params is not None:
        computes = computes_holding(question.params, lambda c: sizes(c)[0], flops)
        per_token = float(cost(np.asarray(question.params)))
        params = (question.params, question.params)
        tokens = (computes[0] / per_token, computes[1] / per_token)
    elif question.tokens is not None:
        computes = computes_holding(question.tokens, lambda c: sizes(c)[1], flops)
        low, high = (_params_of(c / question.tokens, cost, row.params) for c in computes)
        params = (low, high)
        tokens = (question.tokens, question.tokens)
    elif question.loss is not None:
        computes = computes_holding(-question.loss, loss_gain, flops)
    return {
        **row.to_dict(),
        "status": report.status,
        "law": report.headline_law,
        "flops_interval": computes,
        "params_interval": params,
        "tokens_interval": tokens,
        "confidence_interval": list(at_best.confidence_interval),
        "prediction_interval": list(at_best.prediction_interval),
    }


def _params_of(flops_per_token: float, cost: Any, near: float) -> float:
    """N whose training costs so many FLOPs per token."""
    if not math.isfinite(flops_per_token):
        return math.nan
    # ln f grows about as ln N: a few steps of Newton from the optimum's own N.
    log_n = math.log(near)
    for _ in range(50):
        gap = math.log(flops_per_token) - float(cost.log_cost(np.asarray(log_n)))
        log_n += gap / float(cost.slope(np.asarray(log_n)))
    return math.exp(log_n)


def device_speed(runs: Measurements, question: Question) -> Speed:
    """Training FLOPs per second of one device: as given, or as measured at the largest size.

    Raises:
        BadInput: when one of `device_flops` and `mfu` is missing, or nothing was measured.
    """
    given = (question.device_flops, question.mfu)
    if question.device_flops is not None and question.mfu is not None:
        return Speed(
            flops_per_s=question.device_flops * question.mfu,
            source=f"{question.mfu:.0%} of {question.device_flops:.3g} FLOPs per second, as given",
        )
    table = runs.table
    if given != (None, None) or not table.has("tokens_per_s"):
        raise BadInput(
            Fault(
                code="SWP-1341",
                rule="hours become FLOPs by a speed: --device-flops with --mfu, or the "
                "tokens_per_s that the runs measured",
                place=runs.name,
                remedy="for example --device-flops 989e12 --mfu 0.4",
            )
        )
    largest = table.params >= 0.999 * table.params.max()
    rates = table.column("tokens_per_s") * table.flops / table.tokens
    devices = _devices_per_run(runs)
    rate = float(np.median(rates[largest])) / devices
    return Speed(
        flops_per_s=rate,
        source=f"{rate:.3g} FLOPs per second, measured on the largest model of the runs",
    )


def _devices_per_run(runs: Measurements) -> float:
    """GPUs, or cores, that a sweep gave to the runs of its largest model; 1 for a table."""
    if runs.sweep_dir is None:
        return 1.0
    trials = read_state(runs.sweep_dir).trials.values()
    ran = [(count_parameters(t.config.shape).matmul, t.result.devices) for t in trials if t.result]
    return max(ran)[1]


def _no_question(reason: str) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-1312",
            rule="a prediction takes --flops, --gpu-hours, --params and --tokens, or --loss: "
            f"{reason}",
            remedy="for example: sweep predict quickstart --flops 1e14",
        )
    )


def _no_answer(runs: Measurements, report: FitReport) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-1311",
            rule=f"a prediction rests on a fit that found an answer; this one says: "
            f"{report.message}",
            place=str(runs.sweep_dir or runs.name),
            remedy="`sweep fit` lists the rules; more levels or sizes may satisfy them",
        )
    )


def compare(first: Measurements, second: Measurements) -> dict[str, Any]:
    """Compare the best losses of two sweeps or tables at equal compute, schema `sweep.compare/1`.

    Raises:
        BadInput: when either has no fitted surface.
    """
    try:
        levels = compare_reports(fit_of(first), fit_of(second), first.table, second.table)
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1313",
                rule=f"two sweeps are compared by their fitted surfaces: {error}",
                place=f"{first.name}, {second.name}",
                remedy="`sweep fit` says what each of them lacks",
            )
        ) from None
    return comparison_dict(levels) | {"loss_units": [first.loss_unit, second.loss_unit]}

"""From `fit.json` and its table to an `Evidence`.

Sections that `fit.json` lacks come out empty, a refused fit has no answer whatever the file says,
and nothing is recomputed but points of the law where its frontier misses the sampled range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.cost import CostCurve, read_cost
from analysis.laws import FloatArray, Surface
from analysis.report.escape import one_line
from analysis.report.evidence import APART, Evidence, Level, Optimum, Run
from analysis.report.sweep_facts import SweepFacts
from analysis.report.words import known, power
from analysis.table import CONVENTIONS, LossTable, parameter_column

ALIKE = 0.02
"""Computes nearer than this, in ln C, are one row: they print with the same two digits."""
_PATH_POINTS = 7


def gather(fit: Mapping[str, Any], table: LossTable, sweep: SweepFacts | None = None) -> Evidence:
    """Read a fit and its table.

    Args:
        fit: `fit.json` (schema sweep.fit/1).
        table: the runs.
        sweep: the sweep behind them, when there is one.
    """
    convention = fit.get("convention")
    if convention in table.conventions:
        table = table.with_convention(str(convention))
    status = str(fit.get("status", "not_identified"))
    rows = () if status == "not_identified" else tuple(map(_optimum, fit.get("optimum") or ()))
    answer = rows[0] if rows else None
    target = answer.flops if answer else (sweep.target_flops if sweep else None)
    headline = fit.get("headline_law")
    surface = None
    if answer is not None and headline != "isoflop":
        surface = read_surface(fit, str(headline or "chinchilla"))
    cost = read_cost(table.params, table.tokens, table.flops) if table.n_points else None
    frontier = _distinct(rows)
    return Evidence(
        fit=fit,
        table=table,
        sweep=sweep,
        status=status if answer else "not_identified",
        runs=_runs(table, sweep),
        levels=tuple(sorted(map(_level, fit.get("isoflop") or ()), key=lambda v: v.flops)),
        answer=answer,
        frontier=frontier,
        path=_path(frontier, surface, cost, table.flops),
        surface=surface,
        cost=cost,
        target=target,
    )


def read_surface(fit: Mapping[str, Any], law: str) -> Surface | None:
    """A law of `fit.json` as a `Surface`; None when it is absent or has no finite numbers."""
    record = (fit.get("laws") or {}).get(law) or {}
    values = {n: _number(record.get(n)) for n in ("E", "A", "B", "alpha", "beta")}
    positive = all(values[n] > 0 for n in ("A", "B", "alpha", "beta"))
    if not positive or not values["E"] >= 0 or not all(map(known, values.values())):
        return None
    return Surface(k=float(record.get("k") or 1.0), **values)


def _runs(table: LossTable, sweep: SweepFacts | None) -> tuple[Run, ...]:
    labels = sweep.labels if sweep else {}
    names = [parameter_column(table.convention), *map(parameter_column, CONVENTIONS)]
    column = next((n for n in names if n in table.frame), names[0])
    runs = []
    bare = not any(table.frame["level"]) if "level" in table.frame else True
    for number, row in enumerate(table.frame.to_dict("records"), start=1):
        given = row.get("trial_id")
        trial_id = str(given) if isinstance(given, str) and given else f"row {number}"
        runs.append(
            Run(
                trial_id=one_line(trial_id),
                label=one_line(labels.get(trial_id, trial_id)),
                level=one_line(row.get("level") or ""),
                params=_number(row.get(column)),
                tokens=_number(row.get("tokens")),
                flops=_number(row.get("flops")),
                loss=_number(row.get("loss")),
                excluded=one_line(row.get("excluded") or ""),
                row={str(k): v for k, v in row.items()},
                number=number,
                group=_decade(_number(row.get("flops")))
                if bare
                else one_line(row.get("level") or ""),
            )
        )
    return tuple(runs)


def _decade(flops: float) -> str:
    """The decade of a compute in words, for runs that belong to no level."""
    if not known(flops) or flops <= 0:
        return ""
    low = math.floor(math.log10(flops) + 1e-9)
    return f"{power(10.0**low)} to {power(10.0 ** (low + 1))}"


def _distinct(rows: tuple[Optimum, ...]) -> tuple[Optimum, ...]:
    """Optima by compute, each compute once: of those that print alike the first, the answer's."""
    kept: list[Optimum] = []
    for row in rows:
        if all(abs(math.log(row.flops / other.flops)) > ALIKE for other in kept):
            kept.append(row)
    return tuple(sorted(kept, key=lambda row: row.flops))


def _path(
    frontier: tuple[Optimum, ...],
    surface: Surface | None,
    cost: CostCurve | None,
    flops: FloatArray,
) -> tuple[Optimum, ...]:
    """The frontier with points of the law where it has none between the runs' computes."""
    if surface is None or cost is None or not frontier:
        return frontier
    low, high = float(flops.min()), float(flops.max())
    if sum(low * 0.99 <= r.flops <= high * 1.01 for r in frontier) >= 2:
        return frontier
    added = [
        _law_point(surface, cost, float(c))
        for c in np.geomspace(low, high, _PATH_POINTS)
        if c < frontier[0].flops / APART
    ]
    return (*added, *frontier)


def _law_point(surface: Surface, cost: CostCurve, flops: float) -> Optimum:
    found = surface.optimum_along(flops, cost)
    return Optimum(
        flops=flops,
        params=found.params,
        tokens=found.tokens,
        tokens_per_parameter=found.tokens / found.params,
        low=math.nan,
        high=math.nan,
        confidence=math.nan,
        method="",
        loss=found.loss,
        extrapolation=math.nan,
        near_optimal={},
    )


def _number(value: object) -> float:
    """A cell as float; NaN when it is not a number."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    return math.nan


def _level(record: Mapping[str, Any]) -> Level:
    curve = record.get("curve") or {}
    numbers = tuple(_number(curve.get(n)) for n in ("p", "q", "c", "x0"))
    drawn = (numbers[0], numbers[1], numbers[2], numbers[3])
    return Level(
        name=one_line(record.get("level", "")),
        flops=_number(record.get("flops")),
        accepted=bool(record.get("accepted")),
        reason=str(record.get("reason") or ""),
        params_opt=_number(record.get("params_opt")),
        tokens_per_parameter=_number(record.get("tokens_per_parameter")),
        loss_opt=_number(record.get("loss_opt")),
        sd_ln_params=_number(record.get("sd_ln_params")),
        curve=drawn if all(map(math.isfinite, drawn)) else None,
    )


def _optimum(record: Mapping[str, Any]) -> Optimum:
    low, high = record.get("interval") or (math.nan, math.nan)
    params, tokens = _number(record.get("params")), _number(record.get("tokens"))
    bands = record.get("near_optimal") or {}
    return Optimum(
        flops=_number(record.get("flops")),
        params=params,
        tokens=tokens,
        tokens_per_parameter=_number(record.get("tokens_per_parameter", tokens / params)),
        low=_number(low),
        high=_number(high),
        confidence=_number(record.get("confidence", 0.9)),
        method=str(record.get("method") or ""),
        loss=_number(record.get("loss")),
        extrapolation=_number(record.get("extrapolation")),
        near_optimal={
            str(k): (_number(v[0]), _number(v[1])) for k, v in bands.items() if v and len(v) == 2
        },
    )

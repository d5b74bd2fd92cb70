"""A fit and its table, read once, as the pictures and the words of a report use them.

In: `fit.json` as a mapping, the `LossTable` it came from, what is known of the sweep. Out: an
`Evidence`: runs, levels, the answer (only where there is one) and the law as a `Surface`. Sections
that `fit.json` lacks come out empty; nothing is recomputed but the curves that a picture draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from analysis.cost import CostCurve, read_cost
from analysis.escape import one_line
from analysis.laws import FloatArray, Surface
from analysis.published import BYTES_PER_BPE_TOKEN
from analysis.sweep_facts import SweepFacts
from analysis.table import CONVENTIONS, LossTable, parameter_column
from analysis.words import known, power

_APART = 1.2
_PATH_POINTS = 7
_BYTE_LEVEL = 1.5
"""A tokenizer with fewer bytes per token than this counts as byte-level."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of the table."""

    trial_id: str
    """Its id in the table; its row number where the table has none."""
    label: str
    """Its name for people."""
    level: str
    """Its compute level; '' = none."""
    params: float
    """N under the report's convention; NaN when not known."""
    tokens: float
    """D; NaN when not known."""
    flops: float
    """C, FLOPs; NaN when not known."""
    loss: float
    """L; NaN when there is none."""
    excluded: str
    """Why it is left out of the fit; '' = used."""
    row: Mapping[str, Any] = field(repr=False)
    """Every cell of its row."""
    number: int
    """Its row in the table, from 1."""
    group: str
    """The group it is drawn with: its level, or its decade of compute where no run has a level."""

    @property
    def used(self) -> bool:
        """Whether it entered the fit."""
        return not self.excluded

    @property
    def anchor(self) -> str:
        """Id of its row in the page."""
        return f"run-{self.number}"

    @property
    def ratio(self) -> float:
        """D/N."""
        return self.tokens / self.params if self.params > 0 else math.nan

    @property
    def drawable(self) -> bool:
        """Whether it has a place on a chart of losses."""
        return all(known(v) and v > 0 for v in (self.params, self.tokens, self.flops, self.loss))


@dataclass(frozen=True, kw_only=True)
class Level:
    """The parabola of one compute level, as `fit.json` holds it."""

    name: str
    """Label of the level in the table."""
    flops: float
    """Its compute, FLOPs."""
    accepted: bool
    """Whether its minimum counts."""
    reason: str
    """Why not; '' when it does."""
    params_opt: float
    """N at the minimum; NaN without one."""
    tokens_per_parameter: float
    """D/N at the minimum; NaN without one."""
    loss_opt: float
    """Loss at the minimum; NaN without one."""
    sd_ln_params: float
    """Standard deviation of ln params_opt; NaN when not known."""
    curve: tuple[float, float, float, float] | None
    """(p, q, c, x0) of ln L = p (ln N - x0)^2 + q (ln N - x0) + c."""

    def loss(self, params: FloatArray) -> FloatArray:
        """The parabola's loss at N, any shape; the level must have a curve."""
        assert self.curve is not None
        p, q, c, x0 = self.curve
        x = np.log(params) - x0
        return np.exp(p * x * x + q * x + c)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """One row of `fit.json`'s optimum: the best point at a compute, and how sure."""

    flops: float
    """C, FLOPs."""
    params: float
    """N."""
    tokens: float
    """D."""
    tokens_per_parameter: float
    """D/N."""
    low: float
    """Lower end of the interval of D/N."""
    high: float
    """Upper end."""
    confidence: float
    """Nominal coverage of the interval."""
    method: str
    """How the interval was made; '' when not said."""
    loss: float
    """Loss there; NaN when not known."""
    extrapolation: float
    """C over the largest C of the runs; NaN when not known."""
    near_optimal: Mapping[str, tuple[float, float]]
    """Ranges of D/N that waste at most a share of compute, by name (`waste_1pct`)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a report shows."""

    fit: Mapping[str, Any]
    """`fit.json`."""
    table: LossTable
    """The table under the fit's convention."""
    sweep: SweepFacts | None
    """The sweep, when there is one."""
    status: str
    """`identified`, `weak` or `not_identified`."""
    runs: tuple[Run, ...]
    """All rows, excluded ones too."""
    levels: tuple[Level, ...]
    """Cheapest first."""
    answer: Optimum | None
    """The optimum at the target; None when the fit was refused."""
    frontier: tuple[Optimum, ...]
    """The optimum at all computes, cheapest first; empty when refused."""
    path: tuple[Optimum, ...]
    """The frontier, and points of the law (without intervals) where it misses the sampled range."""
    surface: Surface | None
    """The headline's surface; None without one."""
    cost: CostCurve | None
    """FLOPs per token as a function of N; None without runs."""
    target: float | None
    """Compute asked about, FLOPs."""

    @property
    def used(self) -> tuple[Run, ...]:
        """Runs in the fit."""
        return tuple(r for r in self.runs if r.used)

    @property
    def excluded(self) -> tuple[Run, ...]:
        """Runs left out."""
        return tuple(r for r in self.runs if not r.used)

    @property
    def max_flops(self) -> float:
        """Largest C of the runs in the fit; NaN without runs."""
        return max((r.flops for r in self.used), default=math.nan)

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes per token, when known."""
        value = self.sweep.bytes_per_token if self.sweep else None
        return value if known(value) else None

    @property
    def byte_level(self) -> bool:
        """Whether a token is (about) one byte."""
        per_token = self.bytes_per_token
        if per_token is not None:
            return per_token < _BYTE_LEVEL
        return bool(self.sweep) and self.sweep is not None and self.sweep.tokenizer == "byte"

    @property
    def tokens_per_bpe_token(self) -> float:
        """How many of this table's tokens make one token of the published works; 1 unless bytes."""
        return BYTES_PER_BPE_TOKEN / (self.bytes_per_token or 1.0) if self.byte_level else 1.0

    def group_order(self) -> list[str]:
        """Groups that the runs are drawn in, cheapest first."""
        flops: dict[str, list[float]] = {}
        for run in self.runs:
            if run.group and known(run.flops):
                flops.setdefault(run.group, []).append(run.flops)
        return sorted(flops, key=lambda name: (float(np.median(flops[name])), name))

    def along_frontier(self, name: str, flops: FloatArray) -> FloatArray:
        """One quantity of the frontier at any compute between its ends, smooth in logarithms.

        Args:
            name: field of `Optimum`: `params`, `tokens`, `low`, ...
            flops: C, any shape; there must be two rows or more with a positive value.
        """
        rows: list[Optimum] = []
        for row in self.path:
            if not (known(getattr(row, name)) and getattr(row, name) > 0):
                continue
            # Two rows almost at one compute would bend the curve by their rounding.
            if rows and row.flops < _APART * rows[-1].flops:
                if row is not self.answer:
                    continue
                rows.pop()
            rows.append(row)
        curve = PchipInterpolator(
            np.log([r.flops for r in rows]), np.log([getattr(r, name) for r in rows])
        )
        return np.exp(curve(np.log(flops)))

    def waste(self, ratio: FloatArray) -> FloatArray | None:
        """Share of the target's compute wasted at each D/N, any shape; None without a law.

        At N = N_opt e^x the inner sum grows by (phi b e^(-a x) + a e^(phi b x))/(a + phi b), with
        a, b the law's exponents and phi = d ln(FLOPs per token)/d ln N; the optimum would reach
        the same loss with that growth to the power -(a + phi b)/(a b) of the compute.
        """
        if self.surface is None or self.answer is None or self.cost is None:
            return None
        phi = float(self.cost.slope(np.asarray(math.log(self.answer.params))))
        alpha, tilt = self.surface.alpha, self.surface.beta * phi
        x = -np.log(np.asarray(ratio) / self.answer.tokens_per_parameter) / (1 + phi)
        mixed = np.logaddexp(np.log(tilt) - alpha * x, np.log(alpha) + tilt * x)
        growth = mixed - math.log(alpha + tilt)
        return -np.expm1(-growth * (alpha + tilt) / (alpha * self.surface.beta))


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
    frontier = tuple(sorted({r.flops: r for r in rows}.values(), key=lambda r: r.flops))
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
        if c < frontier[0].flops / _APART
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

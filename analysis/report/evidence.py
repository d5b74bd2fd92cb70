"""A fit and its table as the pictures and the words of a report use them.

An `Evidence` holds runs, levels, the answer (only where there is one) and the law as a `Surface`;
`analysis.report.gather` reads it from `fit.json` and a loss table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from analysis.cost import CostCurve
from analysis.laws import FloatArray, Surface
from analysis.published import BYTES_PER_BPE_TOKEN
from analysis.report.sweep_facts import SweepFacts
from analysis.report.words import known
from analysis.table import LossTable

APART = 1.2
"""Computes of two points of the frontier differ by this factor at least."""
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
    def loss_unit(self) -> str | None:
        """Unit of L: the table's own, or that of a sweep's losses; None where neither is told."""
        return self.table.loss_unit or ("nats per token" if self.sweep is not None else None)

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
            if rows and row.flops < APART * rows[-1].flops:
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

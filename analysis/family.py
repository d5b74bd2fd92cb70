"""Laws over named inputs, behind one interface: predict, Jacobian, fit, optimum along a cost curve.

A `Family` is a formula L(x; theta) with its derivatives and its published parameters as a start.
The formulas themselves are in `dense_families`, `moe_families` and `run_families`; `families` lists
them. `fit_family` is least squares or Huber in ln L with the analytic Jacobian, from several
starts: for comparisons, never the inner loop of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from analysis.laws import FloatArray, FlopsPerToken, Optimum

Inputs = Mapping[str, FloatArray]
"""Inputs of a law by name, arrays that broadcast."""
Formula = Callable[[FloatArray, Inputs], tuple[FloatArray, tuple[FloatArray, ...]]]
"""(theta, inputs) -> (L, dL/dtheta_j for each parameter), all of which broadcast."""
AtPoint = Callable[[FloatArray, FloatArray, Inputs], dict[str, FloatArray]]
"""(N, D, other inputs) -> the law's own inputs."""
Remark = Callable[[FloatArray, float], str]
"""(theta, D) -> what else a fitted law says of runs of D tokens."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A law over named inputs."""

    name: str
    """Key in `FAMILIES`."""
    inputs: tuple[str, ...]
    """Names of the inputs, in the order of the formula."""
    parameters: tuple[str, ...]
    """Names of the parameters, in the order of theta."""
    formula: Formula
    """Loss and its gradient from theta (p,) and inputs."""
    published: tuple[float, ...]
    """Published parameters: the start of every fit."""
    low: tuple[float, ...]
    """Lower limits of theta."""
    high: tuple[float, ...]
    """Upper limits of theta."""
    source: str
    """Paper and place of formula and constants."""
    shed: tuple[str, ...] = ()
    """Parameters with published values that may be kept at them, the first to go first, where
    runs are too few for all or do not depend on one."""
    at: AtPoint | None = None
    """Its inputs at N parameters and D tokens; None = N and D as they are, if it has both."""
    kept: tuple[str, ...] | None = None
    """Inputs of an optimum that stay as the runs had them; None = all but N and D."""
    remark: Remark | None = None
    """What a reader of the optimum is told besides."""

    @property
    def kept_inputs(self) -> tuple[str, ...]:
        """Inputs that stay as the runs had them while N and D are chosen."""
        if self.kept is not None:
            return self.kept
        return tuple(name for name in self.inputs if name not in ("N", "D"))

    @property
    def has_optimum(self) -> bool:
        """Whether the law knows both model size and data, so that compute can be divided."""
        return self.at is not None or {"N", "D"} <= set(self.inputs)

    def loss(self, theta: FloatArray, **inputs: FloatArray) -> FloatArray:
        """Predicted loss; inputs by name.

        Raises:
            ValueError: when an input is missing or unknown.
        """
        return self.formula(np.asarray(theta, dtype=np.float64), self._columns(inputs))[0]

    def jacobian(self, theta: FloatArray, **inputs: FloatArray) -> FloatArray:
        """Analytic d ln L/d theta, shape (..., p).

        Raises:
            ValueError: when an input is missing or unknown.
        """
        value, slopes = self.formula(np.asarray(theta, dtype=np.float64), self._columns(inputs))
        return np.stack(np.broadcast_arrays(*(slope / value for slope in slopes)), axis=-1)

    def _columns(self, inputs: Inputs) -> dict[str, FloatArray]:
        if set(inputs) != set(self.inputs):
            raise ValueError(
                f"{self.name} needs the inputs {', '.join(self.inputs)}; got {', '.join(inputs)}"
            )
        return {k: np.asarray(v, dtype=np.float64) for k, v in inputs.items()}


@dataclass(frozen=True, kw_only=True)
class FamilyFit:
    """A family fitted to runs."""

    family: Family
    """Which law."""
    theta: FloatArray
    """Fitted parameters, shape (p,)."""
    residuals: FloatArray
    """ln L_law - ln L (L_law - L in a fit of L itself), shape (m,)."""
    objective: float
    """Sum of Huber terms (or half squares)."""
    at_bound: tuple[str, ...]
    """Parameters that ended at a limit."""
    starts_agreeing: int
    """Starts that reached the best objective within a millionth."""

    @property
    def rms(self) -> float:
        """Root mean square residual."""
        return float(np.sqrt(np.mean(self.residuals**2)))


def fit_family(
    family: Family,
    L: FloatArray,
    *,
    huber_delta: float = np.inf,
    starts: int = 12,
    seed: int = 0,
    logarithmic: bool = True,
    held: Mapping[str, float] | None = None,
    start: FloatArray | None = None,
    **inputs: FloatArray,
) -> FamilyFit:
    """Fit a family to losses, from its published parameters and random starts around them.

    Args:
        family: the law.
        L: losses, shape (m,).
        huber_delta: Huber width in ln L (in L); infinity = least squares.
        starts: number of starts.
        seed: of the random starts.
        logarithmic: fit ln L; False fits L itself, as some papers do.
        held: parameters that are not fitted, with their values.
        start: where the first start begins; None = the published parameters.
        inputs: the family's inputs by name, shape (m,) each.

    Raises:
        ValueError: with fewer runs than parameters, or inputs that are missing or unknown.
    """
    L = np.asarray(L, dtype=np.float64)
    free = np.array([name not in (held or {}) for name in family.parameters])
    if len(L) < free.sum():
        raise ValueError(f"{family.name} has {free.sum()} parameters to fit; got {len(L)} runs")
    low, high = np.array(family.low), np.array(family.high)
    first = np.clip(np.array(family.published if start is None else start), low, high)
    for name, value in (held or {}).items():
        first[family.parameters.index(name)] = value
    rng = np.random.default_rng(seed)
    spread = 0.25 * np.maximum(np.abs(first), 0.05)

    def whole(moving: FloatArray) -> FloatArray:
        theta = first.copy()
        theta[free] = moving
        return theta

    def residual(moving: FloatArray) -> FloatArray:
        theta = whole(moving)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss = np.maximum(family.loss(theta, **inputs), 1e-12)
            value = np.log(loss) - np.log(L) if logarithmic else loss - L
        return np.nan_to_num(value, nan=30.0, posinf=30.0, neginf=-30.0)

    def slope(moving: FloatArray) -> FloatArray:
        theta = whole(moving)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            slopes = family.jacobian(theta, **inputs)
            if not logarithmic:
                slopes = slopes * family.loss(theta, **inputs)[:, None]
            return np.nan_to_num(slopes[:, free], nan=0.0, posinf=0.0, neginf=0.0)

    best, objectives = None, []
    for i in range(starts):
        begin = first if i == 0 else first + spread * rng.standard_normal(len(first))
        found = least_squares(
            residual,
            jac=slope,
            x0=np.clip(begin, low + 1e-9, high - 1e-9)[free],
            bounds=(low[free], high[free]),
            x_scale=np.maximum(np.abs(first), 1e-2)[free],
            loss="linear" if np.isinf(huber_delta) else "huber",
            f_scale=1.0 if np.isinf(huber_delta) else huber_delta,
            max_nfev=600,
        )
        objectives.append(float(found.cost))
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    theta, margin = whole(best.x), 1e-7 * (high - low)
    edge = free & ((theta <= low + margin) | (theta >= high - margin))
    return FamilyFit(
        family=family,
        theta=theta,
        residuals=residual(best.x),
        objective=float(best.cost),
        at_bound=tuple(n for n, hit in zip(family.parameters, edge, strict=True) if hit),
        starts_agreeing=int(sum(o <= best.cost * (1 + 1e-6) + 1e-18 for o in objectives)),
    )


def optimum_along(
    family: Family,
    theta: FloatArray,
    C: float,
    flops_per_token: FlopsPerToken,
    *,
    low: float = 1e4,
    high: float = 1e14,
    **fixed: float,
) -> Optimum:
    """The point of least loss along C = f(N) D, other inputs held fixed.

    Only a minimum with worse points on both sides counts: far from where they were fitted some laws
    (Farseer's, for one) fall without end.

    Args:
        family: a law that knows model size and data.
        theta: its parameters.
        C: compute, FLOPs.
        flops_per_token: f(N), in FLOPs.
        low: smallest N considered.
        high: largest N considered.
        fixed: other inputs by name, such as U, G, or the batch M.

    Raises:
        ValueError: when the law has no optimum, when none lies between `low` and `high`, or when
            an input is missing or unknown.
    """
    if not family.has_optimum:
        raise ValueError(f"{family.name} has no inputs N and D: no optimum along a cost curve")
    others = {k: np.array([v], dtype=np.float64) for k, v in fixed.items()}

    def at(log_n: float) -> float:
        N = np.array([np.exp(log_n)])
        D = C / flops_per_token(N)
        inputs = {"N": N, "D": D, **others} if family.at is None else family.at(N, D, others)
        return float(family.loss(theta, **inputs)[0])

    grid = np.linspace(np.log(low), np.log(high), 161)
    values = np.array([at(x) for x in grid])
    inner = 1 + np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] <= values[2:]))
    if len(inner) == 0:
        raise ValueError(
            f"{family.name} has no minimum between N = {low:.3g} and {high:.3g} at {C:.3g} FLOPs"
        )
    j = int(inner[np.argmin(values[inner])])
    ends = (float(grid[j - 1]), float(grid[j + 1]))
    found = minimize_scalar(at, bounds=ends, method="bounded", options={"xatol": 1e-9})
    N = float(np.exp(found.x))
    D = C / float(flops_per_token(np.array([N]))[0])
    return Optimum(flops=C, params=N, tokens=D, loss=float(found.fun))

"""Design of experiments for the ratio: which runs shrink the interval of D/N at a target.

With the law linearised at theta, runs at x_i with noise sigma give the information
M = sum_i j_i j_i'/sigma^2 + prior, j = d ln L/d theta, and

    Var ln r(C_t) = g' M^-1 g,      g = d ln r*/d theta

(c-optimality, Elfving 1952). The expected waste of an uncertain plan is (alpha + beta) Var/8, as a
fraction of the target's compute. Unrestricted, the optimum lives at extreme D/N where laws break,
so candidates belong inside a window of compute and ratio; Skaling's form is the safer Jacobian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cost import SIX_N, CostCurve
from analysis.laws import CHINCHILLA, FloatArray, LawForm, Surface
from analysis.uncertainty import log_ratios_at

DEFAULT_NOISE_SD = 0.005
"""sd of ln L of one run until it is measured."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A linearised design problem: a law, a target and a noise level."""

    form: LawForm
    """Law whose Jacobian is used."""
    theta: FloatArray
    """Parameters in centred coordinates, shape (p,)."""
    centre: tuple[float, float]
    """(n0, d0) of the centred coordinates."""
    target_flops: float
    """Compute at which the ratio is wanted."""
    noise_sd: float
    """sd of ln L of one run."""
    cost: CostCurve
    """FLOPs per token as a function of N."""
    prior: FloatArray
    """Prior precision of theta, shape (p, p)."""

    @property
    def gradient(self) -> FloatArray:
        """G = d ln(D/N)/d theta at the target, shape (p,)."""
        p, step = self.form.n_params, 1e-5
        shifted = self.theta + np.vstack([np.eye(p), -np.eye(p)]) * step
        values = log_ratios_at(shifted, self.centre, self.target_flops, self.cost)
        return (values[:p] - values[p:]) / (2 * step)

    def jacobian(self, N: FloatArray, D: FloatArray) -> FloatArray:
        """D ln L/d theta of runs, shape (m, p)."""
        n, d = np.log(N) - self.centre[0], np.log(D) - self.centre[1]
        return self.form.jacobian(self.theta, n, d)

    def covariance(self, N: FloatArray, D: FloatArray) -> FloatArray:
        """Covariance of theta after runs at (N, D), shape (p, p)."""
        j = self.jacobian(np.asarray(N, dtype=float), np.asarray(D, dtype=float))
        return np.linalg.inv(j.T @ j / self.noise_sd**2 + self.prior)

    def sd_ln_ratio(self, N: FloatArray, D: FloatArray) -> float:
        """Sd of ln(D/N) at the target after runs at (N, D)."""
        return float(np.sqrt(self.gradient @ self.covariance(N, D) @ self.gradient))


def make_design(
    surface: Surface,
    *,
    target_flops: float,
    N: FloatArray,
    D: FloatArray,
    noise_sd: float = DEFAULT_NOISE_SD,
    cost: CostCurve = SIX_N,
    form: LawForm = CHINCHILLA,
    prior_sd: Sequence[float] | None = None,
) -> Design:
    """A design problem linearised at a law.

    Args:
        surface: the law believed so far.
        target_flops: compute at which the ratio is wanted.
        N: sizes of the planned or made runs; they set the centre of the coordinates.
        D: their tokens.
        noise_sd: sd of ln L of one run.
        cost: FLOPs per token as a function of N.
        form: law of the Jacobian; `SKALING` guards against a wrong form.
        prior_sd: prior sd of (ln A, ln B, ln E, alpha, beta[, ln k]) in centred coordinates; None
            is a weak one (3, 3, 1, 0.3, 0.3, 0.5).
    """
    centre = (float(np.log(N).mean()), float(np.log(D).mean()))
    spread = np.array((3.0, 3.0, 1.0, 0.3, 0.3, 0.5) if prior_sd is None else prior_sd)
    return Design(
        form=form,
        theta=form.to_theta(surface, centre=centre),
        centre=centre,
        target_flops=target_flops,
        noise_sd=noise_sd,
        cost=cost,
        prior=np.diag(1.0 / spread[: form.n_params] ** 2),
    )


def mean_sd(
    designs: Sequence[Design], weights: Sequence[float], N: FloatArray, D: FloatArray
) -> float:
    """Sd of ln(D/N) at the target after runs at (N, D), its variance averaged over laws."""
    return float(np.sqrt(np.asarray(weights) @ [d.sd_ln_ratio(N, D) ** 2 for d in designs]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """One run chosen by `choose_runs`."""

    index: int
    """Position among the candidates."""
    sd_after: float
    """sd of ln(D/N) at the target once it and the earlier picks are done."""
    gain: float
    """-ln(1 - share of the variance that it removes)."""
    score: float
    """gain/cost^rho."""


def choose_runs(
    designs: Design | Sequence[Design],
    done: tuple[FloatArray, FloatArray],
    candidates: tuple[FloatArray, FloatArray],
    *,
    count: int,
    weights: Sequence[float] = (1.0,),
    budget: float | None = None,
    rho: float = 1.0,
    overhead: float = 0.0,
    costs: FloatArray | None = None,
    max_repeats: int = 1,
) -> tuple[Pick, ...]:
    """Greedy c-optimal batch: each pick removes most variance of ln(D/N) per cost^rho.

    The rank-one update is exact for the linearised model, so pending runs count like finished
    ones and need no invented losses. Under several laws the gain is the weighted mean of theirs.

    Args:
        designs: the problem, or one for each law that is believed in.
        done: (N, D) of finished and pending runs.
        candidates: (N, D) of admissible runs.
        count: number of picks at most.
        weights: belief in each law, adding up to 1.
        budget: FLOPs that the picks may cost together; None = no limit.
        rho: 1 spends FLOPs greedily on many cheap runs, 0.5 on fewer dear ones.
        overhead: fixed cost per run, FLOPs.
        costs: FLOPs of each candidate; None = the design's cost curve.
        max_repeats: how often one candidate may be picked (as another seed).
    """
    N, D = (np.asarray(v, dtype=np.float64) for v in candidates)
    laws = [designs] if isinstance(designs, Design) else list(designs)
    cost = laws[0].cost(N) * D if costs is None else np.asarray(costs, dtype=np.float64)
    states = [_Linearised(law, done, N, D) for law in laws]
    belief = np.asarray(weights, dtype=np.float64)
    left = np.inf if budget is None else budget
    picks: list[Pick] = []
    used = np.zeros(len(N), dtype=int)
    for _ in range(count):
        gain = belief @ np.stack([state.gains() for state in states])
        score = gain / (cost + overhead) ** rho
        score[(cost + overhead > left) | (used >= max_repeats)] = -np.inf
        best = int(np.argmax(score))
        if not np.isfinite(score[best]):
            break
        for state in states:
            state.add(best)
        left -= cost[best] + overhead
        used[best] += 1
        picks.append(
            Pick(
                index=best,
                sd_after=float(np.sqrt(belief @ [state.variance for state in states])),
                gain=float(gain[best]),
                score=float(score[best]),
            )
        )
    return tuple(picks)


class _Linearised:
    """What one law says about candidates as runs are added to those done."""

    def __init__(
        self, law: Design, done: tuple[FloatArray, FloatArray], N: FloatArray, D: FloatArray
    ) -> None:
        self._noise = law.noise_sd**2
        self._gradient = law.gradient
        self._jacobian = law.jacobian(N, D)
        self._covariance = law.covariance(*done)

    @property
    def variance(self) -> float:
        """Of ln(D/N) at the target."""
        return max(float(self._gradient @ self._covariance @ self._gradient), 0.0)

    def gains(self) -> FloatArray:
        """-ln(1 - share of that variance that each candidate removes), shape (m,)."""
        shared = self._jacobian @ self._covariance @ self._gradient
        share = shared**2 / (self.variance * self._own())
        return -np.log1p(-np.clip(share, 0.0, 1.0 - 1e-12))

    def add(self, index: int) -> None:
        """Count a candidate as done: the rank-one update of the covariance."""
        direction = self._covariance @ self._jacobian[index]
        self._covariance -= np.outer(direction, direction) / self._own()[index]

    def _own(self) -> FloatArray:
        """Variance of each candidate's loss, noise included."""
        j = self._jacobian
        return np.einsum("mi,ij,mj->m", j, self._covariance, j) + self._noise

"""The adaptive design: an isoFLOP backbone, then the runs that sharpen the answer most per FLOP.

The backbone shows where the optimum is and whether the law's form holds. After it, batches are
chosen greedily by the share of Var ln(D/N) at the target that a run is expected to remove, per
FLOP (c-optimality; the linearised rank-one update of `analysis.doe.choose_runs`). Left alone that
criterion puts cheap runs at extreme ratios, where laws break, so: the Jacobian is that of the
six-parameter law, the runs lie inside a window of compute and of D/N, and every few batches one
run goes where the laws fitted so far disagree most (Li et al. 2026, arXiv 2604.22753, choose runs
by variance within and between laws; their designs have no window and no backbone).

A batch does not wait for the two rounds before it, which count as done: the linearised variance
needs no losses. Workers then never wait for the end of a batch, and the choice still does not
depend on timing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cost import CostCurve, read_cost
from analysis.doe import DEFAULT_NOISE_SD, Design, choose_runs, make_design, mean_sd
from analysis.fit import SurfaceFit, fit_surface, tied_exponents
from analysis.laws import CHINCHILLA, SKALING, FloatArray, LawForm, Surface
from analysis.published import BESIROGLU
from orchestrator.design_section import AdaptiveDesign, IsoflopDesign
from orchestrator.designs import isoflop
from orchestrator.designs.base import (
    Centre,
    Ground,
    Measured,
    Measurement,
    Opened,
    Point,
    Progress,
    Round,
    Size,
)

RATIO_LIMITS = (2.0, 3000.0)
"""D/N of any chosen run, whatever the estimate: bytes need four times the tokens of BPE."""
MAX_REPEATS = 3
"""Runs of one point, seeds included; more would measure noise instead of the law."""
OVERHEAD = 0.005
"""Fixed cost of a run when runs are compared, as a share of the dearest one's."""
OVERLAP = 2
"""Rounds before a batch, the top level of the backbone too, that it does not wait for: with one, a
single long run keeps the slots beside it idle."""
COMPUTES = 9
"""Compute values of the candidates between the cheapest and the dearest."""
SAME_TOKENS = 0.05
"""Difference in ln D below which two runs of one size are the same point."""
FEWEST_POINTS = 8
"""Losses below which no law of five parameters is fitted."""
LEAST_WEIGHT = 0.1
"""Share of the best law's weight that every usable one keeps."""
NOISE_LIMITS = (5e-4, 0.02)
"""sd of ln L of one run that is believed."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Runs that may be chosen."""

    sizes: tuple[Size, ...]
    """Model of each, length m."""
    N: FloatArray
    """Matmul parameters, shape (m,)."""
    D: FloatArray
    """Tokens, shape (m,)."""
    C: FloatArray
    """Training FLOPs, shape (m,)."""
    price: FloatArray
    """FLOPs charged with the evaluation, shape (m,)."""

    def take(self, keep: np.ndarray) -> Candidates:
        """Those where `keep`, shape (m,), bool, is true."""
        sizes = tuple(size for size, kept in zip(self.sizes, keep, strict=True) if kept)
        return Candidates(
            sizes=sizes,
            N=self.N[keep],
            D=self.D[keep],
            C=self.C[keep],
            price=self.price[keep],
        )


@dataclass(frozen=True, kw_only=True)
class Law:
    """One of the laws that the next batch is chosen by."""

    surface: Surface
    """The law."""
    form: LawForm
    """Its form."""
    noise_sd: float
    """sd of ln L of one run about it."""
    weight: float
    """Belief in it; the weights of all add up to 1."""


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed when the next batch is chosen."""

    laws: tuple[Law, ...]
    """The laws, most believed first."""
    source: str
    """Where they come from, in words."""

    @property
    def surface(self) -> Surface:
        """The law most believed in."""
        return self.laws[0].surface


class Adaptive:
    """The adaptive design as a `Designer`: the backbone's levels, then batches."""

    learns = True
    rounds: int | None = None

    def __init__(
        self,
        design: AdaptiveDesign,
        ground: Ground,
        *,
        after: int | None = None,
        dearest: float | None = None,
    ) -> None:
        """Bind the design.

        Args:
            design: its settings.
            ground: what can be trained, and with how much.
            after: rounds of another design that stand for the backbone; None: its own.
            dearest: most compute of one run, FLOPs; None: by the settings.
        """
        self._design = design
        self._ground = ground
        self._backbone = isoflop.Isoflop(
            IsoflopDesign(
                levels=design.levels,
                level_factor=design.level_factor,
                sizes=design.sizes,
                span=design.span,
                tokens_per_parameter=design.tokens_per_parameter,
            ),
            _share(ground, design.backbone),
        )
        self._first = len(self._backbone.levels) if after is None else after
        self.dearest = dearest or max(design.dearest * ground.spendable, self._backbone.levels[-1])
        """Most compute of one run, FLOPs."""
        self.target = ground.target_flops or 10 * self.dearest
        """Compute that the answer is for, FLOPs."""

    def lag(self, number: int, measured: Measured) -> int:
        """Levels wait for everything, batches for all but the two rounds before them."""
        return self.expected_lag(number)

    def expected_lag(self, number: int) -> int:
        """As `lag`: it does not depend on what is measured."""
        return max(0, min(number - self._first, OVERLAP))

    def propose(self, progress: Progress) -> Round | None:
        """The next level of the backbone, or the next batch."""
        if progress.rounds < self._first:
            return self._backbone.propose(progress)
        number = progress.rounds + 1
        left = self._ground.spendable - progress.committed_flops
        belief = self.belief(progress)
        middle = self.ratio(belief, progress)
        candidates = self.candidates(middle, progress)
        affordable = candidates.take(candidates.price <= left)
        if not len(affordable.N):
            return None
        batch = number - self._first
        points = self._batch(batch, left, belief, affordable, progress)
        if not points:
            return None
        return Round(
            number=number,
            flops=self.dearest,
            centre=Centre(
                tokens_per_parameter=middle,
                reason=f"batch {batch}, chosen by {belief.source}",
            ),
            even=False,
            points=points,
        )

    def belief(self, progress: Progress) -> Belief:
        """The laws fitted to the losses; with too few of them, or fits at a limit, a prior."""
        laws = _believed(progress.measurements)
        if laws:
            return Belief(laws=laws, source=f"the laws fitted to {len(progress.measurements)} runs")
        highest = [m for m in progress.measurements if m.level <= self._first]
        middle = isoflop.centre(self._backbone.design, highest)
        prior = prior_law(self._backbone.levels[-1], middle.tokens_per_parameter)
        return Belief(
            laws=(Law(surface=prior, form=CHINCHILLA, noise_sd=DEFAULT_NOISE_SD, weight=1.0),),
            source=f"a prior law with its optimum at {middle.reason}",
        )

    def ratio(self, belief: Belief, progress: Progress) -> float:
        """D/N that the window of candidates is centred on, within 3x of what was tried."""
        N, D = _tried(progress.opened)
        optimum = belief.surface.optimum(self.dearest).tokens_per_parameter
        if not len(N):
            return optimum
        return float(np.clip(optimum, (D / N).min() / 3, (D / N).max() * 3))

    def candidates(self, ratio: float, progress: Progress) -> Candidates:
        """Every run that may be chosen: real sizes, the windows, enough steps, few repeats."""
        design, ground = self._design, self._ground
        sizes = tuple(ground.sizes())
        computes = np.geomspace(self.dearest / design.cost_range, self.dearest, COMPUTES)
        chosen = [(size, float(flops)) for size in sizes for flops in computes]
        N = np.array([size.params for size, _ in chosen])
        C = np.array([flops for _, flops in chosen])
        per_token = np.array([size.flops_per_token for size, _ in chosen])
        D = C / per_token
        low = max(RATIO_LIMITS[0], ratio / design.ratio_window)
        high = min(RATIO_LIMITS[1], ratio * design.ratio_window)
        repeats = _repeats(N, D, progress.opened)
        keep = (low <= D / N) & (high >= D / N) & (ground.min_tokens <= D)
        found = Candidates(
            sizes=tuple(size for size, _ in chosen),
            N=N,
            D=D,
            C=C,
            price=C + per_token / 3 * ground.evaluation_tokens,
        )
        return found.take(keep & (repeats < MAX_REPEATS))

    def problems(
        self,
        belief: Belief,
        progress: Progress,
        runs: Candidates,
        *,
        form: LawForm = SKALING,
    ) -> list[Design]:
        """The design problem linearised at each believed law, with the Jacobian of `form`."""
        N, D = _tried(progress.opened)
        return [
            make_design(
                law.surface,
                target_flops=self.target,
                N=np.concatenate([N, runs.N]),
                D=np.concatenate([D, runs.D]),
                noise_sd=law.noise_sd,
                cost=_cost(runs),
                form=form,
            )
            for law in belief.laws
        ]

    def _batch(
        self, batch: int, left: float, belief: Belief, runs: Candidates, progress: Progress
    ) -> tuple[Point, ...]:
        tried = _repeats(runs.N, runs.D, progress.opened)
        points: list[Point] = []
        done = list(_useful(progress))
        for index, reason in self._given(batch, belief, runs, progress):
            if runs.price[index] <= left:
                points.append(_point(runs, index, tried, reason))
                done.append((float(runs.N[index]), float(runs.D[index])))
                left -= float(runs.price[index])
        problems = self.problems(belief, progress, runs)
        weights = [law.weight for law in belief.laws]
        N, D = np.array([n for n, _ in done]), np.array([d for _, d in done])
        before = mean_sd(problems, weights, N, D)
        picks = choose_runs(
            problems,
            (N, D),
            (runs.N, runs.D),
            count=self._design.batch - len(points),
            weights=weights,
            budget=left,
            costs=runs.price,
            overhead=OVERHEAD * self.dearest,
            max_repeats=1,
        )
        for pick in picks:
            reason = f"sd of ln(D/N) at the target {before:.4f} -> {pick.sd_after:.4f}"
            before = pick.sd_after
            points.append(_point(runs, pick.index, tried, reason))
        return tuple(points)

    def _given(
        self, batch: int, belief: Belief, runs: Candidates, progress: Progress
    ) -> Iterator[tuple[int, str]]:
        """Runs of a batch that no criterion chooses, with the reason."""
        if batch == 1 and max(item.cost_flops for item in progress.opened) < 0.8 * self.dearest:
            top = np.flatnonzero(0.99 * self.dearest < runs.C)
            if len(top):
                best = belief.surface.optimum_along(self.dearest, _cost(runs)).params
                near = top[np.abs(np.log(runs.N[top] / best)).argmin()]
                yield int(near), "the optimum of the dearest run, as near the target as money goes"
        if self._design.audit_every and batch % self._design.audit_every == 0:
            five, six = (
                next((law for law in belief.laws if law.form is form), None)
                for form in (CHINCHILLA, SKALING)
            )
            if five is not None and six is not None:
                gap = np.log(five.surface.loss(runs.N, runs.D) / six.surface.loss(runs.N, runs.D))
                most = np.argmax(gap**2 / (runs.price + OVERHEAD * self.dearest))
                yield int(most), "where the laws disagree most per FLOP"


def prior_law(flops: float, ratio: float, *, k: float = 1.0) -> Surface:
    """A law with the published exponents and its optimum at a given D/N for a given compute.

    A and B are scaled so that half of the loss at that optimum is reducible, about what small
    models show, and so that alpha A N^-alpha = beta B D^-beta there, the condition of the optimum
    under C = 6ND (Hoffmann et al. 2022, eq. 4; exponents and E of Besiroglu et al. 2024).

    Args:
        flops: compute, FLOPs.
        ratio: D/N of the optimum there.
        k: outer exponent; the inner exponents are divided by it, so that loss falls as fast.
    """
    law = BESIROGLU
    alpha, beta = law.alpha / k, law.beta / k
    params = math.sqrt(flops / (6 * ratio))
    inner, share = law.E ** (1 / k), beta / (alpha + beta)
    return Surface(
        E=law.E,
        A=inner * share * params**alpha,
        B=inner * (1 - share) * (ratio * params) ** beta,
        alpha=alpha,
        beta=beta,
        k=k,
    )


def _believed(measurements: Sequence[Measurement]) -> tuple[Law, ...]:
    """The usable fits, weighted by exp(-BIC/2) and none below `LEAST_WEIGHT`, best first."""
    fits = [fit for six in (False, True) if (fit := _fitted(measurements, six=six)) is not None]
    if not fits:
        return ()
    size = len(measurements)
    bic = np.array(
        [
            size * math.log(max(float(np.mean(fit.residuals**2)), 1e-300))
            + fit.n_free * math.log(size)
            for fit in fits
        ]
    )
    weights = np.maximum(np.exp((bic.min() - bic) / 2), LEAST_WEIGHT)
    laws = [
        Law(
            surface=fit.surface,
            form=fit.form,
            noise_sd=_believable(fit.noise_sd),
            weight=float(weight),
        )
        for fit, weight in zip(fits, weights / weights.sum(), strict=True)
    ]
    return tuple(sorted(laws, key=lambda law: -law.weight))


def _believable(noise_sd: float) -> float:
    return float(np.clip(noise_sd, *NOISE_LIMITS)) if math.isfinite(noise_sd) else DEFAULT_NOISE_SD


def _fitted(measurements: Sequence[Measurement], *, six: bool = False) -> SurfaceFit | None:
    """A law's fit whose exponents are inside their limits, or None."""
    if len(measurements) < FEWEST_POINTS:
        return None
    N, D, L = (
        np.array([getattr(m, name) for m in measurements], dtype=np.float64)
        for name in ("params", "tokens", "loss")
    )
    if min(len(np.unique(N)), len(np.unique(D))) < 3:
        return None
    form = SKALING if six else CHINCHILLA
    for restriction in (None, tied_exponents(form)):
        fit = fit_surface(N, D, L, form=form, restriction=restriction)
        usable = not ({"alpha", "beta", "kappa"} & set(fit.at_bound)) and fit.surface.E > 0
        if usable:
            return fit
    return None


def _tried(opened: Sequence[Opened]) -> tuple[FloatArray, FloatArray]:
    return (
        np.array([item.params for item in opened], dtype=np.float64),
        np.array([item.tokens for item in opened], dtype=np.float64),
    )


def _useful(progress: Progress) -> list[tuple[float, float]]:
    """(N, D) of the runs that tell something: measured, or of rounds not looked at yet."""
    measured = [(m.params, m.tokens) for m in progress.measurements]
    pending = [(o.params, o.tokens) for o in progress.opened if o.level > progress.settled]
    return measured + pending


def _cost(runs: Candidates) -> CostCurve:
    return read_cost(runs.N, runs.D, runs.C)


def _repeats(N: FloatArray, D: FloatArray, opened: Sequence[Opened]) -> np.ndarray:
    """How often each point, shape (m,), was opened; D may differ by the rounding to whole steps."""
    tried_n, tried_d = _tried(opened)
    same = np.abs(np.log(N)[:, None] - np.log(tried_n)) < 1e-9
    return (same & (np.abs(np.log(D)[:, None] - np.log(tried_d)) < SAME_TOKENS)).sum(axis=1)


def _point(runs: Candidates, index: int, tried: np.ndarray, reason: str) -> Point:
    """A chosen run, as another replicate of those `tried`, which counts it from now on."""
    replicate = int(tried[index])
    tried[index] += 1
    return Point(
        params=runs.sizes[index].params,
        shape=runs.sizes[index].shape,
        flops=float(runs.C[index]),
        replicate=replicate,
        reason=reason,
    )


def _share(ground: Ground, share: float) -> Ground:
    """The same ground with a share of the money."""
    return dataclasses.replace(ground, spendable=ground.spendable * share)

"""Whether the data carry an answer: refusal rules R1 to R9, a status and words.

In: what a table is (a `Facts` record of plain numbers). Out: one `Check` per rule. A failed check
of severity `refuse` makes the status `not_identified`; of severity `warn`, `weak`; a `note` is said
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from analysis.numerals import spell

Severity = Literal["refuse", "warn", "note"]
Status = Literal["identified", "weak", "not_identified"]

TOLERANCE = 0.95
"""A span counts as reached at 95 % of its limit: whole steps and real shapes miss round numbers."""
MIN_SPAN_FLOPS = 10.0
MIN_SPAN_RATIO = 8.0
EXTRAPOLATION_WARN = 10.0
EXTRAPOLATION_REFUSE = 300.0
FOLD_WARN = 4.0
FOLD_REFUSE = 16.0
MAX_FAILED = 0.05
FORM_FLOOR = 0.2
FORM_SHARE = 2.0
MIN_STEPS = 1000.0
MAX_EPOCHS = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One rule's outcome."""

    rule: str
    """`R1` to `R9`."""
    passed: bool
    """Whether the data satisfy the rule."""
    message: str
    """What was found, in words."""
    severity: Severity
    """What a failure means."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at; None = unknown or not applicable."""

    n_points: int
    """Runs in the fit."""
    n_distinct: int
    """Distinct (N, D)."""
    n_sizes: int
    """Distinct N."""
    n_tokens: int
    """Distinct D."""
    levels_tested: int
    """IsoFLOP levels with enough sizes for a parabola."""
    levels_accepted: int
    """Of them, with an accepted vertex."""
    levels_at_edge: int
    """Of them, with the minimum at the grid's edge or none at all."""
    span_flops: float
    """max C/min C."""
    span_ratio: float
    """max D/N over min D/N."""
    ratio_range: tuple[float, float]
    """Smallest and largest sampled D/N."""
    extrapolation: float
    """Target C over the largest C of the runs."""
    ratio: float | None = None
    """Headline D/N at the target."""
    fold95: float | None = None
    """95 % interval of that ratio: high/low; None = open."""
    headline: str | None = None
    """Which estimator is the headline; None = none was usable."""
    at_bound: tuple[str, ...] = ()
    """Parameters of the surface fit at a limit."""
    floor_share: float | None = None
    """E over the smallest loss."""
    failed_refits: float | None = None
    """Share of bootstrap refits that failed."""
    basins_disagree: bool = False
    """Two minima of nearly equal objective give different ratios."""
    replicate_freedom: int = 0
    """Degrees of freedom of the seed noise from replicates."""
    noise_sd: float | None = None
    """Noise sd of ln L: among replicates where there are any, else by the residuals."""
    convention_named: bool = True
    """Whether the table says which N it holds."""
    mixed: tuple[str, ...] = ()
    """Columns that must be constant and are not (tokenizer, loss unit)."""
    min_steps: float | None = None
    """Fewest optimiser steps of a run."""
    max_epochs: float | None = None
    """Most passes over the data of a run."""
    lack_of_fit_p: float | None = None
    """p value of the lack-of-fit test of the widest law."""
    holdout: tuple[bool, str] | None = None
    """Test T1 (dearest runs predicted from the rest): passed, and its words."""
    form_sd: float | None = None
    """sd of ln(D/N) that the choice of law adds."""
    ratio_sd: float | None = None
    """sd of ln(D/N) within the headline estimator."""


def run_checks(facts: Facts) -> tuple[Check, ...]:
    """All rules on one set of facts, in order (science: section 3.6)."""
    return (
        _r1_enough(facts),
        _r2_interior(facts),
        *_r3_span(facts),
        _r4_interval(facts),
        *_r5_bounds(facts),
        _r6_stable(facts),
        *_r7_fit(facts),
        *_r8_uniform(facts),
        _r9_noise(facts),
    )


def status_of(checks: Iterable[Check]) -> Status:
    """The status that a set of checks amounts to."""
    failed = {check.severity for check in checks if not check.passed}
    if "refuse" in failed:
        return "not_identified"
    return "weak" if "warn" in failed else "identified"


def _check(rule: str, passed: bool, severity: Severity, message: str) -> Check:
    return Check(rule=rule, passed=bool(passed), message=message, severity=severity)


def _r1_enough(facts: Facts) -> Check:
    rich = facts.n_distinct >= 12 and facts.n_sizes >= 4 and facts.n_tokens >= 4
    return _check(
        "R1",
        facts.levels_accepted >= 3 or rich,
        "refuse",
        f"{facts.levels_accepted} isoFLOP levels with an interior minimum, {facts.n_distinct} "
        f"distinct (N, D), {facts.n_sizes} sizes, {facts.n_tokens} token counts; needs 3 levels, "
        "or 12 distinct runs with 4 sizes and 4 token counts",
    )


def _r2_interior(facts: Facts) -> Check:
    low, high = facts.ratio_range
    if facts.levels_tested and facts.levels_at_edge * 3 > facts.levels_tested:
        return _check(
            "R2",
            False,
            "refuse",
            f"the minimum lies at the grid's edge in {facts.levels_at_edge} of "
            f"{facts.levels_tested} levels: sample smaller or larger models there",
        )
    if facts.ratio is not None and not low / 2 <= facts.ratio <= high * 2:
        return _check(
            "R2",
            False,
            "refuse",
            f"D/N at the target would be {spell(facts.ratio)}, outside the sampled "
            f"{spell(low)} to {spell(high)} by more than a factor of two",
        )
    return _check(
        "R2",
        True,
        "refuse",
        f"optimum inside the sampled D/N of {spell(low)} to {spell(high)}",
    )


def _r3_span(facts: Facts) -> tuple[Check, ...]:
    return (
        _check(
            "R3",
            facts.span_flops >= MIN_SPAN_FLOPS * TOLERANCE
            and facts.span_ratio >= MIN_SPAN_RATIO * TOLERANCE,
            "refuse",
            f"compute spans {spell(facts.span_flops)}x and D/N {spell(facts.span_ratio)}x; a law "
            f"needs {MIN_SPAN_FLOPS:.0f}x and {MIN_SPAN_RATIO:.0f}x",
        ),
        _check(
            "R3",
            facts.extrapolation <= EXTRAPOLATION_WARN / TOLERANCE,
            "refuse" if facts.extrapolation > EXTRAPOLATION_REFUSE else "warn",
            f"the target is {spell(facts.extrapolation)}x the largest run; beyond "
            f"{EXTRAPOLATION_WARN:.0f}x is weak, beyond {EXTRAPOLATION_REFUSE:.0f}x refused",
        ),
    )


def _r4_interval(facts: Facts) -> Check:
    if facts.headline is None:
        return _check(
            "R4", False, "refuse", "no estimator gives a closed interval of D/N at the target"
        )
    if facts.fold95 is None:
        return _check("R4", False, "refuse", "the 95 % interval of D/N is open on one side")
    severity: Severity = "refuse" if facts.fold95 > FOLD_REFUSE else "warn"
    return _check(
        "R4",
        facts.fold95 <= FOLD_WARN,
        severity,
        f"the 95 % interval of D/N at the target spans {spell(facts.fold95)}x; beyond "
        f"{FOLD_WARN:.0f}x is weak, beyond {FOLD_REFUSE:.0f}x refused",
    )


def _r5_bounds(facts: Facts) -> tuple[Check, ...]:
    exponents = tuple(n for n in facts.at_bound if n in ("alpha", "beta", "kappa"))
    floor = facts.floor_share
    floor_fine = floor is None or (1e-3 < floor <= 0.98 and "e" not in facts.at_bound)
    on_surface = facts.headline in (None, "chinchilla", "skaling", "tied")
    return (
        _check(
            "R5",
            not exponents,
            "refuse" if on_surface else "warn",
            f"the surface fit ended at a limit of {', '.join(exponents)}"
            if exponents
            else "no exponent at a limit",
        ),
        _check(
            "R5",
            floor_fine,
            "warn",
            "E is inside its range"
            if floor_fine
            else "E is not identified (at zero, or above 98 % of the smallest loss): the ratio "
            "does not depend on it, predicted losses do",
        ),
    )


def _r6_stable(facts: Facts) -> Check:
    failed = facts.failed_refits
    if facts.basins_disagree:
        return _check("R6", False, "warn", "two minima of nearly equal objective give other ratios")
    if failed is None:
        return _check("R6", True, "warn", "no bootstrap was needed")
    return _check(
        "R6",
        failed <= MAX_FAILED,
        "warn",
        f"{failed:.1%} of the bootstrap refits failed (limit {MAX_FAILED:.0%})",
    )


def form_is_covered(form: float, own: float) -> bool:
    """Whether the choice of law adds little to a ratio's own error; both sd of ln(D/N)."""
    return form <= max(FORM_FLOOR, FORM_SHARE * own)


def _r7_fit(facts: Facts) -> tuple[Check, ...]:
    p = facts.lack_of_fit_p
    checks = []
    if p is not None:  # without replicates there is no such test, and R9 says so
        words = f"lack-of-fit test of the widest law against replicates: p = {p:.2g}"
        checks.append(_check("R7", p >= 1e-3, "warn", words))
    if facts.holdout is not None:
        checks.append(_check("R7", facts.holdout[0], "warn", facts.holdout[1]))
    form, own = facts.form_sd, facts.ratio_sd
    if form is not None and own is not None:
        checks.append(
            _check(
                "R7",
                form_is_covered(form, own),
                "warn",
                f"the choice of law moves D/N by {form:.0%} (one sd), its own interval by "
                f"{own:.0%}",
            )
        )
    return tuple(checks)


def _r8_uniform(facts: Facts) -> tuple[Check, ...]:
    checks = [
        _check(
            "R8",
            not facts.mixed,
            "refuse",
            f"the runs mix {', '.join(facts.mixed)}: fit each apart"
            if facts.mixed
            else "one tokenizer and one loss unit, as far as the table says",
        ),
        _check(
            "R8",
            facts.convention_named,
            "note",
            "N has a named counting convention"
            if facts.convention_named
            else "the table does not say which parameters N counts (total, body, matmul)",
        ),
    ]
    if facts.min_steps is not None:
        checks.append(
            _check(
                "R8",
                facts.min_steps >= MIN_STEPS,
                "warn",
                f"the shortest run has {facts.min_steps:.0f} steps; below {MIN_STEPS:.0f} the loss "
                "depends on warmup and batch as much as on tokens",
            )
        )
    if facts.max_epochs is not None:
        checks.append(
            _check(
                "R8",
                facts.max_epochs <= MAX_EPOCHS,
                "refuse",
                f"up to {spell(facts.max_epochs, 2)} passes over the data; beyond {MAX_EPOCHS:.0f} "
                "repeated tokens are worth less and need the data-constrained law "
                "(--law data_constrained)",
            )
        )
    return tuple(checks)


def _r9_noise(facts: Facts) -> Check:
    sd = "unknown" if facts.noise_sd is None else f"{facts.noise_sd:.2%}"
    if facts.replicate_freedom > 0:
        return _check(
            "R9",
            True,
            "note",
            f"seed noise measured on replicates ({facts.replicate_freedom} degrees of freedom): "
            f"{sd} of the loss",
        )
    return _check(
        "R9",
        False,
        "note",
        f"no replicate seeds: assumed sigma {sd} of the loss, from the residuals",
    )

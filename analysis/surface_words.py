"""One fitted surface in words, as plain values, and as a LaTeX table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.fit import SurfaceFit

_ERRORS = ("a", "b", "e", "alpha", "beta", "kappa")
"""Centred parameters, whose standard errors the covariance holds."""


def surface_text(fit: SurfaceFit) -> str:
    """The fit in words: the law, how well it fits, and what is wrong with it."""
    law = fit.surface
    power = "" if fit.form.n_params == 5 else f", k {law.k:.4g}"
    errors = surface_errors(fit)
    lines = [
        f"{fit.form.name}: L = E + A/N^alpha + B/D^beta"
        if fit.form.n_params == 5
        else f"{fit.form.name}: L = E + (A/N^alpha + B/D^beta)^k",
        f"  E {law.E:.5g}, A {law.A:.5g}, B {law.B:.5g}, alpha {law.alpha:.4f}, "
        f"beta {law.beta:.4f}{power}",
        f"  standard errors: alpha {errors['alpha']:.2g}, beta {errors['beta']:.2g}, "
        f"ln E {errors['e']:.2g}",
        f"  N_opt grows as C^{law.exponent_N:.3f}; under C = 6 N D",
        f"  {fit.data.size} runs, objective {fit.objective:.8g} "
        f"({objective_words(fit.huber_delta)}), residuals {fit.noise_sd:.2%}",
        f"  global minimum: {fit.certificate.agreeing} of {fit.certificate.starts} starts agree, "
        f"gradient {fit.certificate.gradient:.1g}",
    ]
    if fit.at_bound:
        lines.append(
            f"  NOT IDENTIFIED: {', '.join(fit.at_bound)} ended at a limit; the runs do not "
            "determine it"
        )
    if not all(math.isfinite(errors[name]) for name in ("alpha", "beta")):
        lines.append("  no standard errors: the runs do not determine the exponents")
    return "\n".join(lines)


def objective_words(huber_delta: float | None) -> str:
    """What is minimised: objectives of different widths are not to be compared.

    Args:
        huber_delta: width in ln L; infinity, or None as in a record, is least squares.
    """
    if huber_delta is None or math.isinf(huber_delta):
        return "least squares in ln L"
    return f"Huber width {huber_delta:.3g} in ln L"


def surface_errors(fit: SurfaceFit) -> dict[str, float]:
    """Standard errors of the centred parameters; NaN where not identified."""
    values = [float(fit.covariance[i, i]) for i in range(len(fit.theta))]
    return {
        name: math.sqrt(value) if value >= 0 else math.nan
        for name, value in zip(_ERRORS, values, strict=False)
    }


def surface_dict(fit: SurfaceFit) -> dict[str, Any]:
    """The fit as plain values; None where a number is not finite."""
    law = fit.surface
    record: dict[str, Any] = {
        "law": fit.form.name,
        "n_points": fit.data.size,
        "E": law.E,
        "A": law.A,
        "B": law.B,
        "alpha": law.alpha,
        "beta": law.beta,
        "k": law.k,
        "exponent_N": law.exponent_N,
        "exponent_D": law.exponent_D,
        "objective": fit.objective,
        "huber_delta": fit.huber_delta,
        "noise_sd": fit.noise_sd,
        "at_bound": list(fit.at_bound),
        "sd": surface_errors(fit),
    }
    return {name: _plain(value) for name, value in record.items()}


def surface_latex(fit: SurfaceFit) -> str:
    """The law as a LaTeX table."""
    law = fit.surface
    values = (f"{law.E:.3f}", f"{law.A:.4g}", f"{law.B:.4g}", f"{law.alpha:.4f}", f"{law.beta:.4f}")
    return "\n".join(
        [
            r"\begin{tabular}{rrrrr}",
            r"$E$ & $A$ & $B$ & $\alpha$ & $\beta$ \\",
            r"\hline",
            " & ".join(values) + r" \\",
            r"\end{tabular}",
        ]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value

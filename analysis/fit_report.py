"""`FitReport`: everything that a fit says about one table, as text, LaTeX and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.checks import Check, Status
from analysis.cost import CostCurve
from analysis.fit import SurfaceFit
from analysis.isoflop import FrontierLine, LevelFit
from analysis.numerals import spell, spell_range
from analysis.optimum import OptimumRow, optimum_row
from analysis.record import check_record, finite, level_record, line_record
from analysis.study import Study
from analysis.uncertainty import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "sweep.fit/1"


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Everything that `sweep fit` says about one table."""

    status: Status
    """`identified`, `weak` or `not_identified`."""
    message: str
    """The verdict in one or two sentences."""
    n_points: int
    """Runs in the fit."""
    headline_law: str | None
    """`chinchilla`, `skaling`, `tied` or `isoflop`; None when there is no answer."""
    convention: str
    """Which parameter count is N."""
    fits: Mapping[str, SurfaceFit]
    """The fitted surfaces by law."""
    laws: Mapping[str, Mapping[str, Any]]
    """The fitted surfaces as `fit.json` holds them."""
    isoflop: tuple[LevelFit, ...]
    """The parabola of each level."""
    vertex_biases: Mapping[str, float]
    """Structural bias of each level's vertex in ln N, were the fitted surface the truth."""
    line: FrontierLine | None
    """The line through the accepted vertices."""
    optimum: tuple[OptimumRow, ...]
    """Target first, then each level and 3x, 10x, 30x the largest run; empty when refused."""
    conventions: Mapping[str, Mapping[str, Any]]
    """The ratio at the target under every reading of N, and under the 6ND closed form."""
    checks: tuple[Check, ...]
    """Outcome of every refusal rule."""
    warnings: tuple[str, ...]
    """Everything else a reader must know."""
    cost: CostCurve | None
    """FLOPs per token as a function of N."""
    noise: Mapping[str, Any]
    """`sd` of ln L and where it comes from."""
    detail: Mapping[str, Any]
    """Further sections of `fit.json`: selection, model_form, profile, sensitivity, validation,
    identifiability; empty when not asked for."""
    study: Study | None = None
    """Everything that was computed, for further questions; None without runs."""

    def optimum_at(self, flops: float, *, confidence: float = CONFIDENCE) -> OptimumRow:
        """The headline estimator's optimum at another compute, from the same fit.

        Args:
            flops: C, FLOPs.
            confidence: of the interval.

        Raises:
            ValueError: when there is no answer.
        """
        if self.study is None or self.headline_law is None:
            raise ValueError(self.message)
        return optimum_row(self.study, self.headline_law, flops, confidence)

    def isoflop_flops(self) -> list[float]:
        """Compute of each level, cheapest first."""
        return [level.flops for level in self.isoflop]

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """The report in words: verdict, laws, failed rules, warnings."""
        lines = [f"status: {self.status}", self.message, ""]
        for name, law in self.laws.items():
            lines.append(
                f"{name}: E {law['E']:.4g}{_floor(law)}, A {law['A']:.4g}, B {law['B']:.4g}, "
                f"alpha {law['alpha']:.4f}, beta {law['beta']:.4f}, "
                f"D/N {spell(law['tokens_per_parameter'])}"
                + (f"; at a limit: {', '.join(law['at_bound'])}" if law["at_bound"] else "")
            )
        failed = [c for c in self.checks if not c.passed]
        lines += [f"{c.rule} ({c.severity}): {c.message}" for c in failed]
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """The headline law with its runs, along the cost that they had; see `analysis.drawing`.

        Raises:
            ValueError: when no surface could be fitted.
        """
        from analysis.drawing import draw_surface

        fit = self.fits.get(self.headline_law or "") or self.fits.get("chinchilla")
        if fit is None or self.cost is None:
            raise ValueError(f"there is no fitted law to draw: {self.message}")
        return draw_surface(fit, cost=self.cost, ax=ax, path=path)

    def to_latex(self) -> str:
        """The fitted laws as a LaTeX table."""
        rows = [
            " & ".join(
                [
                    name,
                    f"{law['E']:.3f}",
                    f"{law['A']:.4g}",
                    f"{law['B']:.4g}",
                    f"{law['alpha']:.3f}",
                    f"{law['beta']:.3f}",
                    f"{law['exponent_N']:.3f}",
                    f"{law['tokens_per_parameter']:.3g}",
                ]
            )
            + r" \\"
            for name, law in self.laws.items()
        ]
        head = r"law & $E$ & $A$ & $B$ & $\alpha$ & $\beta$ & $a$ & $D/N$ \\"
        body = "\n".join([r"\begin{tabular}{lrrrrrrr}", head, r"\hline", *rows])
        return body + "\n" + r"\end{tabular}"

    def to_dict(self) -> dict[str, Any]:
        """The report as `fit.json` holds it: plain values, None where a number is not finite."""
        return finite(
            {
                "schema": SCHEMA,
                "status": self.status,
                "message": self.message,
                "n_points": self.n_points,
                "headline_law": self.headline_law,
                "convention": self.convention,
                "laws": self.laws,
                "isoflop": [
                    {**level_record(level), "bias_ln_params": self.vertex_biases.get(level.level)}
                    for level in self.isoflop
                ],
                "frontier": line_record(self.line),
                "optimum": [row.to_dict() for row in self.optimum],
                "conventions": self.conventions,
                "noise": self.noise,
                "checks": [check_record(check) for check in self.checks],
                "warnings": list(self.warnings),
                **self.detail,
            }
        )


def _floor(law: Mapping[str, Any]) -> str:
    """The interval of E, where the runs tell one."""
    ends = law["interval"].get("E")
    return f" {spell_range(ends)}" if ends else ""

"""Whether a design can identify a law at all, seen in its information matrix.

Condition number, the loosest direction, the spread of sampled ratios, leverage and influence: what
the refusal rules rest on, and what tells a user which run is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.cost import CostCurve
from analysis.fit import SurfaceFit
from analysis.laws import FloatArray
from analysis.uncertainty import ratio_gradient

HIGH_LEVERAGE = 0.7
"""A run with more leverage than this decides its own fitted value."""


@dataclass(frozen=True, kw_only=True)
class Identifiability:
    """Diagnostics of one fit's design."""

    condition: float
    """Condition number of J'WJ with unit columns, centred logs: 4e2 to 3e3 is usual, 1e4 poor."""
    loosest: dict[str, float]
    """Loadings of the parameters on the least determined direction (unit length)."""
    ratio_diversity: float
    """mean(r^-2 beta) - mean(r^-beta)^2 over the sampled D/N (Kricheli 2026, arXiv 2605.08541)."""
    points_per_parameter: float
    """Effective number of runs (by weight) over fitted parameters."""
    leverage: FloatArray
    """Diagonal of the hat matrix, shape (m,)."""
    influence: FloatArray
    """Change of ln(D/N) at the target, in its own sds, when a run is left out, shape (m,)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `fit.json`: the largest leverage and influence, not all of them."""
        most = int(np.argmax(np.abs(self.influence))) if len(self.influence) else -1
        return {
            "condition": self.condition,
            "loosest_direction": self.loosest,
            "ratio_diversity": self.ratio_diversity,
            "points_per_parameter": self.points_per_parameter,
            "max_leverage": float(self.leverage.max()) if len(self.leverage) else None,
            "high_leverage_runs": int((self.leverage > HIGH_LEVERAGE).sum()),
            "max_influence": float(self.influence[most]) if most >= 0 else None,
            "max_influence_row": most if most >= 0 else None,
        }


def diagnose(fit: SurfaceFit, *, flops: float, cost: CostCurve) -> Identifiability | None:
    """Diagnostics of a fit's design; None when its information matrix is singular.

    Args:
        fit: the fit.
        flops: target compute, for the influence on the ratio.
        cost: FLOPs per token as a function of N.
    """
    basis = np.eye(fit.form.n_params) if fit.restriction is None else fit.restriction.basis
    jacobian = fit.form.jacobian(fit.theta, fit.data.n, fit.data.d) @ basis.T
    rooted = jacobian * np.sqrt(fit.weights)[:, None]
    size = np.sqrt((rooted**2).sum(axis=0))
    if fit.data.size <= len(basis) or not (size > 0).all():
        return None
    scaled = rooted / size
    _, singular, vectors = np.linalg.svd(scaled, full_matrices=False)
    if singular[-1] <= 1e-9 * singular[0]:
        return None
    names = [
        "/".join(n for n, on in zip(fit.form.parameter_names, np.abs(row) > 0, strict=True) if on)
        for row in basis
    ]
    inverse = vectors.T @ np.diag(singular**-2) @ vectors
    leverage = np.einsum("mi,ij,mj->m", scaled, inverse, scaled)
    gradient = (ratio_gradient(fit, flops, cost) @ basis.T) / size
    # One Newton step of leaving run i out: theta_(i) - theta = (J'J)^-1 j_i r_i/(1 - h_i).
    pull = scaled @ inverse @ gradient
    spread = fit.noise_sd * float(np.sqrt(gradient @ inverse @ gradient))
    slack = np.maximum(1.0 - leverage, 1e-6)
    influence = pull * fit.residuals * np.sqrt(fit.weights) / slack / max(spread, 1e-300)
    ratio = np.exp(fit.data.d - fit.data.n)
    real = np.exp(np.log(ratio) + fit.data.centre[1] - fit.data.centre[0]) ** -fit.surface.beta
    weight = fit.weights / fit.weights.sum()
    return Identifiability(
        condition=float((singular[0] / singular[-1]) ** 2),
        loosest={n: float(v) for n, v in zip(names, vectors[-1], strict=True)},
        ratio_diversity=float((weight * real**2).sum() - (weight * real).sum() ** 2),
        points_per_parameter=float(1.0 / (weight**2).sum() / len(basis)),
        leverage=leverage,
        influence=influence,
    )

"""Bootstraps that keep the design and resample the noise: residual, wild and wild cluster.

Resampling runs (`analysis.uncertainty.bootstrap`) changes which (N, D) were measured; a planned
design was not drawn at random, and a small one may lose its only long run. Here every refit has
all runs, and the loss of each is the law's plus resampled noise:

    residual      noise drawn with replacement from the centred residuals, sqrt(m/(m - p)) larger
    wild          each run's own residual, over sqrt(1 - leverage), with a random sign
    wild cluster  the same with one sign for all runs of a cluster

The residual bootstrap takes the noise for alike everywhere; the wild one lets it differ from run
to run (Wu 1986, Annals of Statistics 14, section 5; signs: Davidson and Flachaire 2008, Journal of
Econometrics 146), the last lets runs share it (Cameron, Gelbach and Miller 2008, Review of
Economics and Statistics 90), which serves where clusters are too few to be resampled.
"""

from __future__ import annotations

import numpy as np

from analysis.fit import SurfaceFit, drawn_penalty, refit
from analysis.laws import FloatArray
from analysis.uncertainty import Draws, gather_draws

_LARGEST_LEVERAGE = 0.99


def residual_bootstrap(fit: SurfaceFit, *, resamples: int = 2000, seed: int = 0) -> Draws:
    """Refit a law to its own losses plus residuals drawn with replacement.

    Args:
        fit: the fit to all runs.
        resamples: number of refits.
        seed: of the drawing.

    Raises:
        ValueError: with no more runs than fitted parameters, whose residuals say nothing.
    """
    m = fit.data.size
    _require_freedom(fit)
    noise = -fit.residuals
    pool = (noise - noise.mean()) * np.sqrt(m / (m - fit.n_free))
    drawn = np.random.default_rng(seed).integers(0, m, size=(resamples, m))
    return _refit_losses(fit, pool[drawn], kind="residual", n_clusters=m, seed=seed)


def wild_bootstrap(
    fit: SurfaceFit,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Draws:
    """Refit a law to its own losses plus each run's residual with a random sign.

    Args:
        fit: the fit to all runs.
        groups: cluster number of each run, shape (m,), whose runs get one sign; None = each run
            its own.
        resamples: number of refits.
        seed: of the signs.

    Raises:
        ValueError: with no more runs than fitted parameters, whose residuals say nothing.
    """
    m = fit.data.size
    _require_freedom(fit)
    units = np.arange(m) if groups is None else groups
    count = int(units.max()) + 1
    noise = fit.residuals / np.sqrt(1.0 - np.minimum(leverages(fit), _LARGEST_LEVERAGE))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(resamples, count))
    kind = "wild" if groups is None else "wild cluster"
    return _refit_losses(fit, noise * signs[:, units], kind=kind, n_clusters=count, seed=seed)


def leverages(fit: SurfaceFit) -> FloatArray:
    """How much each run pulls its own prediction: the hat matrix's diagonal, shape (m,).

    Of the law's Jacobian at the fit, over the free directions; the sum is their number, less what
    priors decide.
    """
    basis = np.eye(fit.form.n_params) if fit.restriction is None else fit.restriction.basis
    movable = (np.abs(basis) > 0) @ (~fit.free) == 0
    root = np.sqrt(fit.weights)[:, None]
    jacobian = root * fit.form.jacobian(fit.theta, fit.data.n, fit.data.d) @ basis[movable].T
    if fit.penalty is not None:
        # A prior takes its share of the pull: a row of its own below the runs'.
        jacobian = np.vstack([jacobian, np.diag(np.sqrt(fit.penalty.weight)) @ basis[movable].T])
    orthogonal = np.linalg.qr(jacobian)[0][: fit.data.size]
    return np.asarray((orthogonal**2).sum(axis=1))


def _require_freedom(fit: SurfaceFit) -> None:
    if fit.data.size <= fit.n_free:
        raise ValueError(
            f"resampling residuals needs more runs than parameters: {fit.data.size} runs, "
            f"{fit.n_free} parameters; add runs or fit a law with fewer parameters"
        )


def _refit_losses(
    fit: SurfaceFit, noise: FloatArray, *, kind: str, n_clusters: int, seed: int
) -> Draws:
    targets = fit.data.y + fit.residuals + noise
    weights = np.broadcast_to(fit.weights, targets.shape)
    priors = drawn_penalty(fit, len(targets), seed=seed + 1)
    solved = refit(fit, weights, targets=targets, penalty=priors)
    return gather_draws(fit, solved, kind=kind, n_clusters=n_clusters)

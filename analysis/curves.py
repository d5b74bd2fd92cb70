"""Training curves of a table's runs in, the envelope's answer or a refusal out (Approach 1).

A point on a curve is data about "N parameters trained on D tokens" only where the learning rate had
done at D what it does at the end of a run of D tokens. With the learning rate beside the loss that
can be judged:

    never decayed   every point compares with every other, at an equally high learning rate
    decayed         only the end of the run is data; the points before it, on a cosine or a linear
                    schedule, show a run stopped in the middle of its decay, which is too high by
                    more for the smaller share of the decay behind it, and so favours large models

so curves that decay give their ends alone, and need several horizons of each size (Hoffmann et al.
2022, section 3.1, used four). Curves without learning rates are refused: the loss does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.envelope import EnvelopeFit, fit_envelope
from analysis.laws import FloatArray
from analysis.table import LossTable

Curves = Mapping[str, Mapping[str, ArrayLike]]
"""By trial_id: equally long `tokens`, `flops`, `loss` and, optionally, `learning_rate`."""

NEVER_DECAYED = 0.9
"""A curve whose last learning rate is at least this share of its peak was not decayed."""
FINISHED = 0.1
"""Decayed to the horizon: the last learning rate is at most this share of the peak."""
_MIN_HORIZONS = 3
_MIN_SIZES = 3
_QUANTITIES = ("tokens", "flops", "loss")


@dataclass(frozen=True, kw_only=True)
class EnvelopeReading:
    """What the curves say, or why they say nothing."""

    fit: EnvelopeFit | None
    """The compute-optimal line; None when refused."""
    reason: str
    """What was read, or the refusal, in words."""
    left_out: Mapping[str, str]
    """Curves that were not used, by trial_id, with the reason."""

    def to_dict(self, *, target_flops: float, confidence: float) -> dict[str, Any]:
        """Plain values for `fit.json`; the numbers are None when refused.

        Args:
            target_flops: compute at which D/N is read off the line.
            confidence: of its interval over resampled runs.
        """
        fit = self.fit
        ends = fit.ratio_interval(target_flops, confidence=confidence) if fit else None
        return {
            "status": "refused" if fit is None else "fitted",
            "message": self.reason,
            "left_out": dict(self.left_out),
            "target_flops": target_flops,
            "exponent_N": fit.exponent_N if fit else None,
            "exponent_N_sd": fit.sd_exponent_N if fit else None,
            "exponent_D": fit.exponent_D if fit else None,
            "tokens_per_parameter": fit.tokens_per_parameter(target_flops) if fit else None,
            "interval": list(ends) if ends else None,
            "confidence": confidence,
            "n_runs": fit.n_runs if fit else 0,
        }


def read_envelope(
    table: LossTable, curves: Curves, *, resamples: int = 200, seed: int = 0
) -> EnvelopeReading:
    """The envelope of training curves, where their schedules allow one.

    Args:
        table: the runs; gives N of each trial by `trial_id`.
        curves: by trial_id, arrays of shape (points,); see `Curves`.
        resamples: bootstrap resamples of runs.
        seed: of the resampling.

    Returns:
        The line, or a refusal in words.

    Raises:
        ValueError: when a curve lacks a quantity, its arrays differ in length, or hold values
            that are not positive and finite.
    """
    if "trial_id" not in table.frame:
        return _refusal("the table has no trial_id, by which curves find their N", {})
    size = dict(zip(table.used["trial_id"].astype(str), table.params, strict=True))
    left_out: dict[str, str] = {}
    read: dict[str, dict[str, FloatArray]] = {}
    for name, curve in curves.items():
        arrays = _arrays(str(name), curve)
        if str(name) not in size:
            left_out[str(name)] = "not among the runs that the fit uses"
        elif "learning_rate" not in arrays:
            left_out[str(name)] = "no learning rate: its schedule is unknown"
        else:
            read[str(name)] = arrays
    if not read:
        return _refusal(
            "no curve says how its learning rate went; give `learning_rate` beside the loss: a "
            "cosine's points before its end are not data",
            left_out,
        )
    share = {k: float(a["learning_rate"][-1] / a["learning_rate"].max()) for k, a in read.items()}
    constant = [k for k, s in share.items() if s >= NEVER_DECAYED]
    finished = [k for k, s in share.items() if s <= FINISHED]
    for name in sorted(set(read) - {*constant, *finished}):
        left_out[name] = (
            f"stopped at {share[name]:.0%} of its peak learning rate: neither decayed to its end "
            "nor undecayed"
        )
    if constant and finished:
        return _refusal(
            f"{len(constant)} curves at a constant learning rate and {len(finished)} decayed ones "
            "are not comparable: give one kind",
            left_out,
        )
    if constant:
        return _whole_curves({k: read[k] for k in constant}, size, left_out, resamples, seed)
    if not finished:
        return _refusal(
            "every curve stopped neither decayed to its end nor undecayed: none of its points is "
            "data",
            left_out,
        )
    # The end of a run is its row of the table: the held-out loss, which a curve may not have.
    rows = zip(table.tokens, table.flops, table.loss, strict=True)
    ends = dict(zip(table.used["trial_id"].astype(str), rows, strict=True))
    return _ends({k: ends[k] for k in finished}, size, left_out, resamples, seed)


def _arrays(name: str, curve: Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
    """The curve's arrays as float64, checked."""
    missing = [q for q in _QUANTITIES if q not in curve]
    if missing:
        raise ValueError(
            f"curve {name}: a curve has {', '.join(_QUANTITIES)}; {', '.join(missing)} is missing"
        )
    wanted = [*_QUANTITIES, *(["learning_rate"] if "learning_rate" in curve else [])]
    arrays = {q: np.asarray(curve[q], dtype=np.float64).ravel() for q in wanted}
    lengths = {q: len(a) for q, a in arrays.items()}
    if len(set(lengths.values())) != 1 or lengths["loss"] == 0:
        raise ValueError(f"curve {name}: arrays must be equally long and not empty; got {lengths}")
    for q, a in arrays.items():
        # A learning rate may end at exactly zero.
        low = a >= 0 if q == "learning_rate" else a > 0
        if not (np.isfinite(a) & low).all() or not a.max() > 0:
            raise ValueError(f"curve {name}: {q} must be positive and finite; drop such points")
    order = np.argsort(arrays["tokens"], kind="stable")
    return {q: a[order] for q, a in arrays.items()}


def _whole_curves(
    read: Mapping[str, Mapping[str, FloatArray]],
    size: Mapping[str, float],
    left_out: dict[str, str],
    resamples: int,
    seed: int,
) -> EnvelopeReading:
    """Curves whose learning rate was never decayed: every point after the peak counts."""
    parts = []
    for name, curve in read.items():
        # Before the first step at nearly full rate the run is warming up.
        rate = curve["learning_rate"]
        start = int(np.argmax(rate >= NEVER_DECAYED * rate.max()))
        rest = slice(start, None)
        count = len(rate) - start
        parts.append(
            (
                np.full(count, name, dtype=object),
                np.full(count, size[name]),
                *(curve[q][rest] for q in _QUANTITIES),
            )
        )
    run, N, D, C, L = (np.concatenate(column) for column in zip(*parts, strict=True))
    fit = fit_envelope(run.astype(str), N, D, C, L, resamples=resamples, seed=seed)
    if fit is None:
        return _few_winners(left_out)
    words = f"envelope of {len(read)} whole curves at a constant learning rate, not decayed"
    return EnvelopeReading(fit=fit, reason=words, left_out=left_out)


def _ends(
    ends: Mapping[str, tuple[float, float, float]],
    size: Mapping[str, float],
    left_out: dict[str, str],
    resamples: int,
    seed: int,
) -> EnvelopeReading:
    """Curves decayed to their ends: one point a run, one line L(C) a size through its horizons."""
    names = sorted(ends)
    N = np.array([size[k] for k in names])
    D, C, L = np.array([ends[k] for k in names]).T
    label = np.unique(np.round(np.log(N), 9), return_inverse=True)[1]
    horizons = np.array([len(np.unique(D[label == i])) for i in range(label.max() + 1)])
    rich = horizons >= _MIN_HORIZONS
    if rich.sum() < _MIN_SIZES:
        return _refusal(
            "the learning rates decay, so only the ends of the runs are data (the points of a "
            "cosine or linear schedule before its end show a run stopped in mid-decay), and "
            f"{int(rich.sum())} sizes have {_MIN_HORIZONS} horizons or more; {_MIN_SIZES} are "
            "needed. Train each size to several token counts, each decayed to its own",
            left_out,
        )
    keep = rich[label]
    for name, used in zip(names, keep, strict=True):
        if not used:
            left_out[name] = f"its size has fewer than {_MIN_HORIZONS} horizons"
    fit = fit_envelope(
        label[keep].astype(str),
        N[keep],
        D[keep],
        C[keep],
        L[keep],
        smoothing=0.0,
        resamples=resamples,
        seed=seed,
    )
    if fit is None:
        return _few_winners(left_out)
    words = (
        f"envelope of the ends of {int(keep.sum())} runs decayed to their horizons, "
        f"{int(rich.sum())} sizes; points before an end are not data and were not used"
    )
    return EnvelopeReading(fit=fit, reason=words, left_out=left_out)


def _few_winners(left_out: Mapping[str, str]) -> EnvelopeReading:
    return _refusal(
        "fewer than three sizes between the smallest and the largest are ever the best at a "
        "compute that two runs reached: the envelope has no line",
        left_out,
    )


def _refusal(reason: str, left_out: Mapping[str, str]) -> EnvelopeReading:
    return EnvelopeReading(fit=None, reason=f"no envelope: {reason}", left_out=left_out)

"""The scaling-law checklist of (Mis)Fitting, filled from what a fit and its table know.

Li, Kudugunta and Zettlemoyer 2025 (arXiv 2502.18969) found that most papers leave out choices that
move the answer. Its four headings are kept; the items are in our words. What the records do not
say is answered with None, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.cost import read_cost
from analysis.table import UNNAMED_CONVENTION, LossTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One line of the checklist."""

    heading: str
    """`hypothesis`, `training setup`, `data collection` or `fitting`."""
    question: str
    """What must be stated."""
    answer: str | None
    """What the records say; None = they do not."""


def fill_checklist(
    fit: Mapping[str, Any], table: LossTable, metadata: Mapping[str, Any] | None = None
) -> tuple[Item, ...]:
    """The checklist with every answer that the records hold.

    Args:
        fit: `fit.json` (schema sweep.fit/1).
        table: its table.
        metadata: what only the sweep knows, by key: `data`, `tokenizer`, `schedule`, `recipe`,
            `code`, `evaluation`, `checkpoints`, `flops_rule`.
    """
    known = {k: str(v) for k, v in (metadata or {}).items() if v not in (None, "")}
    return (
        *_hypothesis(fit),
        *_training(fit, table, known),
        *_collection(table, known),
        *_fitting(fit, table),
    )


def _item(heading: str, question: str, answer: str | None) -> Item:
    return Item(heading=heading, question=question, answer=answer)


def _hypothesis(fit: Mapping[str, Any]) -> tuple[Item, ...]:
    heading = "hypothesis"
    selection = fit.get("selection") or {}
    free = {score["name"]: score["n_params"] for score in selection.get("laws") or ()}
    names = [
        f"{name} ({free[name]} parameters)" if name in free else name
        for name in fit.get("laws") or ()
    ]
    return (
        _item(heading, "form of the law", ", ".join(names) or None),
        _item(heading, "variables", "N (parameters), D (tokens), L (loss)"),
        _item(heading, "how the form was chosen", selection.get("method")),
    )


def _training(
    fit: Mapping[str, Any], table: LossTable, known: Mapping[str, str]
) -> tuple[Item, ...]:
    heading = "training setup"
    sizes = cost = None
    if table.n_points:
        N = table.params
        sizes = f"{len(np.unique(N))} from {N.min():.3g} to {N.max():.3g}"
        six = read_cost(N, table.tokens, table.flops).is_six_n
        cost = "C = 6 N D" if six else "FLOPs of each run as the table gives them"
    named = fit.get("convention")
    convention = None if named in (None, UNNAMED_CONVENTION) else str(named)
    repeated = f"at most {table.column('epochs').max():.2g}" if table.has("epochs") else None
    return (
        _item(heading, "number of models", str(table.n_points)),
        _item(heading, "model sizes", sizes),
        _item(heading, "training data", known.get("data")),
        _item(heading, "tokenizer", known.get("tokenizer")),
        _item(heading, "passes over the data", repeated),
        _item(heading, "which parameters N counts", convention),
        _item(heading, "how compute is counted", known.get("flops_rule", cost)),
        _item(heading, "hyper-parameters as functions of scale", known.get("recipe")),
        _item(heading, "learning-rate schedule", known.get("schedule")),
        _item(heading, "training code", known.get("code")),
    )


def _collection(table: LossTable, known: Mapping[str, str]) -> tuple[Item, ...]:
    heading = "data collection"
    excluded = table.frame["excluded"][table.frame["excluded"] != ""]
    reasons = ", ".join(f"{n} {r!r}" for r, n in excluded.value_counts().items())
    return (
        _item(heading, "checkpoints per run that enter the fit", known.get("checkpoints")),
        _item(heading, "evaluation set and metric", known.get("evaluation")),
        _item(heading, "runs left out, and why", reasons or "none"),
    )


def _fitting(fit: Mapping[str, Any], table: LossTable) -> tuple[Item, ...]:
    heading = "fitting"
    law = (fit.get("laws") or {}).get(fit.get("headline_law") or "chinchilla") or {}
    objective = starts = goodness = interval = None
    if "huber_delta" in law:
        width = law["huber_delta"]
        objective = (
            "least squares in ln L"
            if width in (None, float("inf"))
            else f"sum of Huber({width:.3g}) in ln L"
        )
    if certificate := law.get("certificate"):
        starts = (
            f"{certificate['starts']} starts from a variable-projection grid, "
            f"{certificate['agreeing']} at the same minimum"
        )
    if law.get("noise_sd") is not None:
        goodness = f"residual sd {law['noise_sd']:.2%} of the loss"
    tests = {t["test"]: t["message"] for t in fit.get("validation") or ()}
    best = next(iter(fit.get("optimum") or ()), None)
    if best and best.get("interval"):
        low, high = best["interval"]
        interval = (
            f"D/N {low:.3g} to {high:.3g} at {best['confidence']:.0%} ({best.get('method', '')})"
        )
    return (
        _item(heading, "objective", objective),
        _item(heading, "algorithm and starts", starts),
        _item(heading, "points used", f"{table.n_points} of {len(table.frame)}"),
        _item(heading, "goodness of fit", goodness),
        _item(heading, "extrapolation test", tests.get("T1")),
        _item(heading, "interval", interval),
    )

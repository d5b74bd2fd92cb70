"""What a report needs to know about the sweep behind a table; plain values, no behaviour.

The caller fills what it knows; every field but the name may be left out, and the report then says
nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One point of a training curve."""

    step: int
    """Optimiser step."""
    tokens: float
    """Tokens seen so far."""
    flops: float
    """Training FLOPs spent so far."""
    loss: float
    """Training loss there, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeCheck:
    """What runs at other learning rates than the recipe's say at one size."""

    params: float
    """N, matmul parameters."""
    learning_rate: float
    """The recipe's own."""
    losses: Mapping[float, float | None]
    """Held-out loss by multiple of the recipe's rate; None where the run gave none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRun:
    """A run worth making, and what it would buy."""

    params: float
    """N, matmul parameters."""
    tokens: float
    """D."""
    flops: float
    """What it would charge, FLOPs."""
    fold_before: float
    """95 % range of D/N at the target without it, high over low."""
    fold_after: float
    """The same with it and the runs named before it."""


@dataclass(frozen=True, kw_only=True)
class SweepFacts:
    """A sweep in the words of its report."""

    name: str
    """The sweep's name."""
    started: str = ""
    """When it began, ISO 8601; '' when not known."""
    budget_flops: float | None = None
    """FLOPs that the owner allowed."""
    charged_flops: float | None = None
    """FLOPs spent, retries and failed runs included."""
    useful_flops: float | None = None
    """FLOPs of the runs that entered the table."""
    target_flops: float | None = None
    """Compute at which the ratio is wanted."""
    price: float | None = None
    """Cost of the time used, in the unit of `currency_note`."""
    currency_note: str = ""
    """The unit of the price and where it comes from, such as `USD at 2.50 per GPU-hour`."""
    slot_hours: float | None = None
    """Hours of training, summed over the places (GPUs or CPU slots) that trained at once."""
    wall_s: float | None = None
    """Seconds from the first start to the last end, as a clock on the wall shows."""
    states: Mapping[str, int] = field(default_factory=dict)
    """Number of trials by state."""
    family: str = ""
    """The models: architecture, context."""
    recipe: str = ""
    """Learning rate and batch, and where they come from."""
    forecast: str = ""
    """A forecast that was frozen before its run was trained, beside what was measured."""
    tokenizer: str = ""
    """The tokenizer."""
    corpus: str = ""
    """The training text."""
    bytes_per_token: float | None = None
    """Bytes of text per token; 1 for a byte-level model."""
    convention: str = ""
    """What N, D and C count, in words."""
    levels: Sequence[tuple[object, float, float | None, str]] = ()
    """(level, FLOPs, D/N at which it was centred, why there) of each compute level."""
    faults: Sequence[str] = ()
    """Attempts lost and trials given up, one line each."""
    spending: Sequence[tuple[str, float]] = ()
    """(what for, FLOPs) of what was charged beside the runs of the design."""
    examination: Sequence[str] = ()
    """Checks of the architecture before the sweep, one line each."""
    commands: Sequence[tuple[str, str]] = ()
    """(command, what it does), to reproduce or continue the sweep."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version of each library that a result depends on."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of budget, data, journal and so on."""
    mlflow_hint: str = ""
    """How to open the runs in MLflow."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Readable label of each trial_id."""
    unfinished: str = ""
    """How far a sweep is that is not over, as it stands on top; empty when it is over."""
    method: Mapping[str, str] = field(default_factory=dict)
    """What only the sweep can answer of the checklist, by the keys of `analysis.checklist`."""
    recipe_checks: Sequence[RecipeCheck] = ()
    """The check of the recipe, size by size; empty where there was none."""
    next_steps: Sequence[str] = ()
    """What to do next, one sentence each."""
    next_runs: Sequence[NextRun] = ()
    """The runs that would sharpen the answer most per FLOP, best first."""

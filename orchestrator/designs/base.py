"""What every design answers: which points come next, given what is known and the money left.

A design is asked for one round of points after another. Its answer depends on the budget, on the
losses measured and on what was opened before, never on timing, so that a sweep that died goes on
with the rounds it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.shapes import Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One finished trial as the design sees it."""

    level: int
    """Round, from 1; in an isoFLOP design its level."""
    params: float
    """N, matmul parameters."""
    tokens: float
    """D, tokens."""
    loss: float
    """Held-out loss, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """One trial that was planned before, whatever became of it."""

    level: int
    """Round, from 1."""
    params: float
    """N, matmul parameters."""
    tokens: float
    """D, tokens."""
    cost_flops: float
    """What it charges when nothing goes wrong, FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What is known when the next round is asked for."""

    rounds: int = 0
    """Rounds asked for so far, empty ones included."""
    opened: Sequence[Opened] = ()
    """Trials of every earlier round."""
    measurements: Sequence[Measurement] = ()
    """Losses of the rounds that may be looked at (see `Designer.lag`)."""
    settled: int = 0
    """Rounds, from the first, whose losses are in `measurements`; later ones are under way."""

    @property
    def committed_flops(self) -> float:
        """Compute that the trials opened so far were planned to charge."""
        return sum(item.cost_flops for item in self.opened)


Measured = Callable[[], Sequence[Measurement]]
"""Losses of everything that has ended, asked for only where they matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One model size that can be trained."""

    shape: Shape
    """Its shape."""
    params: float
    """N, matmul parameters."""
    flops_per_token: float
    """Training FLOPs per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What can be trained, and with how much."""

    spendable: float
    """Compute that may be planned, FLOPs."""
    target_flops: float | None
    """Compute that the answer is for; None: ten times the dearest run."""
    seeds: int
    """Runs per point."""
    flops_per_token: Callable[[float], float]
    """Training FLOPs per token near a wanted N."""
    sizes: Callable[[], Sequence[Size]]
    """Sizes an eighth of a decade apart, ascending."""
    smallest: Callable[[], float]
    """N of the smallest shape there is, matmul parameters."""
    min_tokens: float
    """Fewest tokens of a run that has enough steps."""
    evaluation_tokens: float
    """Held-out tokens that every run is evaluated on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Centre:
    """Where a round lies, and why."""

    tokens_per_parameter: float
    """D/N at its middle."""
    reason: str
    """What it rests on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point that a design wants; exactly one of `flops` and `tokens` is given."""

    params: float
    """Wanted N, matmul parameters."""
    shape: Shape | None = None
    """Exact shape; None: the nearest real one."""
    flops: float | None = None
    """Training compute, FLOPs."""
    tokens: float | None = None
    """Training tokens, for a model of exactly `params`."""
    keep_ratio: bool = False
    """Whether `tokens` scale with the N of the shape that is found."""
    replicate: int = 0
    """0: the budget's seeds; k: one further run with the k-th seed after them."""
    reason: str = ""
    """Why this point; empty when the round's reason says it all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Points that are trained together."""

    number: int
    """From 1."""
    flops: float
    """Compute of each point of an even round, of the dearest point of another, FLOPs."""
    centre: Centre
    """Where it lies, and why."""
    even: bool
    """Whether its points spend equal compute, so that a parabola through them means something."""
    points: tuple[Point, ...]
    """The points, in the order of the design."""


class Designer(Protocol):
    """A design bound to what can be trained."""

    rounds: int | None
    """Rounds in all; None when that depends on what is measured."""
    learns: bool
    """Whether later rounds move with what is measured."""

    def lag(self, number: int, measured: Measured) -> int:
        """Rounds before round `number` that it does not wait for.

        With 1, round k is chosen from the losses of rounds up to k - 2, and no worker idles while
        the last trials of round k - 1 end.

        Args:
            number: the round, from 1.
            measured: gives the losses so far. The answer rests only on rounds that the round waits
                for in any case, so that it is the same whatever ended first.
        """
        ...

    def expected_lag(self, number: int) -> int:
        """The lag of round `number` that a plan reckons with: nothing below it goes wrong."""
        ...

    def propose(self, progress: Progress) -> Round | None:
        """The next round, or None when there is nothing more to do.

        Args:
            progress: everything that was opened, and the losses of every round that
                it waits for.
        """
        ...

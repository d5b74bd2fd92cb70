"""What a person sees while a sweep runs: a steady display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.board import Estimate, Quote, Running, answer_so_far, board, level_name
from orchestrator.chronicle import words
from orchestrator.state import (
    FINAL,
    Event,
    EventKind,
    LevelState,
    SweepState,
    TrialState,
    TrialStatus,
)
from orchestrator.units import format_duration, format_flops

Estimating = Callable[[SweepState], Sequence[Estimate]]
"""Every estimate of the answer so far, oldest first."""
SHOWN_ANYWAY = frozenset(
    {
        EventKind.LEVEL_OPENED,
        EventKind.TRIAL_FINISHED,
        EventKind.TRIAL_CACHED,
        EventKind.TRIAL_STALLED,
        EventKind.TRIAL_ABANDONED,
        EventKind.RECIPE_VERIFIED,
        EventKind.FORECAST_SCORED,
        EventKind.PRECISION_REACHED,
    }
)
"""Events that have a line of their own, whoever watches."""


class Display(Protocol):
    """Listens to a sweep."""

    def event(self, event: Event, state: SweepState) -> None:
        """Something was journalled."""

    def note(self, line: str) -> None:
        """A sentence worth keeping on the screen."""

    def level_opened(self, level: LevelState, levels: int) -> None:
        """A level's trials are about to start."""

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """A trial ended."""

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Time passed."""

    def close(self) -> None:
        """Nothing more will follow."""


class SilentDisplay:
    """Shows nothing."""

    def event(self, event: Event, state: SweepState) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""

    def level_opened(self, level: LevelState, levels: int) -> None:
        """Nothing."""

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """Nothing."""

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineDisplay:
    """One line per thing that happens: for logs and pipes."""

    def __init__(self, console: Console, estimating: Estimating, *, verbose: bool = False) -> None:
        """Begin.

        Args:
            console: where lines go.
            estimating: tells the answer so far.
            verbose: whether every event of the journal has a line.
        """
        self._console = console
        self._estimating = estimating
        self._verbose = verbose
        self._begun = time.monotonic()

    def event(self, event: Event, state: SweepState) -> None:
        """Print it, if every event is wanted."""
        if self._verbose and event.kind not in SHOWN_ANYWAY:
            self._print(words(event, state))

    def note(self, line: str) -> None:
        """Print a sentence."""
        self._print(line)

    def level_opened(self, level: LevelState, levels: int) -> None:
        """Print the level."""
        self._print(_level_line(level, levels))

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """Print the trial's outcome."""
        done = sum(t.status in FINAL for t in state.trials.values())
        so_far = answer_so_far(state, self._estimating(state)[-1:])
        self._print(
            f"{_outcome(trial)}  [{done} of {len(state.trials)} planned so far]"
            f"{'  ' + so_far if so_far else ''}"
        )

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Nothing: a log does not want a clock."""

    def close(self) -> None:
        """Nothing."""

    def _print(self, line: str) -> None:
        elapsed = format_duration(time.monotonic() - self._begun)
        self._console.print(f"{elapsed:>12}  {line}", markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A display that stays in place, below a line for every trial that ended."""

    def __init__(
        self, console: Console, quote: Quote, estimating: Estimating, *, verbose: bool = False
    ) -> None:
        """Begin to draw.

        Args:
            console: a terminal.
            quote: what the plan promised.
            estimating: tells the answer so far.
            verbose: whether every event of the journal has a line.
        """
        self._quote = quote
        self._estimating = estimating
        self._estimates: Sequence[Estimate] = ()
        self._verbose = verbose
        self._live = Live(Text(""), console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def event(self, event: Event, state: SweepState) -> None:
        """Print it above the display, if every event is wanted."""
        if self._verbose and event.kind not in SHOWN_ANYWAY:
            self.note(f"  {words(event, state)}")

    def note(self, line: str) -> None:
        """Print a sentence above the display."""
        self._live.console.print(line, markup=False, highlight=False)

    def level_opened(self, level: LevelState, levels: int) -> None:
        """Print the level above the display."""
        self.note(_level_line(level, levels))

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """Print the trial's outcome above the display."""
        self.note(f"  {_outcome(trial)}")
        self._estimates = self._estimating(state)

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Redraw."""
        self._live.update(board(state, running, self._quote, self._estimates))

    def close(self) -> None:
        """Remove the display; what was printed above it stays."""
        self._live.stop()


def _level_line(level: LevelState, levels: int) -> str:
    of = f"{level_name(level)} of {levels}" if level.even else level_name(level)
    return (
        f"{of}: {len(level.trial_ids)} trials of {'' if level.even else 'up to '}"
        f"{format_flops(level.flops)} FLOPs, centred on {level.tokens_per_parameter:.3g} tokens "
        f"per parameter ({level.reason})"
    )


def _outcome(trial: TrialState) -> str:
    result = trial.result
    if trial.status is TrialStatus.COMPLETED and result is not None and result.loss is not None:
        source = f", already paid for by {trial.cached_from}" if trial.cached_from else ""
        return (
            f"{trial.label}: held-out loss {result.loss:.4f} nats/token, "
            f"{format_duration(result.wall_s)}{source}"
        )
    return f"{trial.label}: {trial.status.value} ({trial.reason})"

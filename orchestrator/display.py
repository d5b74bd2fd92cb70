"""What a person sees while a sweep runs: a steady display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from orchestrator.board import Quote, Running, board, level_name
from orchestrator.state import FINAL, LevelState, SweepState, TrialState, TrialStatus
from orchestrator.units import format_duration, format_flops


class Display(Protocol):
    """Listens to a sweep."""

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

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()

    def note(self, line: str) -> None:
        """Print a sentence."""
        self._print(line)

    def level_opened(self, level: LevelState, levels: int) -> None:
        """Print the level."""
        self._print(_level_line(level, levels))

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """Print the trial's outcome."""
        done = sum(t.status in FINAL for t in state.trials.values())
        self._print(f"{_outcome(trial)}  [{done} of {len(state.trials)} planned so far]")

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Nothing: a log does not want a clock."""

    def close(self) -> None:
        """Nothing."""

    def _print(self, line: str) -> None:
        elapsed = format_duration(time.monotonic() - self._begun)
        self._console.print(f"{elapsed:>12}  {line}", markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A display that stays in place, below a line for every trial that ended."""

    def __init__(self, console: Console, quote: Quote) -> None:
        self._quote = quote
        self._live = Live(Text(""), console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def note(self, line: str) -> None:
        """Print a sentence above the display."""
        self._live.console.print(line, markup=False, highlight=False)

    def level_opened(self, level: LevelState, levels: int) -> None:
        """Print the level above the display."""
        self.note(_level_line(level, levels))

    def trial_over(self, trial: TrialState, state: SweepState) -> None:
        """Print the trial's outcome above the display."""
        self.note(f"  {_outcome(trial)}")

    def tick(self, state: SweepState, running: Mapping[str, Running]) -> None:
        """Redraw."""
        self._live.update(board(state, running, self._quote))

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

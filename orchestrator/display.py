"""What a person sees while a sweep runs: a steady display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orchestrator.state import FINAL, LevelState, SweepState, TrialState, TrialStatus
from orchestrator.units import format_count, format_duration, format_flops


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How far a running trial is."""

    step: int
    """Steps done."""
    loss: float | None
    """Latest training loss, nats per token."""
    tokens_per_s: float
    """Latest throughput."""


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
    """A display that stays in place: running trials with bars, money, time left."""

    def __init__(self, console: Console, *, budget_flops: float, planned_s: float) -> None:
        self._console = console
        self._budget_flops = budget_flops
        self._planned_s = planned_s
        self._begun = time.monotonic()
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
        self._live.update(Group(_running_table(state, running), self._status_line(state)))

    def close(self) -> None:
        """Remove the display; what was printed above it stays."""
        self._live.stop()

    def _status_line(self, state: SweepState) -> Text:
        elapsed = time.monotonic() - self._begun
        counts = state.counts
        share = state.charged_flops / self._budget_flops if self._budget_flops else 0.0
        left = max(0.0, self._planned_s - elapsed)
        bad = counts["diverged"] + counts["failed"] + counts["abandoned"]
        parts = [
            f"{counts['completed']} done",
            f"{counts['running']} training",
            *([f"{bad} failed"] if bad else []),
            f"charged {format_flops(state.charged_flops)} of {format_flops(self._budget_flops)} "
            f"FLOPs ({share:.0%})",
            f"{format_duration(elapsed)} gone",
            f"about {format_duration(left)} left" if left else "longer than planned",
        ]
        if state.fit and state.fit.get("tokens_per_parameter"):
            ratio, (low, high) = state.fit["tokens_per_parameter"], state.fit["interval"]
            parts.append(f"D/N so far {ratio:.3g} [{low:.3g}, {high:.3g}]")
        return Text("  ·  ".join(parts), style="dim")


def _running_table(state: SweepState, running: Mapping[str, Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for trial_id, progress in running.items():
        trial = state.trials[trial_id]
        bar = Progress(BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"))
        bar.add_task("", total=trial.config.steps, completed=progress.step)
        loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        speed = f"{format_count(progress.tokens_per_s)} tok/s" if progress.tokens_per_s else ""
        table.add_row("  ", trial.label, bar, loss, speed)
    return table


def _level_line(level: LevelState, levels: int) -> str:
    of = f"Level {level.level} of {levels}" if level.even else f"Round {level.level}"
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


def describe_levels(levels: Sequence[LevelState]) -> list[str]:
    """One line per level, for summaries."""
    return [_level_line(level, len(levels)) for level in levels]

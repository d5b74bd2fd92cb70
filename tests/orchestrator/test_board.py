"""What a person sees of a sweep in progress, in its own shell and from another one."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.board import Quote, Running, board, count_words, seconds_left
from orchestrator.journal import Journal, read_state
from orchestrator.operations import list_sweeps, present_state
from orchestrator.plan import Plan
from orchestrator.setting import Setting
from orchestrator.state import EventKind, SweepState, TrialStatus
from orchestrator.watching import quote_of, running_trials, watch


@pytest.fixture
def sweep_dir(make_setting: Callable[..., Setting], fake_executor: Any) -> Path:
    """A sweep with one level opened: one trial completed, one running, the rest waiting."""
    setting = make_setting()
    plan: Plan = setting.plan
    level = plan.levels[0]
    setting.sweep_dir.mkdir(parents=True)
    (setting.sweep_dir / "plan.json").write_text(json.dumps(plan.to_dict()))
    with Journal(setting.sweep_dir) as journal:
        journal.append(
            EventKind.SWEEP_OPENED,
            name="small",
            budget_flops=plan.budget_flops,
            target_flops=plan.target_flops,
        )
        journal.append(
            EventKind.LEVEL_OPENED,
            level=1,
            flops=level.flops,
            centre=dataclasses.asdict(level.centre),
            trials=[
                {
                    "trial_id": trial.trial_id,
                    "label": trial.label,
                    "config": json.loads(trial.config.to_json()),
                }
                for trial in level.trials
            ],
        )
        first, second, *_ = level.trials
        journal.append(EventKind.TRIAL_STARTED, trial_id=first.trial_id)
        journal.append(
            EventKind.TRIAL_FINISHED,
            trial_id=first.trial_id,
            result=json.loads(fake_executor.outcome(first).result.to_json()),
        )
        journal.append(EventKind.TRIAL_STARTED, trial_id=second.trial_id)
        journal.append(
            EventKind.SWEEP_FITTED,
            status="weak",
            message="wide",
            n_points=1,
            tokens_per_parameter=18.4,
            interval=[8.5, 40.0],
            flops=1e13,
        )
    folder = setting.sweep_dir / "trials" / second.trial_id
    folder.mkdir(parents=True)
    line = {"step": second.config.steps // 2, "loss": 2.345, "tokens_per_s": 12_000.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return setting.sweep_dir


def drawn(state: SweepState, running: dict[str, Running], quote: Quote) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(board(state, running, quote))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_board_shows_levels_running_trials_money_time_and_the_answer_so_far(
    sweep_dir: Path,
) -> None:
    state = read_state(sweep_dir)
    text = drawn(state, running_trials(sweep_dir, state), quote_of(sweep_dir, state))
    assert "Level 1" in text
    assert "1 done, 1 training, 3 waiting" in text
    assert "50%" in text
    assert "loss 2.345" in text
    assert "12k tok/s in all" in text
    under_way = next(t for t in state.trials.values() if t.status is TrialStatus.RUNNING)
    spent = state.charged_flops + under_way.flops_per_step * (under_way.config.steps // 2)
    assert f"charged {spent:.3g} of 8e+12 FLOPs (" in text
    assert "left" in text
    assert "D/N so far 18.4 [8.5, 40] from 1 run" in text


def test_trials_are_counted_by_state_and_no_state_is_left_out(sweep_dir: Path) -> None:
    trial = next(iter(read_state(sweep_dir).trials.values()))
    one_of_each = [dataclasses.replace(trial, status=status) for status in TrialStatus]
    words = count_words(one_of_each)
    assert words.count("1 ") == len(TrialStatus)
    assert "1 failed" in words
    assert "1 training" in words


def test_time_left_is_a_range_once_the_sweeps_own_speed_is_known(sweep_dir: Path) -> None:
    state = read_state(sweep_dir)
    spent = state.charged_flops
    assert spent > 0
    # One trial of 2 s has run; twice its compute is left, one slot.
    quote = Quote(budget_flops=8e12, flops=3 * spent, seconds=30.0, slots=1)
    assert seconds_left(state, {}, quote) == pytest.approx((4.0, 20.0))
    slow = dataclasses.replace(quote, seconds=3.0)
    assert seconds_left(state, {}, slow) == pytest.approx((2.0, 4.0))
    assert seconds_left(state, {}, dataclasses.replace(quote, slots=2))[0] == pytest.approx(2.0)


def test_before_anything_is_measured_time_left_is_the_plans(sweep_dir: Path) -> None:
    state = dataclasses.replace(read_state(sweep_dir), trials={}, levels=())
    quote = Quote(budget_flops=8e12, flops=1e12, seconds=90.0, slots=2)
    assert seconds_left(state, {}, quote) == (90.0, 90.0)


def test_steps_of_running_trials_shorten_the_time_left(sweep_dir: Path) -> None:
    state = read_state(sweep_dir)
    quote = quote_of(sweep_dir, state)
    running = running_trials(sweep_dir, state)
    assert seconds_left(state, running, quote)[1] < seconds_left(state, {}, quote)[1]


def test_watching_from_a_pipe_prints_a_line_per_change_and_ends_with_the_driver(
    sweep_dir: Path,
) -> None:
    """The driver is this process: it holds the journal, goes on, and leaves."""
    console = Console(file=io.StringIO(), width=200)
    waiting = next(
        t for t in read_state(sweep_dir).trials.values() if t.status is TrialStatus.PLANNED
    )
    journal = Journal(sweep_dir)
    journal.__enter__()
    looks = []

    def drive(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            journal.append(EventKind.TRIAL_STARTED, trial_id=waiting.trial_id)
        if len(looks) == 3:
            journal.__exit__(None, None, None)

    state = watch(sweep_dir, console, pause=drive)
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("1 done, 1 training, 3 waiting; charged")
    assert second.startswith("1 done, 2 training, 2 waiting; charged")
    assert len(looks) == 3
    assert state.counts["running"] == 2


def test_without_a_driver_no_trial_is_said_to_run(sweep_dir: Path) -> None:
    """A driver that was killed left a trial that had started and did not end."""
    assert read_state(sweep_dir).counts["running"] == 1
    with Journal(sweep_dir):
        assert present_state(sweep_dir).counts["running"] == 1
        assert list_sweeps(sweep_dir.parent)[0]["standing"] == "running"
    left = present_state(sweep_dir)
    assert left.counts["running"] == 0
    assert left.counts["planned"] == 4
    assert list_sweeps(sweep_dir.parent)[0]["trials"]["running"] == 0

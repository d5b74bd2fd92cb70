"""A trial is stuck when its pulse stands still for longer than it may, by the watcher's clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from orchestrator.display import SilentDisplay
from orchestrator.errors import Exit
from orchestrator.executors.base import Job
from orchestrator.journal import read_events, read_state
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.state import TrialStatus
from orchestrator.vigil import START, Silence, Vigil
from trainer.pulse import Pulse


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def pulse(beat: int, *, silence_s: float = 10.0, step: int = 5) -> Pulse:
    return Pulse(attempt=1, beat=beat, step=step, silence_s=silence_s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_trial_whose_pulse_changes_is_never_stuck(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    for beat in range(50):
        clock.now += 9
        assert vigil.stalled({"a": pulse(beat)}) == {}


def test_silence_longer_than_announced_is_found_with_its_step(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": None, "b": None})
    vigil.stalled({"a": pulse(1), "b": pulse(1, silence_s=1000)})
    clock.now += 11
    found = vigil.stalled({"a": pulse(1), "b": pulse(1, silence_s=1000)})
    assert set(found) == {"a"}
    assert (found["a"].step, found["a"].seconds) == (5, 11)


def test_the_pulse_of_a_former_attempt_is_no_sign_and_a_start_may_take_longer(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += START * 10
    assert vigil.stalled({"a": pulse(7)}) == {}
    clock.now += 1
    assert vigil.stalled({"a": pulse(7)})["a"].step is None


def test_a_trial_that_left_is_forgotten(clock: Clock) -> None:
    vigil = Vigil(patience_s=10, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += 500
    vigil.stalled({})
    assert vigil.stalled({"a": pulse(7)}) == {}


def test_no_patience_means_no_vigil(clock: Clock) -> None:
    vigil = Vigil(patience_s=0, clock=clock)
    vigil.stalled({"a": pulse(7)})
    clock.now += 1e9
    assert vigil.stalled({"a": pulse(7)}) == {}


def test_a_stuck_trial_is_stalled_then_lost_then_goes_on(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    setting = make_setting()
    victim = setting.plan.trials[0].trial_id
    statuses, killed = [], []

    def stalled(self: Vigil, pulses: Mapping[str, object]) -> dict[str, Silence]:
        first = victim in pulses and not killed
        return {victim: Silence(step=7, seconds=12.0)} if first else {}

    def kill(trial_id: str) -> None:
        statuses.append(read_state(setting.sweep_dir).trials[trial_id].status)
        killed.append(trial_id)

    monkeypatch.setattr(Vigil, "stalled", stalled)
    fake_executor.kill = kill
    fake_executor.losses[victim] = 1
    run_sweep(setting, make_executor=lambda: fake_executor, tracker=None, display=SilentDisplay())
    assert (killed, statuses) == ([victim], [TrialStatus.STALLED])
    events = [e for e in read_events(setting.sweep_dir) if e.data.get("trial_id") == victim]
    assert [event.kind.value.removeprefix("trial_") for event in events] == [
        *("started", "stalled", "lost"),
        *("started", "finished"),
    ]
    assert events[2].data["reason"] == "stood still at step 7 for 12 s; its worker was ended"
    assert read_state(setting.sweep_dir).counts["stalled"] == 0


def test_a_retry_that_the_ceiling_does_not_pay_is_not_started(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    setting = make_setting()
    victim = setting.plan.trials[0].trial_id

    def spend(job: Job) -> None:
        if job.trial_id == victim:
            job.out_dir.mkdir(parents=True, exist_ok=True)
            bill = {"steps_executed": 500 * job.config.steps}
            (job.out_dir / "attempts.json").write_text(json.dumps(bill))

    fake_executor.before = spend
    fake_executor.losses[victim] = 99
    outcome = run_sweep(
        setting, make_executor=lambda: fake_executor, tracker=None, display=SilentDisplay()
    )
    assert outcome.exit_code == Exit.BUDGET_SPENT
    assert fake_executor.submitted.count(victim) == 1
    trial = outcome.state.trials[victim]
    assert trial.status is TrialStatus.UNAFFORDABLE
    assert trial.charged_flops == 500 * trial.config.steps * trial.flops_per_step

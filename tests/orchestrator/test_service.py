"""The service with fake workers: resume, retries, money, refusals, stops."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report import SweepFacts
from orchestrator.designs.base import Measurement
from orchestrator.display import SilentDisplay
from orchestrator.errors import Exit, StateRefused
from orchestrator.executors.base import Finished, Job
from orchestrator.interim import InterimReport
from orchestrator.journal import read_state
from orchestrator.rounds import design_of
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.state import SweepState, TrialStatus
from orchestrator.trial_runner import stopping_note
from tests.orchestrator.conftest import BUDGET
from trainer.result import RunResult, RunStatus


@pytest.fixture(autouse=True)
def quick_outcome(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Few bootstrap refits and, but for the test of it, a report of one line."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 50)
    if "its_report" in request.node.name:
        return

    def one_line(out_dir: Path, *, fit: dict[str, Any], **_: Any) -> Path:
        out_dir.mkdir(exist_ok=True)
        (out_dir / "report.html").write_text(fit["status"])
        return out_dir / "report.html"

    monkeypatch.setattr("orchestrator.outcome.write_report", one_line)


def run(setting: Setting, executor: Any) -> Outcome:
    return run_sweep(setting, make_executor=lambda: executor, tracker=None, display=SilentDisplay())


def test_a_page_is_written_beside_the_next_level_and_the_whole_report_at_the_end(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[bool, str, int]] = []

    def write(out_dir: Path, *, sweep: SweepFacts, table: Any, **rest: Any) -> Path:
        written.append((rest.get("page_only", False), sweep.unfinished, len(table.frame)))
        return out_dir / "report.html"

    monkeypatch.setattr("orchestrator.outcome.write_report", write)
    waits = threading.Event()
    real = InterimReport.offer

    def offer(self: InterimReport, state: Any, fit: Any) -> None:
        real(self, state, fit)
        # In a sweep the next level trains meanwhile; here it must not be over before the page is.
        thread = self._thread
        if thread is not None:
            thread.join()
        waits.set()

    monkeypatch.setattr(InterimReport, "offer", offer)
    run(make_setting(), fake_executor)
    assert waits.is_set()
    words = "Sweep still running when this was written: {} of 15 runs are over, level {}"
    assert written == [
        (True, words.format(5, 2), 5),
        (True, words.format(10, 3), 10),
        (False, "", 15),
    ]


def test_a_page_that_cannot_be_written_costs_the_sweep_nothing() -> None:
    def broken(*_: Any) -> None:
        raise OSError("no room")

    interim = InterimReport(broken)
    interim.offer(SweepState(), {})
    while (thread := interim._thread) is not None:
        thread.join()
    interim.close()
    assert interim.trouble == "OSError: no room"


def test_of_several_offers_the_last_is_written_and_what_waits_at_the_end_is_dropped() -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[int] = []

    def write(_: SweepState, fit: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        written.append(fit["n"])

    interim = InterimReport(write)
    for n in (1, 2, 3):
        interim.offer(SweepState(), {"n": n})
        assert begun.wait(60)
    thread = interim._thread
    go_on.set()
    assert thread is not None
    thread.join()
    assert written == [1, 3]
    begun.clear()
    go_on.clear()
    interim.offer(SweepState(), {"n": 4})
    assert begun.wait(60)
    interim.offer(SweepState(), {"n": 5})
    closing = threading.Thread(target=interim.close)
    closing.start()
    while interim._waiting is not None:
        threading.Event().wait(0.001)
    go_on.set()
    closing.join()
    assert written == [1, 3, 4]


def losses(setting: Setting) -> list[dict[str, str]]:
    with (setting.sweep_dir / "losses.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_with_its_table_its_fit_and_its_report(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    outcome = run(setting, fake_executor)
    assert outcome.exit_code in (Exit.COMPLETE, Exit.WITH_FAILURES)
    assert outcome.state.counts["completed"] == outcome.trained == 15
    assert outcome.report is not None
    assert outcome.report.exists()
    assert json.loads((setting.sweep_dir / "fit.json").read_text()) == outcome.fit
    assert len(losses(setting)) == 15
    assert 0 < outcome.state.charged_flops <= 8e12


def test_levels_are_centred_on_what_was_measured_below_them(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    outcome = run(make_setting(), fake_executor)
    reasons = [level.reason for level in outcome.state.levels]
    assert reasons == [
        "the budget's starting centre",
        "the minimum of level 1",
        "the minimum of level 2",
    ]


def test_running_a_finished_sweep_again_trains_nothing_and_starts_no_executor(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    first = run(setting, fake_executor)
    before = {
        p: p.read_bytes()
        for p in setting.sweep_dir.rglob("*")
        if p.is_file() and "lock" not in p.name
    }

    def refuse() -> Any:
        raise AssertionError("an executor was started")

    again = run_sweep(setting, make_executor=refuse, tracker=None, display=SilentDisplay())
    assert again.trained == 0
    assert (again.exit_code, again.fit) == (first.exit_code, first.fit)
    after = {
        p: p.read_bytes()
        for p in setting.sweep_dir.rglob("*")
        if p.is_file() and "lock" not in p.name
    }
    assert after == before


OVERLAPPING = BUDGET.replace("sizes: 5,", "sizes: 5, overlap: true,")


@pytest.mark.parametrize("text", [BUDGET, OVERLAPPING], ids=["one after the other", "overlapping"])
@pytest.mark.parametrize("crash_after", [1, 4, 6, 11, 14])
def test_a_driver_that_dies_anywhere_is_continued_to_the_same_table(
    make_setting: Callable[..., Setting],
    fake_executor: Any,
    tmp_path: Path,
    crash_after: int,
    text: str,
) -> None:
    whole = make_setting(text)
    run(whole, fake_executor)
    expected = (whole.sweep_dir / "losses.csv").read_bytes()

    class Died(BaseException):
        pass

    crashing = type(fake_executor)()
    count = 0

    def die(job: Job) -> None:
        nonlocal count
        count += 1
        if count > crash_after:
            raise Died

    crashing.before = die
    setting = dataclasses.replace(
        whole, sweep_dir=tmp_path / "elsewhere" / "small", outputs=tmp_path / "elsewhere"
    )
    with pytest.raises(Died):
        run(setting, crashing)
    second = type(fake_executor)()
    outcome = run(setting, second)
    assert outcome.state.counts["completed"] == 15
    assert len(second.submitted) == 15 - crash_after
    assert (setting.sweep_dir / "losses.csv").read_bytes() == expected


def test_an_overlapping_level_begins_beside_the_one_below_it_centred_on_the_one_below_that(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    submitted_before_an_end = []

    def look(job: Job) -> None:
        submitted_before_an_end.append(len(fake_executor.submitted))

    fake_executor.before = look
    levels = run(make_setting(OVERLAPPING), fake_executor).state.levels
    # The second level waits for the first; both of the others are then there at once.
    assert submitted_before_an_end == [5] * 5 + [15] * 10
    assert [level.reason for level in levels[1:]] == ["the minimum of level 1"] * 2


@pytest.mark.parametrize(("best", "lag"), [(2, 1), (0, 0), (4, 0)])
def test_a_level_overlaps_only_above_an_interior_minimum(
    make_setting: Callable[..., Setting], best: int, lag: int
) -> None:
    setting = make_setting(OVERLAPPING)
    design = design_of(setting.budget, setting.data.facts, budget_flops=8e12)
    below = [
        Measurement(level=1, params=1e4 * 2.0**k, tokens=1e7, loss=3.0 + 0.01 * (k - best) ** 2)
        for k in range(5)
    ]
    beside = [dataclasses.replace(m, level=2, loss=9.0 - m.loss) for m in below]
    assert design.lag(3, lambda: below) == lag
    assert design.lag(3, lambda: [*below, *beside]) == lag
    assert design.lag(2, lambda: below) == 0


def test_a_lost_worker_is_retried_and_counted(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    victim = setting.plan.levels[0].trials[0].trial_id
    fake_executor.losses[victim] = 2
    outcome = run(setting, fake_executor)
    trial = outcome.state.trials[victim]
    assert trial.status is TrialStatus.COMPLETED
    assert (trial.attempts, trial.losses_of_workers) == (3, 2)
    assert outcome.state.counts["completed"] == 15


def test_a_trial_whose_workers_keep_dying_is_abandoned_with_its_reason(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    victim = setting.plan.levels[0].trials[1].trial_id
    fake_executor.losses[victim] = 99
    outcome = run(setting, fake_executor)
    assert outcome.exit_code is Exit.WITH_FAILURES
    assert outcome.state.trials[victim].status is TrialStatus.ABANDONED
    row = next(row for row in losses(setting) if row["trial_id"] == victim)
    assert row["excluded"] == "its worker died (4 times)"
    assert row["loss"] == ""


@pytest.mark.parametrize("status", [RunStatus.DIVERGED, RunStatus.FAILED])
def test_a_bad_trial_is_recorded_excluded_and_does_not_stop_the_sweep(
    make_setting: Callable[..., Setting], fake_executor: Any, status: RunStatus
) -> None:
    setting = make_setting()
    victim = setting.plan.levels[0].trials[2].trial_id
    good = fake_executor.outcome

    def outcome_of(job: Job) -> Finished:
        if job.trial_id != victim:
            return good(job)
        bad = RunResult(
            trial_id=victim, status=status, message="loss is nan at step 7", steps_executed=7
        )
        return Finished(trial_id=victim, result=bad)

    fake_executor.outcome = outcome_of
    outcome = run(setting, fake_executor)
    assert outcome.exit_code is Exit.WITH_FAILURES
    assert outcome.state.counts["completed"] == 14
    assert outcome.fit is not None
    assert outcome.fit["n_points"] == 14
    row = next(row for row in losses(setting) if row["trial_id"] == victim)
    assert row["excluded"] == f"{status.value}: loss is nan at step 7"
    assert outcome.state.trials[victim].charged_flops == pytest.approx(
        7 * outcome.state.trials[victim].flops_per_step
    )


def test_nothing_starts_that_no_longer_fits_and_the_sweep_can_be_told(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    text = make_setting().budget_text.replace("8e12", "5e12")
    setting = make_setting(text)
    outcome = run(setting, fake_executor)
    assert outcome.exit_code is Exit.BUDGET_SPENT
    assert outcome.state.counts["unaffordable"] > 0
    assert outcome.state.charged_flops <= 5e12
    assert not outcome.state.finished


def test_replayed_steps_are_charged(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    good = fake_executor.outcome

    def twice(job: Job) -> Finished:
        result = good(job).result
        return Finished(
            trial_id=job.trial_id,
            result=dataclasses.replace(result, steps_executed=2 * result.steps_executed),
        )

    fake_executor.outcome = twice
    outcome = run(setting, fake_executor)
    assert outcome.exit_code is Exit.BUDGET_SPENT
    assert outcome.state.charged_flops > 0.5 * 8e12


def test_a_changed_budget_is_refused_with_the_keys_that_changed(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    run(setting, fake_executor)
    changed = make_setting(setting.budget_text.replace("batch_tokens: 512", "batch_tokens: 1024"))
    with pytest.raises(StateRefused, match=r"training\.batch_tokens: 512\.0 -> 1024\.0"):
        run(changed, fake_executor)


def test_changed_data_is_refused(make_setting: Callable[..., Setting], fake_executor: Any) -> None:
    run(make_setting(), fake_executor)
    with pytest.raises(StateRefused, match="tokens it began with"):
        run(make_setting(digest="e" * 64), fake_executor)


def test_a_run_that_another_sweep_paid_for_is_not_trained_again(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    first = make_setting()
    good = fake_executor.outcome

    def with_files(job: Job) -> Finished:
        event = good(job)
        job.out_dir.mkdir(parents=True, exist_ok=True)
        (job.out_dir / "config.json").write_text(job.config.to_json())
        (job.out_dir / "metrics.jsonl").write_text("")
        (job.out_dir / "result.json").write_text(event.result.to_json())
        return event

    fake_executor.outcome = with_files
    run(first, fake_executor)
    second = type(fake_executor)()
    renamed = make_setting(first.budget_text.replace("name: small", "name: other"))
    outcome = run(renamed, second)
    assert second.submitted == []
    assert outcome.state.charged_flops == 0
    assert {trial.cached_from for trial in outcome.state.trials.values()} == {"small"}
    assert losses(renamed) == losses(first)


@pytest.mark.parametrize(
    ("running", "said"),
    [
        (0, "Stopping."),
        (1, "Stopping: 1 running trial writes its checkpoint (Ctrl-C again to leave at once)."),
        (2, "Stopping: 2 running trials write their checkpoints (Ctrl-C again to leave at once)."),
    ],
)
def test_who_stops_a_sweep_is_told_what_it_waits_for(running: int, said: str) -> None:
    assert stopping_note(running) == said


def test_a_first_interrupt_stops_cleanly_and_the_next_run_goes_on(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    started = 0

    def interrupt(job: Job) -> None:
        nonlocal started
        started += 1
        if started == 7:
            signal.raise_signal(signal.SIGINT)

    fake_executor.before = interrupt
    outcome = run(setting, fake_executor)
    assert outcome.exit_code is Exit.INTERRUPTED
    assert outcome.fit is None
    assert outcome.state.counts["completed"] == 6
    assert outcome.state.counts["running"] == 0
    assert not (setting.sweep_dir / "stop").exists()
    again = run(setting, type(fake_executor)())
    assert again.state.counts["completed"] == 15


def test_sigterm_exits_with_its_own_code(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    fake_executor.before = lambda job: signal.raise_signal(signal.SIGTERM)
    setting = make_setting()
    assert run(setting, fake_executor).exit_code is Exit.TERMINATED
    assert read_state(setting.sweep_dir).counts["completed"] == 0


@pytest.mark.parametrize("text", [BUDGET, OVERLAPPING], ids=["one after the other", "overlapping"])
def test_the_table_does_not_depend_on_the_order_of_execution(
    make_setting: Callable[..., Setting], fake_executor: Any, tmp_path: Path, text: str
) -> None:
    setting = make_setting(text)
    run(setting, fake_executor)

    class Reversed(type(fake_executor)):  # type: ignore[misc]
        def next_event(self, timeout_s: float) -> Any:
            self.jobs.reverse()
            return super().next_event(timeout_s)

    other = dataclasses.replace(setting, sweep_dir=tmp_path / "b" / "small", outputs=tmp_path / "b")
    run(other, Reversed())
    assert (other.sweep_dir / "losses.csv").read_bytes() == (
        setting.sweep_dir / "losses.csv"
    ).read_bytes()


@pytest.mark.parametrize(
    ("asked", "share"),
    [("cpus_per_trial: 1", 0.5), ("gpus_per_trial: 0.25", 0.25), ("gpus_per_trial: 2", 1.0)],
)
def test_a_trial_may_use_the_memory_of_its_share_of_the_machine(
    asked: str, share: float, make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    jobs: list[Job] = []
    fake_executor.before = jobs.append
    run(make_setting(make_setting().budget_text + f"run: {{{asked}}}\n"), fake_executor)
    assert {job.options.memory_share for job in jobs} == {share}

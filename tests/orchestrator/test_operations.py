"""What a person does to sweeps that exist."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from orchestrator.budget import parse_budget
from orchestrator.cli import app
from orchestrator.display import SilentDisplay
from orchestrator.documents import status_document
from orchestrator.errors import BadInput, StateRefused
from orchestrator.executors.base import STOP_FILE, Finished, Job
from orchestrator.hardware import Machine
from orchestrator.journal import JOURNAL, Journal, read_state
from orchestrator.opening import TUNING_FOLDER
from orchestrator.operations import (
    clean,
    find_trial,
    frozen_budget,
    is_running,
    list_sweeps,
    log_lines,
    present_state,
    retry,
    stop,
    trial_record,
)
from orchestrator.service import run_sweep
from orchestrator.session import executor_for
from orchestrator.setting import Setting
from orchestrator.terminal import _sweep_names, find_sweep
from orchestrator.views import NOT_BEGUN, print_status
from orchestrator.watching import watch
from trainer.result import RunResult, RunStatus

TEXT = """\
name: small
budget: {flops: 8e12}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11], sizes: 3, span: 2, tokens_per_parameter: 150}
"""


@pytest.fixture
def setting(make_setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch) -> Setting:
    """A sweep of three trials, not yet begun."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )
    return make_setting(TEXT)


@pytest.fixture
def run(fake_executor: Any) -> Callable[..., Any]:
    """Run a sweep with fake workers; `diverge` names a trial that does."""

    def run_it(setting: Setting, *, diverge: str = "") -> Any:
        executor = type(fake_executor)()
        good = executor.outcome

        def outcome(job: Job) -> Finished:
            (job.out_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
            (job.out_dir / "checkpoints" / "step").write_bytes(b"x" * 100)
            if job.trial_id == diverge:
                bad = RunResult(
                    trial_id=diverge, status=RunStatus.DIVERGED, message="nan", steps_executed=9
                )
                return Finished(trial_id=diverge, result=bad)
            return good(job)

        executor.outcome = outcome
        return run_sweep(
            setting, make_executor=lambda: executor, tracker=None, display=SilentDisplay()
        )

    return run_it


def test_a_trial_that_diverged_is_trained_anew_and_its_cost_stays_charged(
    setting: Setting, run: Callable[..., Any]
) -> None:
    victim = setting.plan.trials[0].trial_id
    first = run(setting, diverge=victim)
    assert first.state.counts["diverged"] == 1
    wasted = first.state.trials[victim].charged_flops
    assert wasted > 0
    labels = retry(setting.sweep_dir, None)
    assert labels == [first.state.trials[victim].label]
    assert (setting.sweep_dir / "trials" / f"{victim}.failed-1" / "checkpoints").is_dir()
    second = run(setting)
    assert second.trained == 1
    assert second.state.counts["completed"] == 3
    again = second.state.trials[victim]
    assert again.charged_flops == pytest.approx(wasted + again.cost_flops)


def test_only_a_trial_that_ended_badly_can_be_retried(
    setting: Setting, run: Callable[..., Any]
) -> None:
    run(setting)
    trial_id = setting.plan.trials[0].trial_id
    with pytest.raises(BadInput, match="only a trial that ended badly"):
        retry(setting.sweep_dir, trial_id)
    assert retry(setting.sweep_dir, None) == []


def test_a_trial_is_found_by_its_label_and_by_the_beginning_of_its_id(
    setting: Setting, run: Callable[..., Any]
) -> None:
    state = run(setting).state
    trial = next(iter(state.trials.values()))
    assert find_trial(state, trial.trial_id[:8]) == trial
    assert find_trial(state, trial.label) == trial
    for wanted, found in (("nothing", "none"), ("", "3 of them")):
        with pytest.raises(BadInput, match=found):
            find_trial(state, wanted)


def test_cleaning_removes_checkpoints_and_nothing_else(
    setting: Setting, run: Callable[..., Any]
) -> None:
    run(setting)
    kept = {
        p for p in setting.sweep_dir.rglob("*") if p.is_file() and p.parent.name != "checkpoints"
    }
    assert clean(setting.sweep_dir, dry=True) == (3, 300)
    assert clean(setting.sweep_dir, dry=False) == (3, 300)
    assert clean(setting.sweep_dir, dry=True) == (0, 0)
    assert {p for p in setting.sweep_dir.rglob("*") if p.is_file()} >= kept


def test_the_list_tells_what_runs_what_is_finished_and_what_it_found(
    setting: Setting, run: Callable[..., Any]
) -> None:
    run(setting)
    (item,) = list_sweeps(setting.outputs)
    assert (item["name"], item["standing"]) == ("small", "finished")
    assert item["trials"]["completed"] == 3
    with Journal(setting.sweep_dir):
        assert is_running(setting.sweep_dir)
        assert list_sweeps(setting.outputs)[0]["standing"] == "running"
        with pytest.raises(StateRefused, match="one driver at a time"):
            clean(setting.sweep_dir, dry=False)
    assert list_sweeps(setting.outputs / "elsewhere") == []


def test_a_running_sweep_that_is_asked_to_stop_does(setting: Setting, fake_executor: Any) -> None:
    assert stop(setting.sweep_dir.parent) is False
    fake_executor.before = lambda job: stop(setting.sweep_dir)
    outcome = run_sweep(
        setting, make_executor=lambda: fake_executor, tracker=None, display=SilentDisplay()
    )
    assert int(outcome.exit_code) == 130
    assert outcome.state.counts["completed"] == 0
    assert not (setting.sweep_dir / STOP_FILE).exists()


def test_the_log_says_in_words_what_happened(setting: Setting, run: Callable[..., Any]) -> None:
    victim = setting.plan.trials[1].trial_id
    run(setting, diverge=victim)
    retry(setting.sweep_dir, victim)
    text = "\n".join(log_lines(setting.sweep_dir))
    for words in ("begun: small", "level 1: 3 trials", "started", "diverged nan", "trained anew"):
        assert words in text
    assert text.count("loss ") == 2


def test_a_trial_can_be_looked_into(setting: Setting, run: Callable[..., Any]) -> None:
    state = run(setting).state
    record = trial_record(setting.sweep_dir, next(iter(state.trials.values())))
    assert record["files"] == ["checkpoints/step"]
    assert record["result"]["loss"] > 0
    assert record["config"]["seed"] == 0


def test_the_budget_a_sweep_began_with_is_kept_with_the_folder_of_its_paths(
    setting: Setting, run: Callable[..., Any], tmp_path: Path
) -> None:
    run(setting)
    budget, text, base = frozen_budget(setting.sweep_dir)
    assert (budget, text, base) == (setting.budget, TEXT, tmp_path)
    (setting.sweep_dir / "budget.yaml").unlink()
    with pytest.raises(StateRefused, match="has begun"):
        frozen_budget(setting.sweep_dir)


@pytest.fixture(autouse=True)
def no_leftover_journal(setting: Setting) -> Iterator[None]:
    """No test may leave the sweep locked."""
    yield
    if (setting.sweep_dir / "journal.jsonl").exists():
        assert not is_running(setting.sweep_dir)
        assert read_state(setting.sweep_dir).opened is not None
        assert dataclasses.is_dataclass(setting)


def test_the_search_for_a_recipe_is_found_by_the_name_of_the_sweep_that_has_not_begun(
    tmp_path: Path,
) -> None:
    search = tmp_path / "named" / TUNING_FOLDER
    with Journal(search):
        assert find_sweep("named", tmp_path, or_search=True) == search
        assert stop(find_sweep("named", tmp_path, or_search=True))
        assert (search / STOP_FILE).exists()
        with pytest.raises(BadInput, match="no sweep of this name"):
            find_sweep("named", tmp_path)
        with pytest.raises(BadInput, match=r"only the search .* `sweep tune budget.yaml` goes on"):
            find_sweep("named", tmp_path)
    (tmp_path / "named" / JOURNAL).touch()
    assert find_sweep("named", tmp_path, or_search=True) == tmp_path / "named"


def test_a_search_is_listed_and_completed_until_its_sweep_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_OUTPUTS", str(tmp_path))
    context = typer.Context(typer.main.get_command(app))
    with Journal(tmp_path / "named" / TUNING_FOLDER):
        (row,) = list_sweeps(tmp_path, searches=True)
        assert (row["name"], row["standing"]) == ("named/tuning", "running")
        assert _sweep_names(context, "na") == ["named"]
        assert _sweep_names(context, "x") == []
    assert list_sweeps(tmp_path) == []
    (tmp_path / "named" / JOURNAL).touch()
    assert [row["name"] for row in list_sweeps(tmp_path, searches=True)] == ["named"]
    assert _sweep_names(context, "") == ["named"]


def test_a_sweep_does_not_begin_beside_the_search_for_its_recipe(
    setting: Setting, run: Callable[..., Any]
) -> None:
    with (
        Journal(setting.sweep_dir / TUNING_FOLDER),
        pytest.raises(StateRefused, match=r"SWP-5013(?s:.*)`sweep stop small`"),
    ):
        run(setting)
    assert not (setting.sweep_dir / "budget.yaml").exists()
    assert run(setting).state.counts["completed"] == 3


def test_a_journal_without_events_has_a_status_and_can_be_watched(tmp_path: Path) -> None:
    with Journal(tmp_path / "named" / TUNING_FOLDER):
        pass
    folder = find_sweep("named", tmp_path, or_search=True)
    console = Console(file=io.StringIO(), width=100)
    print_status(console, present_state(folder))
    watch(folder, console)
    watch(folder, Console(file=io.StringIO(), width=100, force_terminal=True))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"{NOT_BEGUN}\n{NOT_BEGUN}\n"
    assert status_document(folder)["name"] == "named/tuning"


@pytest.mark.parametrize(("gpus", "warm"), [("0", True), ("0.5", True), ("1", True), ("2", False)])
def test_workers_stay_warm_only_where_all_trials_ask_for_the_same(
    gpus: str, warm: bool, tmp_path: Path
) -> None:
    budget = parse_budget(TEXT + f"run: {{gpus_per_trial: {gpus}}}\n")
    machine = Machine(cores=2, gpus=("A", "B"))
    executor = executor_for(budget, machine, 1, tmp_path)
    assert executor._warm is warm  # type: ignore[attr-defined]

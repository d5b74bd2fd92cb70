"""What a sweep says while it runs, when it stops and in its quotation; what shells complete."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import estimate
from orchestrator.board import Estimate, answer_so_far
from orchestrator.budget import Budget
from orchestrator.display import LineDisplay
from orchestrator.estimate import Estimator
from orchestrator.outcome import Answer
from orchestrator.outcome import _commands as report_commands
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.state import Event, EventKind, SweepState
from orchestrator.terminal import print_outcome
from orchestrator.views import answer_lines, next_commands, print_plan

MakeSetting = Callable[..., Setting]
QUICK = Answer(resamples=0, interim=False, report=False)


def known(runs: int, low: float, high: float) -> Estimate:
    return Estimate(runs=runs, ratio=(low * high) ** 0.5, interval=(low, high), why="")


def console_of(width: int = 200) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width), file


@pytest.fixture
def lines_and_outcome(make_setting: MakeSetting, fake_executor: Any) -> tuple[str, Outcome]:
    """A sweep's lines, with an estimate that narrows by one with every run."""
    console, file = console_of()

    def estimating(state: SweepState) -> Sequence[Estimate]:
        runs = state.counts["completed"]
        return [known(runs, 10.0, 100.0 - runs)]

    outcome = run_sweep(
        make_setting(),
        make_executor=lambda: fake_executor,
        tracker=None,
        display=LineDisplay(console, estimating),
        answer=QUICK,
    )
    return file.getvalue(), outcome


def test_every_finished_trial_has_one_line_with_the_answer_so_far(
    lines_and_outcome: tuple[str, Outcome],
) -> None:
    text, outcome = lines_and_outcome
    over = [line for line in text.splitlines() if "held-out loss" in line]
    assert len(over) == outcome.state.counts["completed"] == 15
    assert over[0].endswith("[10, 99] from 1 run")
    assert over[-1].endswith("[10, 85] from 15 runs")
    assert "started" not in text


@pytest.mark.parametrize(
    ("verbose", "kind", "shown"),
    [
        (True, EventKind.TRIAL_STARTED, True),
        (False, EventKind.TRIAL_STARTED, False),
        (True, EventKind.TRIAL_STALLED, False),  # has a line of its own, whoever watches
    ],
)
def test_verbose_adds_the_events_that_have_no_line_of_their_own(
    verbose: bool, kind: EventKind, shown: bool
) -> None:
    console, file = console_of()
    event = Event(seq=1, time=0.0, kind=kind, data={"trial_id": "t", "reason": "stood still"})
    LineDisplay(console, lambda _: (), verbose=verbose).event(event, SweepState())
    assert bool(file.getvalue()) == shown


def test_an_estimate_is_made_when_a_run_has_ended_and_never_twice_for_the_same_runs(
    lines_and_outcome: tuple[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = lines_and_outcome[1].state
    calls: list[int] = []
    real = estimate.fit_table
    monkeypatch.setattr(estimate, "fit_table", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    with monkeypatch.context() as few:
        few.setattr(estimate, "MIN_RUNS", 16)
        assert Estimator()(state) == ()
    estimator = Estimator()
    (found,) = estimator(state)
    assert estimator(state) == (found,)
    assert len(calls) == 1
    assert found.runs == 15
    assert found.interval is not None
    assert found.ratio is not None
    assert found.interval[0] < found.ratio < found.interval[1]


def test_the_answer_so_far_shows_how_its_interval_narrowed_and_what_it_still_lacks() -> None:
    empty = SweepState()
    assert answer_so_far(empty, []) == ""
    refused = Estimate(runs=6, ratio=None, interval=None, why="R1: two levels more")
    assert answer_so_far(empty, [refused]) == "D/N so far: none from 6 runs; R1: two levels more"
    trail = [refused, known(7, 1, 400), known(8, 4, 100), known(9, 5, 80), known(10, 10, 40)]
    assert answer_so_far(empty, trail) == (
        "D/N so far 20 [10, 40] from 10 runs  ·  before: [5, 80], [4, 100]"
    )


def test_the_fit_after_a_round_replaces_the_passing_estimate_of_the_same_runs() -> None:
    fit = {"n_points": 10, "tokens_per_parameter": 21.0, "interval": [9.0, 41.0]}
    state = SweepState(fit=fit)
    words = answer_so_far(state, [known(9, 5, 80), known(10, 10, 40)])
    assert words == "D/N so far 21 [9, 41] from 10 runs  ·  before: [5, 80]"
    assert answer_so_far(state, [known(11, 10, 40)]).startswith("D/N so far 20 [10, 40] from 11")


def test_a_plan_ends_as_a_quotation_that_fits_a_narrow_terminal(make_setting: MakeSetting) -> None:
    setting = make_setting()
    console, file = console_of(width=80)
    print_plan(console, setting.plan, setting.hardware.throughput)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    quoted = lines[next(i for i, line in enumerate(lines) if line.startswith("what ")) :]
    words = [line.split("  ")[0] for line in quoted if line and not line.startswith(" ")]
    assert words[:5] == ["what", "how long", "how much", "tells you", "rate"]
    assert set(words[5:]) <= {"warning"}
    assert "15 trials in 3 levels" in quoted[0]


def test_a_stopped_sweep_names_first_how_it_goes_on() -> None:
    stopped = next_commands("s", None, Path("elsewhere"), stopped=True)
    assert stopped[0] == ("sweep resume s --outputs elsewhere", "go on where it stopped")
    assert "resume" not in next_commands("s", None, Path("outputs"))[0][0]


def test_a_sweep_that_is_not_tracked_offers_no_browsing_in_mlflow(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"trials": {"planned": 3, "running": 0}, "fit": None, "tracker": ""}
    document |= {"charged_flops": 0.0, "budget_flops": 1e12}
    for enabled in (True, False):
        tracking = budget.tracking.model_copy(update={"enabled": enabled})
        asked = budget.model_copy(update={"tracking": tracking})
        printed = io.StringIO()
        monkeypatch.setattr("orchestrator.terminal.out", Console(file=printed, width=80))
        print_outcome(asked, document, None, Path("outputs"))
        assert (f"sweep ui {budget.name}" in printed.getvalue()) == enabled
        assert (f"sweep ui {budget.name}" in dict(report_commands(asked))) == enabled


def test_a_refusal_says_each_failed_rule_once_and_no_number() -> None:
    checks = [
        {"rule": "R1", "passed": True, "severity": "refuse", "message": "fine"},
        {"rule": "R4", "passed": False, "severity": "refuse", "message": "open on one side"},
        {"rule": "R9", "passed": False, "severity": "note", "message": "no replicates"},
    ]
    fit = {"status": "not_identified", "optimum": [], "checks": checks, "message": "x"}
    assert answer_lines(fit) == [
        "NOT IDENTIFIED: these runs do not determine the ratio.",
        "  R4 refuses: open on one side",
        "  R9 notes: no replicates",
    ]


ASKED = {
    "bash": 'eval "$(sweep completion bash)"; COMP_WORDS=(sweep status my); COMP_CWORD=2; '
    '_sweep_completion sweep; echo "${COMPREPLY[@]}"',
    "zsh": "autoload -U compinit; compinit -D; compdef() { :; }; words=(sweep status my); "
    "CURRENT=3; _arguments() { print -r -- $*; }; "
    'eval "$(sweep completion zsh)"; _sweep_completion',
    "fish": 'sweep completion fish | source; complete -C "sweep status my"',
}
PLAIN = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.mark.parametrize("shell", ASKED)
def test_a_shell_completes_the_names_of_sweeps(shell: str, tmp_path: Path) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("my-sweep", "other"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "journal.jsonl").touch()
    command = tmp_path / "bin" / "sweep"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m orchestrator "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [path, *PLAIN[shell], "-c", ASKED[shell]],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "my-sweep" in done.stdout, done.stderr
    assert "other" not in done.stdout

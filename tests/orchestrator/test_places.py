"""What a sweep needs to be there, looked at before it begins; how trials are cut to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.budget import parse_budget
from orchestrator.errors import EnvironmentUnusable
from orchestrator.hardware import Machine, refuse_missing_gpus
from orchestrator.journal import read_state
from orchestrator.placement import processes_of
from orchestrator.plan import make_plan
from orchestrator.state import Event, EventKind, TrialStatus, at_rest, fold
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

ONE_GPU = Machine(cores=8, gpus=("a gpu",))


@pytest.mark.parametrize(
    ("spending", "run", "said"),
    [
        ("gpus: 8, wall_clock: 24h", "{}", "the budget asks for 8 GPUs, this machine has 1"),
        ("flops: 1e18", "{gpus_per_trial: 2}", "the budget asks for 2 GPUs, this machine has 1"),
        ("flops: 1e18", "{}", None),
        ("flops: 1e18", "{gpus_per_trial: 0.25}", None),
        ("gpus: 8, wall_clock: 24h", "{gpus_per_trial: 0}", None),
        ("gpus: 8, wall_clock: 24h", "{address: '10.0.0.5:6379'}", None),
    ],
)
def test_more_gpus_than_there_are_is_one_error_before_anything_starts(
    spending: str, run: str, said: str | None
) -> None:
    budget = parse_budget(f"name: a\nbudget: {{{spending}}}\nrun: {run}\n")
    if said is None:
        refuse_missing_gpus(budget, ONE_GPU)
        return
    with pytest.raises(EnvironmentUnusable, match=f"SWP-3002(?s:.*){said}"):
        refuse_missing_gpus(budget, ONE_GPU)


@pytest.mark.parametrize(
    ("sequences", "gpus", "processes"),
    [(8, 0.0, 1), (8, 0.25, 1), (8, 1.0, 1), (8, 4.0, 4), (6, 4.0, 3), (7, 4.0, 1), (2, 8.0, 2)],
)
def test_a_batch_is_shared_by_as_many_processes_as_get_equal_parts(
    sequences: int, gpus: float, processes: int
) -> None:
    assert processes_of(sequences, gpus) == processes


def test_levels_whose_runs_can_share_trunks_share_their_sizes(
    facts: DataFacts, hardware: Hardware
) -> None:
    def trunks(training: str) -> tuple[int, int]:
        text = "name: a\nbudget: {flops: 1e15}\nmodel: {context: 128}\n"
        text += f"training: {{batch_tokens: 512, learning_rate: 0.01, {training}}}\n"
        text += "design: {levels: 4, level_factor: 2, sizes: 7}\n"
        trials = make_plan(parse_budget(text), facts, hardware).trials
        return len({trial.config.trajectory_id for trial in trials}), len(trials)

    shared, trials = trunks("schedule: wsd, warmup_steps: 50")
    assert shared <= 0.6 * trials
    apart, trials = trunks("schedule: wsd, warmup_fraction: 0.05")
    assert apart > 0.8 * trials


def test_a_state_stays_as_it_was_when_events_are_applied_to_it(
    make_setting: Callable[..., Any], fake_executor: Any
) -> None:
    from orchestrator.display import SilentDisplay
    from orchestrator.outcome import Answer
    from orchestrator.service import run_sweep

    setting = make_setting()
    run_sweep(
        setting,
        make_executor=lambda: fake_executor,
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=20, interim=False, report=False),
    )
    before = read_state(setting.sweep_dir)
    trial_id = next(iter(before.trials))
    started = Event(seq=0, time=0.0, kind=EventKind.TRIAL_STARTED, data={"trial_id": trial_id})
    after = fold([started], before)
    assert after.trials[trial_id].status is TrialStatus.RUNNING
    assert before.trials[trial_id].status is TrialStatus.COMPLETED
    rested = at_rest(after)
    assert rested.trials[trial_id].status is TrialStatus.PLANNED
    assert after.trials[trial_id].status is TrialStatus.RUNNING

"""`sweep next`: what the next run would buy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.answer import fit_table
from analysis.table import read_rows
from orchestrator.advice import next_runs
from orchestrator.cli import app
from orchestrator.designs.adaptive import prior_law
from orchestrator.display import SilentDisplay
from orchestrator.errors import StateRefused
from orchestrator.executors.synthetic import SyntheticExecutor, Truth
from orchestrator.outcome import Answer, loss_frame
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.state import SweepState
from orchestrator.trial import duration_near

TRUTH = Truth(law=prior_law(1e12, 120.0), noise_sd=0.004, seed=5)


@pytest.fixture
def swept(make_setting: Callable[..., Setting]) -> tuple[Setting, SweepState]:
    """A finished isoFLOP sweep of synthetic trials."""
    setting = make_setting()
    outcome = run_sweep(
        setting,
        make_executor=lambda: SyntheticExecutor(TRUTH),
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=0, interim=False, report=False),
    )
    return setting, outcome.state


def test_each_run_named_shrinks_the_interval_and_the_best_per_flop_comes_first(
    swept: tuple[Setting, SweepState],
) -> None:
    setting, state = swept
    found = next_runs(state, setting.budget, setting.data.facts, setting.hardware, count=4)
    assert len(found) == 4
    sds = [found[0].sd_before, *(advice.sd_after for advice in found)]
    assert sds == sorted(sds, reverse=True)
    dearest = max(trial.cost_flops for trial in state.trials.values())
    for advice in found:
        assert dearest / 31 < advice.flops < dearest * 1.1
        record: dict[str, Any] = advice.to_dict()
        assert record["fold_95_after"] < record["fold_95_before"]


def test_the_hours_of_a_run_are_those_that_a_plan_would_quote(
    swept: tuple[Setting, SweepState],
) -> None:
    setting, state = swept
    for planned in setting.plan.trials:
        near = duration_near(
            setting.budget,
            setting.data.facts,
            setting.hardware,
            params=planned.counts.matmul,
            tokens=planned.config.tokens,
        )
        assert near == pytest.approx(planned.estimated_s)
    for advice in next_runs(state, setting.budget, setting.data.facts, setting.hardware, count=2):
        arithmetic = advice.flops / setting.hardware.throughput.flops_per_s / 3600
        assert advice.hours > 1.05 * arithmetic  # small models spend time beside it


def test_the_range_before_is_the_fits_own_and_the_one_after_is_what_such_runs_leave(
    swept: tuple[Setting, SweepState],
) -> None:
    setting, state = swept
    assert state.opened is not None
    advice = next_runs(state, setting.budget, setting.data.facts, setting.hardware, count=6)

    def fold(frame: pd.DataFrame) -> float:
        target = state.opened["target_flops"] if state.opened else None
        found = fit_table(read_rows(frame), target_flops=target, resamples=400, detail=False)
        low, high = found.optimum[0].intervals["0.95"]
        return high / low

    runs = loss_frame(state)
    assert advice[0].fold_before == pytest.approx(fold(runs), rel=0.1)
    noise = np.random.default_rng(0).standard_normal((8, len(advice)))
    left = []
    for draw in TRUTH.noise_sd * noise:
        more = pd.DataFrame(
            {
                "trial_id": [f"next-{k}" for k in range(len(advice))],
                "level": "",
                "params_matmul": [a.params for a in advice],
                "tokens": [a.tokens for a in advice],
                "flops": [a.flops for a in advice],
                "loss": [float(TRUTH.law.loss(a.params, a.tokens)) for a in advice] * np.exp(draw),
                "excluded": "",
            }
        )
        left.append(math.log(fold(pd.concat([runs, more], ignore_index=True))))
    expected = math.log(advice[-1].fold_after)
    assert np.median(left) == pytest.approx(expected, rel=0.25)
    assert expected < 0.9 * math.log(advice[0].fold_before)


def test_a_sweep_without_losses_gets_no_advice(make_setting: Callable[..., Setting]) -> None:
    setting = make_setting()
    empty = SweepState(opened={"name": "small", "budget_flops": 8e12, "target_flops": 1e13})
    with pytest.raises(StateRefused, match="has none"):
        next_runs(empty, setting.budget, setting.data.facts, setting.hardware)


def test_the_verb_prints_one_document(swept: tuple[Setting, SweepState]) -> None:
    setting, _ = swept
    command = ["next", "small", "--outputs", str(setting.outputs), "--count", "2", "--json"]
    document = json.loads(CliRunner().invoke(app, command).stdout)
    assert document["schema"] == "sweep.next/1"
    assert len(document["runs"]) == 2

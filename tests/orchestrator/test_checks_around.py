"""What happens around a design: the recipe's check, the frozen forecast, precision, extension."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, Exit
from orchestrator.executors.base import Finished, Job
from orchestrator.extending import extend
from orchestrator.journal import read_events, read_state
from orchestrator.outcome import Answer
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.state import EventKind, Purpose, TrialStatus
from trainer.shapes import count_parameters

VERIFIED = """\
name: small
budget: {flops: 1.2e13}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
recipe: {verify: 2}
design: {levels: [1e11, 3.2e11, 1.02e12], sizes: 5, span: 3, tokens_per_parameter: 150}
"""
ADAPTIVE = """\
name: small
budget: {flops: 8e12}
model: {context: 128}
training: {batch_tokens: 128, min_steps: 1000}
design: {kind: adaptive, levels: 2, sizes: 5, span: 3, tokens_per_parameter: 150, batch: 12}
"""


@pytest.fixture(autouse=True)
def quick_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report: others test it."""
    monkeypatch.setattr("orchestrator.outcome.write_report", lambda out_dir, **_: out_dir)


def run(setting: Setting, executor: Any) -> Outcome:
    return run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=20, interim=False),
    )


def with_best_rate(executor: Any, multiple: float) -> Any:
    """Losses rise with the distance of the rate from a multiple of the plan's own."""
    plain = executor.outcome
    rates: dict[int, float] = {}

    def outcome(job: Job) -> Finished:
        done = plain(job)
        params = count_parameters(job.config.shape).matmul
        own = rates.setdefault(params, 0.016 * (params / 3e4) ** -0.25)
        off = math.log(job.config.optimizer.learning_rate / min(own, 0.02) / multiple)
        loss = done.result.loss * math.exp(0.05 * off**2)
        return Finished(trial_id=job.trial_id, result=dataclasses.replace(done.result, loss=loss))

    executor.outcome = outcome
    return executor


def test_a_good_recipe_passes_its_check_and_its_own_runs_serve_the_design(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting(VERIFIED)
    assert setting.plan.aside_flops > 0
    outcome = run(setting, with_best_rate(fake_executor, 1.0))
    state = outcome.state
    assert state.verified is not None
    assert state.verified["passed"]
    purposes = [trial.purpose for trial in state.trials.values()]
    assert purposes.count(Purpose.VERIFY) == 4
    assert purposes.count(Purpose.DESIGN) == 15
    assert len(fake_executor.submitted) == 19
    table = (setting.sweep_dir / "losses.csv").read_text()
    assert table.count("a check of the recipe") == 4
    assert outcome.fit is not None
    assert outcome.fit["n_points"] == 15
    assert state.charged_flops == pytest.approx(
        sum(trial.cost_flops for trial in state.trials.values())
    )


@pytest.mark.parametrize("multiple", [0.5, 2.0])
def test_a_recipe_worse_than_a_neighbour_is_refused_and_stays_refused(
    make_setting: Callable[..., Setting], fake_executor: Any, multiple: float
) -> None:
    setting = make_setting(VERIFIED)
    with_best_rate(fake_executor, multiple)
    with pytest.raises(BadInput, match=f"{multiple:g}x of it is better") as refused:
        run(setting, fake_executor)
    assert refused.value.faults[0].code == "SWP-1208"
    assert len(fake_executor.submitted) == 6
    again = type(fake_executor)()
    with pytest.raises(BadInput, match=f"{multiple:g}x of it is better"):
        run(setting, again)
    assert again.submitted == []


def test_a_check_that_was_interrupted_goes_on_where_it_was(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    class Died(BaseException):
        pass

    def die(job: Job) -> None:
        if len(fake_executor.submitted) - len(fake_executor.jobs) > 2:
            raise Died

    fake_executor.before = die
    setting = make_setting(VERIFIED)
    with pytest.raises(Died):
        run(setting, with_best_rate(fake_executor, 1.0))
    second = with_best_rate(type(fake_executor)(), 1.0)
    outcome = run(setting, second)
    assert len(second.submitted) == 17
    assert outcome.state.verified is not None


def test_the_forecast_is_frozen_before_its_run_and_scored_after_it(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    text = ADAPTIVE.replace("model:", "target: {validate: true}\nmodel:")
    setting = make_setting(text)
    assert setting.plan.aside_flops == pytest.approx(2e12)
    outcome = run(setting, fake_executor)
    kinds = [event.kind for event in read_events(setting.sweep_dir)]
    frozen = kinds.index(EventKind.FORECAST_FROZEN)
    assert EventKind.TRIAL_STARTED not in kinds[frozen : kinds.index(EventKind.TRIALS_ADDED)]
    assert frozen < kinds.index(EventKind.TRIALS_ADDED) < kinds.index(EventKind.FORECAST_SCORED)
    scored = outcome.state.validation
    assert scored is not None
    assert scored["loss"] == pytest.approx(scored["measured"], rel=0.02)
    low, high = scored["prediction_interval"]
    assert scored["inside"] == (low <= scored["measured"] <= high)
    assert scored["flops"] > 1.5e12
    assert outcome.state.charged_flops <= 8e12
    table = (setting.sweep_dir / "losses.csv").read_text()
    assert table.count("the run that scores the forecast") == 1
    assert json.loads(json.dumps(scored))["message"].startswith("forecast before it was trained")


def test_a_sweep_ends_early_once_its_answer_is_as_sharp_as_was_asked_for(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    small_batches = ADAPTIVE.replace("batch: 12", "batch: 4")
    whole = run(make_setting(small_batches), fake_executor)
    second = type(fake_executor)()
    early = make_setting(
        small_batches.replace("name: small", "name: early").replace(
            "model:", "target: {precision: 50}\nmodel:"
        )
    )
    outcome = run(early, second)
    assert outcome.state.precise
    assert len(second.submitted) < len(fake_executor.submitted)
    assert outcome.exit_code is whole.exit_code
    assert outcome.state.finished


@pytest.mark.parametrize("text", [VERIFIED.replace("{verify: 2}", "{verify: 0}"), ADAPTIVE])
def test_an_extended_sweep_goes_on_with_what_it_has(
    make_setting: Callable[..., Setting], fake_executor: Any, text: str
) -> None:
    setting = make_setting(text)
    first = run(setting, fake_executor)
    before = {t: s.config for t, s in first.state.trials.items()}
    added = extend(setting.sweep_dir, setting.budget, "+6e12")
    assert added.added_flops == pytest.approx(6e12)
    assert not read_state(setting.sweep_dir).finished
    second = type(fake_executor)()
    outcome = run(setting, second)
    state = outcome.state
    assert {t: state.trials[t].config for t in before} == before
    assert len(second.submitted) == len(state.trials) - len(before) > 3
    assert not set(second.submitted) & set(before)
    assert first.state.charged_flops < state.charged_flops <= added.budget_flops
    assert state.finished or outcome.exit_code is Exit.BUDGET_SPENT
    third = type(fake_executor)()
    assert run(setting, third).trained == 0


def test_a_spent_sweep_trains_what_it_had_left_out_once_it_is_extended(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting(VERIFIED.replace("1.2e13", "5e12").replace("{verify: 2}", "{verify: 0}"))
    spent = run(setting, fake_executor)
    left_out = {t for t, s in spent.state.trials.items() if s.status is TrialStatus.UNAFFORDABLE}
    assert left_out
    extend(setting.sweep_dir, setting.budget, "+5e12")
    second = type(fake_executor)()
    outcome = run(setting, second)
    assert left_out <= set(second.submitted)
    assert outcome.state.charged_flops <= 1e13


@pytest.mark.parametrize("amount", ["+0", "-1e12", "+two", "+2h"])
def test_an_amount_that_is_none_of_the_budgets_unit_is_refused(
    make_setting: Callable[..., Setting], fake_executor: Any, amount: str
) -> None:
    setting = make_setting(ADAPTIVE)
    fake_executor.before = lambda job: (setting.sweep_dir / "stop").touch()
    run(setting, fake_executor)
    with pytest.raises(BadInput, match="in the unit of its budget"):
        extend(setting.sweep_dir, setting.budget, amount)

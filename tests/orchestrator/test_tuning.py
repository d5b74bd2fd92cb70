"""`sweep tune` with fake workers: the rule is found, nothing is lost or doubled, all is charged."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.background import BackgroundProjection
from orchestrator.budget import parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, Exit, StateRefused
from orchestrator.executors.base import AtRung, Finished, Job, Pruned
from orchestrator.hyperparameters import peak_learning_rate
from orchestrator.opening import TUNING_FOLDER, tuning_flops
from orchestrator.outcome import Answer
from orchestrator.plan import make_plan
from orchestrator.recipe_file import with_recipe, write_recipe
from orchestrator.service import run_sweep
from orchestrator.session import open_projection
from orchestrator.setting import Setting
from orchestrator.state import Purpose, TrialStatus
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.store import ROW_TAG
from orchestrator.tuning import Search, Tuned, tune
from orchestrator.watching import quote_of, watch
from trainer.result import RunResult, RunStatus
from trainer.shapes import count_parameters

SEARCH = Search(trials=8, sizes=2, flops=6e12, with_batch=False)
QUICK = Answer(resamples=20, interim=False, report=False)
BUDGET = """\
name: small
budget: {flops: 8e12}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11, 3.2e11, 1.02e12], sizes: 5, span: 3, tokens_per_parameter: 150}
"""
CONSTANT, EXPONENT = 0.012, 0.35


def best_rate(params: float) -> float:
    return CONSTANT * (params / 1e4) ** -EXPONENT


def loss(job: Job) -> float:
    """A law of the size, and a parabola in ln(rate) around the best rate of the size."""
    params = count_parameters(job.config.shape).matmul
    off = math.log(job.config.optimizer.learning_rate / best_rate(params))
    return (1.5 + 20 * params**-0.4) * math.exp(0.03 * off**2)


def outcome(job: Job, value: float | None = None) -> Finished:
    config = job.config
    result = RunResult(
        trial_id=job.trial_id,
        status=RunStatus.COMPLETED,
        loss=loss(job) if value is None else value,
        loss_se=0.001,
        bpb=1.0,
        tokens=config.tokens,
        steps=config.steps,
        steps_executed=config.steps,
        wall_s=2.0,
        tokens_per_s=1e5,
        device="fake",
    )
    return Finished(trial_id=job.trial_id, result=result)


@pytest.fixture
def executor(fake_executor: Any) -> Any:
    fake_executor.outcome = outcome
    return fake_executor


def search(
    setting: Setting,
    executor: Any,
    asked: Search = SEARCH,
    tracker: BackgroundProjection | None = None,
) -> Tuned:
    return tune(
        setting,
        asked,
        make_executor=lambda: executor,
        tracker=tracker,
        display=SilentDisplay(),
    )


def tried(tuned: Tuned) -> list[tuple[str, float]]:
    return [(t.trial_id, t.config.optimizer.learning_rate) for t in tuned.state.trials.values()]


def test_the_rule_behind_the_losses_is_found(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    tuned = search(make_setting(), executor)
    assert tuned.exit_code is Exit.COMPLETE
    assert [item.standing for item in tuned.optima] == ["fitted", "fitted"]
    for item in tuned.optima:
        assert item.learning_rate == pytest.approx(best_rate(item.params), rel=0.02)
    assert tuned.rule is not None
    low, high = tuned.rule.exponent_interval
    assert low < EXPONENT < high
    assert tuned.optima[1].params / tuned.optima[0].params == pytest.approx(4, rel=0.5)
    assert 0 < tuned.state.charged_flops <= SEARCH.flops


@pytest.mark.parametrize("crash_after", [0, 3, 11])
def test_a_search_that_dies_is_continued_without_lost_or_doubled_runs(
    make_setting: Callable[..., Setting], executor: Any, tmp_path: Path, crash_after: int
) -> None:
    setting = make_setting()
    setting = dataclasses.replace(setting, hardware=dataclasses.replace(setting.hardware, slots=1))
    whole = search(setting, executor)

    class Died(BaseException):
        pass

    crashing = type(executor)()
    crashing.outcome = outcome
    count = 0

    def die(job: Job) -> None:
        nonlocal count
        count += 1
        if count > crash_after:
            raise Died

    crashing.before = die
    other = dataclasses.replace(
        setting, sweep_dir=tmp_path / "else" / "small", outputs=tmp_path / "else"
    )
    with pytest.raises(Died):
        search(other, crashing)
    second = type(executor)()
    second.outcome = outcome
    again = search(other, second)
    assert tried(again) == tried(whole)
    assert again.rule == whole.rule
    assert len(second.submitted) == len(tried(whole)) - crash_after
    assert search(other, second).trained == 0


def test_more_trials_go_on_where_the_search_ended(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    setting = make_setting()
    first = search(setting, executor, dataclasses.replace(SEARCH, trials=5))
    more = search(setting, executor)
    assert set(tried(first)) < set(tried(more))
    assert len(tried(more)) == 16


def test_runs_that_lag_behind_are_ended_charged_and_told_to_the_search(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    setting = make_setting()

    def race(job: Job) -> Any:
        assert job.race is not None
        assert job.options.log_points == 20
        executor.events.append(AtRung(trial_id=job.trial_id, percent=25, loss=loss(job) + 1))
        known = {trial_id for trial_id, _, _ in job.race.earlier}
        if job.race.protected or len(known) % 2:
            return outcome(job)
        job.out_dir.mkdir(parents=True)
        (job.out_dir / "attempts.json").write_text('{"steps_executed": 10}')
        return Pruned(trial_id=job.trial_id)

    executor.outcome = race
    tuned = search(setting, executor)
    pruned = [t for t in tuned.state.trials.values() if t.status is TrialStatus.PRUNED]
    assert len(pruned) == 4
    assert pruned[0].rungs == ((25, pytest.approx(pruned[0].rungs[0][1])),)
    assert pruned[0].charged_flops == pytest.approx(10 * pruned[0].flops_per_step)
    assert {t.purpose for t in tuned.state.trials.values()} == {Purpose.TUNE}


def test_the_sweep_is_charged_for_its_search_and_plans_with_what_is_left(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    setting = make_setting()
    asked = dataclasses.replace(SEARCH, trials=5, flops=1.6e12)
    spent = search(setting, executor, asked).state.charged_flops
    assert tuning_flops(setting.sweep_dir) == spent > 0
    plan = make_plan(setting.budget, setting.data.facts, setting.hardware, tuning_flops=spent)
    assert plan.to_dict()["tuning_flops"] == spent
    outcome = run_sweep(
        dataclasses.replace(setting, plan=plan),
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=QUICK,
    )
    own = sum(trial.charged_flops for trial in outcome.state.trials.values())
    assert outcome.state.charged_flops == pytest.approx(spent + own)
    assert outcome.state.charged_flops <= plan.budget_flops


def test_a_best_rate_out_of_reach_is_no_recipe(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    def descending(job: Job) -> Finished:
        value = 3 - 0.01 * math.log(job.config.optimizer.learning_rate)
        return outcome(job, value)

    executor.outcome = descending
    tuned = search(make_setting(), executor, dataclasses.replace(SEARCH, trials=4))
    assert {item.standing for item in tuned.optima} == {"edge"}
    assert not tuned.sound
    assert tuned.exit_code is Exit.WITH_FAILURES


def test_a_written_recipe_gives_its_rates_and_its_origin(
    make_setting: Callable[..., Setting], executor: Any, tmp_path: Path
) -> None:
    tuned = search(make_setting(), executor)
    assert tuned.rule is not None
    write_recipe(
        tmp_path / "recipe.yaml", name="small", rule=tuned.rule, optima=tuned.optima, runs=16
    )
    text = BUDGET.replace("batch_tokens: 512, ", "recipe: recipe.yaml, ")
    budget = with_recipe(parse_budget(text), tmp_path)
    counts = count_parameters(tuned.state.trials[tried(tuned)[0][0]].config.shape)
    found = peak_learning_rate(budget, counts, tokens=10**6, step_tokens=512, flops=1e12)
    assert found.value == pytest.approx(best_rate(counts.matmul), rel=0.05)
    assert "sweep tune small: 16 runs" in found.source
    assert not found.clamped


def test_a_recipe_that_is_none_is_refused(tmp_path: Path) -> None:
    budget = parse_budget(BUDGET.replace("batch_tokens: 512, ", "recipe: r.yaml, "))
    with pytest.raises(BadInput, match="cannot be read"):
        with_recipe(budget, tmp_path)
    (tmp_path / "r.yaml").write_text("learning_rate: 0.1 * M\norigin: me\n")
    with pytest.raises(BadInput, match="`M` is no variable"):
        with_recipe(budget, tmp_path)


def test_a_recipe_beside_a_rate_of_its_own_is_refused() -> None:
    with pytest.raises(BadInput, match="`recipe` gives what learning_rate would give"):
        parse_budget(
            BUDGET.replace("batch_tokens", "recipe: r.yaml, learning_rate: 1, batch_tokens")
        )


def test_a_recipe_without_a_batch_keeps_the_batch_that_it_was_searched_at(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rate: 0.01\norigin: me\n")
    budget = parse_budget(BUDGET.replace("batch_tokens", "recipe: r.yaml, batch_tokens"))
    assert with_recipe(budget, tmp_path).training.batch_tokens == 512
    recipe.write_text("learning_rate: 0.01\nbatch_tokens: 1024\norigin: me\n")
    with pytest.raises(BadInput, match=r"recipe's batch \(1024.0\).*got 512"):
        with_recipe(budget, tmp_path)


def test_a_search_without_the_money_for_its_runs_names_the_least_that_works(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    with pytest.raises(BadInput, match=r"8 runs at each of 2 sizes cost at least .* FLOPs"):
        search(make_setting(), executor, dataclasses.replace(SEARCH, flops=1e9))


def test_a_begun_sweep_is_not_tuned(make_setting: Callable[..., Setting], executor: Any) -> None:
    setting = make_setting()
    run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=QUICK,
    )
    with pytest.raises(StateRefused, match="tuned before its sweep begins"):
        search(setting, executor)


def test_a_search_goes_on_only_with_the_models_it_began_with(
    make_setting: Callable[..., Setting], executor: Any
) -> None:
    search(make_setting(), executor)
    changed = make_setting(BUDGET.replace("context: 128", "context: 64"))
    with pytest.raises(StateRefused, match=r"model\.context: 128 -> 64"):
        search(changed, executor)
    rate = make_setting(BUDGET.replace("batch_tokens", "learning_rate: 0.01, batch_tokens"))
    assert search(rate, executor).trained == 0
    assert (rate.sweep_dir / TUNING_FOLDER / "journal.jsonl").exists()


def test_rules_and_expressions_are_evaluated_at_each_runs_own_size(
    make_setting: Callable[..., Setting],
) -> None:
    text = BUDGET.replace(
        "batch_tokens: 512",
        'learning_rate: "2 * N**-0.5", batch_tokens: "128 * (D/1e6)**0.5", '
        'weight_decay: "0.1 * B/512", warmup_fraction: porian',
    )
    setting = make_setting(text)
    for trial in setting.plan.trials:
        config = trial.config
        assert config.optimizer.learning_rate == pytest.approx(2 * trial.counts.matmul**-0.5)
        assert config.optimizer.weight_decay == pytest.approx(0.1 * config.batch_tokens / 512)
        assert config.batch_tokens == pytest.approx(128 * (config.tokens / 1e6) ** 0.5, abs=70)
        share = config.schedule.warmup_steps / config.steps
        assert share == pytest.approx(trial.counts.matmul / config.tokens, abs=1 / config.steps)
        assert trial.learning_rate_source == "2 * N**-0.5"


def test_a_clamped_expression_is_flagged(make_setting: Callable[..., Setting]) -> None:
    text = BUDGET.replace("batch_tokens: 512", 'learning_rate: "N", batch_tokens: 512')
    plan = make_setting(text).plan
    assert {t.config.optimizer.learning_rate for t in plan.trials} == {1.0}
    assert any("learning rate rule is clamped" in line for line in plan.warnings)


def test_an_expression_without_a_value_at_a_size_is_refused(
    make_setting: Callable[..., Setting],
) -> None:
    text = BUDGET.replace("batch_tokens: 512", 'learning_rate: "log(1 - N)", batch_tokens: 512')
    with pytest.raises(BadInput, match="no value at N = "):
        make_setting(text)


def test_a_search_stands_in_mlflow_once_with_its_runs_below_it(
    make_setting: Callable[..., Setting], executor: Any, fresh_store: Path
) -> None:
    setting = make_setting()
    setting.outputs.mkdir()
    shutil.copy(fresh_store, setting.outputs / "mlflow.db")
    folder = setting.sweep_dir / TUNING_FOLDER

    def opened() -> Projection:
        return open_projection(
            parse_budget(BUDGET.replace("name: small", "name: small\ntracking: {experiment: e}")),
            setting.outputs,
            folder,
        )

    tracker = BackgroundProjection(opened)
    tuned = search(setting, executor, tracker=tracker)
    tracker.conclude(tuned.state, note="learning rate = 0.01", report=None)
    tracker.stop(120)
    assert tracker.trouble == ""
    again = opened()
    again.finish(tuned.state, note="", report=None)  # as `sweep sync` does
    client = again.store.client
    runs = client.search_runs([again.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert parent.info.run_name == "small · tuning"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "learning rate = 0.01"
    assert len(children) == len(tuned.state.trials) == 16
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    measured = {run.data.tags["sweep.trial_id"]: run.data.metrics["final_loss"] for run in children}
    assert measured == {t.trial_id: t.result.loss for t in tuned.state.trials.values() if t.result}
    row = json.loads(children[0].data.tags[ROW_TAG])
    assert row["excluded"] == "a step of the search for a recipe"


class _SeenEnough(Exception):
    pass


@pytest.mark.parametrize("terminal", [False, True], ids=["from a pipe", "on a terminal"])
def test_a_search_is_watched_with_its_own_money_and_time(
    terminal: bool, make_setting: Callable[..., Setting], executor: Any
) -> None:
    setting = make_setting()
    folder = setting.sweep_dir / TUNING_FOLDER
    seen: list[str] = []

    def look(_: float) -> None:
        raise _SeenEnough

    def watched(job: Job) -> None:
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal, no_color=True)
        with contextlib.suppress(_SeenEnough):
            watch(folder, console, pause=look)
        assert isinstance(console.file, io.StringIO)
        seen.append(console.file.getvalue())

    executor.before = watched
    asked = dataclasses.replace(SEARCH, estimated_s=600.0)
    tuned = search(setting, executor, asked)
    assert re.search(r"2 waiting.*charged 0 of 6e\+12 FLOPs", seen[0])
    assert ("about 10 min 0 s left" in seen[0]) == terminal
    # No answer is looked for in the runs of a search, however many there are.
    assert "15 done" in seen[-1]
    assert not any("D/N so far" in line for line in seen)
    quote = quote_of(folder, tuned.state)
    assert (quote.flops, quote.seconds, quote.slots) == (6e12, 600.0, setting.hardware.slots)
    more = search(setting, executor, dataclasses.replace(asked, trials=9, flops=7e12))
    assert quote_of(folder, more.state).seconds == pytest.approx(700.0)

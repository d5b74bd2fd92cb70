"""What is read of trials' measurements: as little as the question needs."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator import outcome, views
from orchestrator.outcome import training_curves
from orchestrator.setting import Setting
from orchestrator.state import SweepState, TrialState, TrialStatus
from orchestrator.sweep_files import last_metrics, metric_lines
from trainer.config import TrainConfig
from trainer.schedule import multiplier


def write(sweep_dir: Path, text: str, trial_id: str = "t") -> None:
    folder = sweep_dir / "trials" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(text)


def steps(lines: list[dict[str, Any]]) -> list[int]:
    return [line["step"] for line in lines]


@pytest.mark.parametrize("torn", ["", '{"step": 99, "lo'])
@pytest.mark.parametrize("padding", [0, 100, 3000, 10_000])
def test_the_last_line_is_the_last_whole_one_however_long(
    tmp_path: Path, padding: int, torn: str
) -> None:
    lines = [json.dumps({"step": step, "note": "x" * padding}) for step in (1, 2, 3)]
    write(tmp_path, "\n".join(lines) + "\n" + torn)
    last = last_metrics(tmp_path, "t")
    assert last is not None
    assert last["step"] == 3
    write(tmp_path, lines[0] + "\n" + torn)
    assert last_metrics(tmp_path, "t") == json.loads(lines[0])


@pytest.mark.parametrize("text", ["", '{"step": 1'])
def test_without_a_whole_line_there_is_no_last_one(tmp_path: Path, text: str) -> None:
    assert last_metrics(tmp_path, "t") is None
    write(tmp_path, text)
    assert last_metrics(tmp_path, "t") is None
    assert list(metric_lines(tmp_path, "t", most=3)) == []


def test_of_a_long_file_evenly_spread_lines_are_read_and_the_last(tmp_path: Path) -> None:
    write(tmp_path, "".join(f'{{"step": {step}}}\n' for step in range(1, 101)) + '{"step"')
    assert steps(list(metric_lines(tmp_path, "t", most=4))) == [25, 50, 75, 100]
    assert steps(list(metric_lines(tmp_path, "t", most=3)))[-1] == 100
    assert steps(list(metric_lines(tmp_path, "t", most=100))) == list(range(1, 101))
    assert steps(list(metric_lines(tmp_path, "t"))) == list(range(1, 101))


def one_run(setting: Setting, fake_executor: Any, **schedule: Any) -> SweepState:
    """A sweep of one completed run, under a schedule."""
    config = setting.plan.trials[0].config
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, **schedule))
    result = fake_executor.outcome(SimpleNamespace(trial_id="t", config=config)).result
    trial = TrialState(
        trial_id="t",
        level=1,
        label="the run",
        flops_target=1e12,
        config=config,
        status=TrialStatus.COMPLETED,
        result=result,
    )
    return SweepState(trials={"t": trial})


def logged(sweep_dir: Path, config: TrainConfig, points: int) -> None:
    """The run's lines as the trainer writes them, the last an evaluation."""
    lines = [
        {
            "step": step,
            "tokens": step * config.batch_tokens,
            "flops": float(step),
            "loss": 3.0,
            "learning_rate": config.optimizer.learning_rate
            * multiplier(step - 1, config.steps, config.schedule),
        }
        for step in (config.steps * i // points for i in range(1, points + 1))
    ]
    end = {name: lines[-1][name] for name in ("step", "tokens", "flops")}
    lines.append({**end, "validation_loss": 3.1})
    write(sweep_dir, "".join(json.dumps(line) + "\n" for line in lines))


def test_of_a_decayed_run_only_its_end_is_read_and_how_far_its_rate_fell(
    make_setting: Callable[..., Setting],
    fake_executor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = one_run(make_setting(), fake_executor, name="cosine", floor=0.1)
    config = state.trials["t"].config
    assert training_curves(state, tmp_path) is None
    logged(tmp_path, config, points=50)
    monkeypatch.setattr(outcome, "metric_lines", lambda *_, **__: pytest.fail("read whole"))
    curves = training_curves(state, tmp_path)
    assert curves is not None
    peak = config.optimizer.learning_rate
    assert curves["t"]["learning_rate"] == pytest.approx([peak, 0.1 * peak])
    assert curves["t"]["tokens"] == [config.tokens, config.tokens]


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "wsd", "cooldown_steps": 0},
        {"name": "points", "points": ((0, 0.5), (10, 0.5))},
    ],
    ids=["constant", "points"],
)
def test_of_an_undecayed_run_every_point_is_read_and_of_a_long_file_many(
    make_setting: Callable[..., Setting],
    fake_executor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: dict[str, Any],
) -> None:
    state = one_run(make_setting(), fake_executor, warmup_steps=0, **schedule)
    logged(tmp_path, state.trials["t"].config, points=200)
    curves = training_curves(state, tmp_path)
    assert curves is not None
    assert len(curves["t"]["tokens"]) == 200
    monkeypatch.setattr(outcome, "MOST_POINTS_IN_ALL", 67)
    thinned = training_curves(state, tmp_path)
    assert thinned is not None
    assert 60 < len(thinned["t"]["tokens"]) <= 67


def test_a_status_of_very_many_trials_shows_those_that_have_not_completed(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = one_run(make_setting(), fake_executor)
    run = state.trials["t"]
    failed = dataclasses.replace(run, trial_id="f", label="the other", status=TrialStatus.FAILED)
    state = SweepState(
        opened={"budget_flops": 1e13}, trials={"t": run, "u": run, "v": run, "f": failed}
    )
    console = Console(file=io.StringIO(), width=120)
    views.print_status(console, state)
    assert console.file.getvalue().count("the run") == 3
    monkeypatch.setattr(views, "MOST_ROWS", 2)
    console = Console(file=io.StringIO(), width=120)
    views.print_status(console, state)
    text = console.file.getvalue()
    assert "the run" not in text
    assert "the other" in text
    assert "and 3 more trials" in text
    assert "3 completed" in text

"""Predictions and comparisons on sweeps whose law is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput
from orchestrator.executors.base import Finished, Job
from orchestrator.forecast import compare, predict
from orchestrator.service import run_sweep
from orchestrator.setting import Setting


@pytest.fixture
def sweep(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run a sweep of the known law, its losses multiplied by a factor."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 50)
    monkeypatch.setattr("orchestrator.forecast.RESAMPLES", 50)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )

    def run(name: str, *, factor: float = 1.0) -> Path:
        text = make_setting().budget_text.replace("name: small", f"name: {name}")
        executor = type(fake_executor)()
        good = executor.outcome

        def scaled(job: Job) -> Finished:
            event = good(job)
            object.__setattr__(event.result, "loss", factor * event.result.loss)
            return event

        executor.outcome = scaled
        setting = make_setting(text)
        run_sweep(setting, make_executor=lambda: executor, tracker=None, display=SilentDisplay())
        return setting.sweep_dir

    return run


def ask(folder: Path, **question: float) -> dict[str, Any]:
    empty = {"flops": None, "params": None, "tokens": None, "loss": None}
    return predict(folder, **{**empty, **question})


def test_the_loss_of_a_run_follows_the_law_that_made_the_table(sweep: Callable[..., Path]) -> None:
    found = ask(sweep("small"), params=20_000, tokens=5e6)
    true = 0.9 + 60 * 20_000**-0.45 + 500 * 5e6**-0.45
    assert found["loss"] == pytest.approx(true, rel=1e-3)
    assert found["prediction_interval"][0] <= found["loss"] <= found["prediction_interval"][1]


def test_the_questions_are_each_others_inverse(sweep: Callable[..., Path]) -> None:
    folder = sweep("small")
    at_compute = ask(folder, flops=5e12)
    assert ask(folder, loss=at_compute["loss"])["flops"] == pytest.approx(5e12, rel=1e-3)
    assert ask(folder, params=at_compute["params"])["flops"] == pytest.approx(5e12, rel=1e-3)
    assert at_compute["extrapolation"] == pytest.approx(5e12 / 1.02e12, rel=0.02)
    low, high = at_compute["interval"]
    assert low <= at_compute["tokens_per_parameter"] <= high


@pytest.mark.parametrize("question", [{}, {"flops": 1e12, "loss": 1.5}, {"loss": 0.01}])
def test_a_question_that_is_not_one_is_refused(
    sweep: Callable[..., Path], question: dict[str, float]
) -> None:
    with pytest.raises(BadInput, match="a prediction takes"):
        ask(sweep("small"), **question)


def test_the_better_of_two_sweeps_is_told_with_its_compute_multiplier(
    sweep: Callable[..., Path],
) -> None:
    record = compare(sweep("worse"), sweep("better", factor=0.97))
    assert len(record["levels"]) == 3
    for level in record["levels"]:
        assert level["difference"] == pytest.approx(-0.03 * level["loss_a"], rel=0.05)
        assert level["compute_multiplier"] > 1

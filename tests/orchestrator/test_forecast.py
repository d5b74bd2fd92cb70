"""Predictions and comparisons on sweeps whose law is known."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput
from orchestrator.executors.base import Finished, Job
from orchestrator.fitting import fit_sweep
from orchestrator.forecast import Question, compare, predict
from orchestrator.measurements import Measurements, read_measurements
from orchestrator.ready_run import ready_run, write_config
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.views import comparison_lines, prediction_lines
from trainer.config import TrainConfig
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource


@pytest.fixture
def sweep(
    make_setting: Callable[..., Setting], fake_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run a sweep of the known law, its losses times a factor, with noise of a given size."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 50)
    monkeypatch.setattr("orchestrator.forecast.RESAMPLES", 50)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )

    def run(name: str, *, factor: float = 1.0, noise: float = 0.0) -> Path:
        text = make_setting().budget_text.replace("name: small", f"name: {name}")
        executor = type(fake_executor)()
        good = executor.outcome

        def scaled(job: Job) -> Finished:
            event = good(job)
            bump = 1 + noise * math.sin(int(job.trial_id[:8], 16))
            object.__setattr__(event.result, "loss", factor * bump * event.result.loss)
            return event

        executor.outcome = scaled
        setting = make_setting(text)
        run_sweep(setting, make_executor=lambda: executor, tracker=None, display=SilentDisplay())
        return setting.sweep_dir

    return run


def ask(folder: Path, **question: float) -> dict[str, Any]:
    return predict(read_measurements(folder), Question(**question))


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


def test_a_sweep_is_fitted_at_another_target_when_asked(sweep: Callable[..., Path]) -> None:
    folder = sweep("small")
    asked = fit_sweep(folder, target_flops=5e12, huber_delta=None)["optimum"][0]
    own = fit_sweep(folder, huber_delta=None)["optimum"][0]
    assert asked["flops"] == 5e12
    assert own["flops"] == pytest.approx(10 * 1.02e12)
    assert asked["tokens_per_parameter"] != own["tokens_per_parameter"]


@pytest.mark.parametrize("question", [{}, {"flops": 1e12, "loss": 1.5}, {"loss": 0.01}])
def test_a_question_that_is_not_one_is_refused(
    sweep: Callable[..., Path], question: dict[str, float]
) -> None:
    with pytest.raises(BadInput, match="a prediction takes"):
        ask(sweep("small"), **question)


def test_the_better_of_two_sweeps_is_told_with_its_compute_multiplier(
    sweep: Callable[..., Path],
) -> None:
    record = compare(
        read_measurements(sweep("worse")), read_measurements(sweep("better", factor=0.97))
    )
    assert len(record["levels"]) == 3
    for level in record["levels"]:
        assert level["difference"] == pytest.approx(-0.03 * level["loss_a"], rel=0.05)
        assert level["compute_multiplier"] > 1


def test_losses_are_printed_in_the_unit_that_the_runs_name_and_in_none_where_they_name_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.forecast.RESAMPLES", 50)

    def table(name: str, unit: str) -> Measurements:
        rows = ["params,tokens,loss,loss_unit"]
        for n in (1e4, 2e4, 4e4, 8e4, 16e4):
            for d in (5 * n, 20 * n, 80 * n, 320 * n):
                rows.append(f"{n},{d},{1.0 + 60 * n**-0.45 + 300 * d**-0.45},{unit}")
        (tmp_path / name).write_text("\n".join(rows))
        return read_measurements(tmp_path / name)

    def said(runs: Measurements) -> str:
        return prediction_lines(predict(runs, Question(params=2e4, tokens=1e6)))[0]

    def compared(first: Measurements, second: Measurements) -> str:
        return "\n".join(comparison_lines(compare(first, second), "a", "b"))

    characters, unnamed = table("bpc.csv", "bits per character"), table("plain.csv", "")
    own = dataclasses.replace(unnamed, sweep_dir=tmp_path)
    assert "] bits per character (90%" in said(characters)
    assert "] (90%" in said(unnamed)
    assert "] nats per token (90%" in said(own)
    same, mixed = compared(characters, characters), compared(own, characters)
    assert "+0.0000 bits per character [" in same
    assert "note" not in same
    assert "+0.0000 [" in mixed
    assert "note: the losses are in nats per token and in bits per character" in mixed


def test_a_compute_gives_n_d_and_loss_each_with_an_interval_on_the_cost_curve(
    sweep: Callable[..., Path],
) -> None:
    found = ask(sweep("small", noise=0.002), flops=5e12)
    low_n, high_n = found["params_interval"]
    low_d, high_d = found["tokens_interval"]
    assert low_n < found["params"] < high_n
    assert low_d < found["tokens"] < high_d
    # The ends of N and of D are one another's: the largest model has the fewest tokens.
    assert found["interval"] == pytest.approx([low_d / high_n, high_d / low_n], rel=1e-6)
    assert found["confidence_interval"][0] < found["loss"] < found["confidence_interval"][1]


@pytest.mark.parametrize(("held", "other"), [("params", "tokens"), ("tokens", "params")])
def test_a_size_that_is_held_moves_its_uncertainty_into_the_other_and_the_compute(
    sweep: Callable[..., Path], held: str, other: str
) -> None:
    folder = sweep("small", noise=0.002)
    at_compute = ask(folder, flops=5e12)
    found = ask(folder, **{held: at_compute[held]})
    assert found[f"{held}_interval"] == [at_compute[held]] * 2
    low, high = found["flops_interval"]
    assert low < found["flops"] < high
    low, high = found[f"{other}_interval"]
    assert low < found[other] < high
    # The end of the interval is the compute whose own interval begins or ends at what is held.
    edge = ask(folder, flops=found["flops_interval"][0])
    assert edge[f"{held}_interval"][1] == pytest.approx(at_compute[held], rel=0.02)


def test_a_loss_to_reach_has_an_interval_of_compute(sweep: Callable[..., Path]) -> None:
    folder = sweep("small", noise=0.002)
    at_compute = ask(folder, flops=5e12)
    found = ask(folder, loss=at_compute["loss"])
    low, high = found["flops_interval"]
    assert low < found["flops"] < high


def test_hours_become_compute_by_the_measured_or_the_given_speed(
    sweep: Callable[..., Path],
) -> None:
    folder = sweep("small")
    table = read_measurements(folder).table
    largest = table.params == table.params.max()
    rate = 1e5 * float((table.flops / table.tokens)[largest][0])
    measured = ask(folder, gpu_hours=0.01)
    assert measured["flops"] == pytest.approx(36 * rate, rel=1e-9)
    assert "measured on the largest model" in measured["speed"]
    given = ask(folder, gpu_hours=2.0, device_flops=1e10, mfu=0.25)
    assert given["flops"] == pytest.approx(2 * 3600 * 2.5e9, rel=1e-9)
    with pytest.raises(BadInput, match="--device-flops with --mfu"):
        ask(folder, gpu_hours=2.0, device_flops=1e10)


def test_a_table_answers_as_its_sweep_does_and_compares_with_it(sweep: Callable[..., Path]) -> None:
    folder = sweep("small")
    table = folder / "losses.csv"
    alone = ask(table, flops=5e12)
    assert alone["loss_unit"] is None, "a table without a `loss_unit` names no unit"
    assert {**alone, "loss_unit": "nats per token"} == ask(folder, flops=5e12)
    record = compare(read_measurements(table), read_measurements(folder))
    assert all(level["difference"] == 0 for level in record["levels"])
    with pytest.raises(BadInput, match="the table must exist"):
        read_measurements(folder / "none.csv")


def test_a_predicted_optimum_becomes_a_run_of_the_sweeps_own_family(
    sweep: Callable[..., Path], tmp_path: Path
) -> None:
    folder = sweep("small")
    record = ask(folder, flops=5e12)
    ready = ready_run(read_measurements(folder), record)
    config = ready.trial.config
    assert ready.trial.counts.matmul == pytest.approx(record["params"], rel=0.15)
    # It spends the compute that was asked for, up to a step of tokens.
    assert 0.99 < ready.trial.flops / 5e12 <= 1
    assert (config.shape.context, config.batch_tokens) == (128, 512)
    path = tmp_path / "next.json"
    write_config(ready, path)
    assert TrainConfig.from_json(path.read_text()) == config
    with pytest.raises(BadInput, match="does not replace a file"):
        write_config(ready, path)


def test_what_cannot_be_trained_is_no_configuration(sweep: Callable[..., Path]) -> None:
    folder = sweep("small")
    with pytest.raises(BadInput, match="a table has none"):
        ready_run(read_measurements(folder / "losses.csv"), ask(folder, flops=5e12))
    with pytest.raises(BadInput, match=r"under training\.min_steps"):
        ready_run(read_measurements(folder), ask(folder, params=20_000, tokens=5e4))


def test_the_written_configuration_trains(sweep: Callable[..., Path], tmp_path: Path) -> None:
    tokens = prepare(
        DataSource(corpus="synthetic:simple", tokenizer="char"), cache_root=tmp_path / "tokens"
    )
    manifest = TokenData.open(tokens).manifest
    folder = sweep("small")
    record = ask(folder, params=10_000, tokens=512 * 310)
    config = ready_run(read_measurements(folder), record).trial.config
    # The sweep's corpus is a fake: the same run on tokens that are there.
    shape = dataclasses.replace(config.shape, vocab_size=manifest.vocab_size)
    real = dataclasses.replace(
        config, shape=shape, data_digest=manifest.digest, validation_tokens=1280
    )
    (tmp_path / "next.json").write_text(real.to_json())
    out = tmp_path / "run"
    arguments = [str(tmp_path / "next.json"), "--data", str(tokens), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *arguments, "--quiet", "--no-samples"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == config.steps

"""MLflow as a projection: one run per trial, however often it is projected; rows S4, T9."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from pandas.testing import assert_frame_equal
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from analysis.files import read_table
from orchestrator.background import BackgroundProjection
from orchestrator.cli import app
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput
from orchestrator.executors.base import Finished, Job
from orchestrator.importing.importer import ImportRequest, import_runs
from orchestrator.journal import read_state
from orchestrator.machinery import best_trial
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.state import SweepState
from orchestrator.sweep_files import metric_lines
from orchestrator.tracking.note import sweep_note
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.store import Store, redacted

TEXT = """\
name: small
budget: {flops: 8e12}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11], sizes: 3, span: 2, tokens_per_parameter: 150}
"""
TINY = """\
name: tiny
budget: {flops: 3e10}
data: {corpus: corpus.txt, validation_tokens: 4096}
model: {context: 32, family: gpt}
training: {batch_tokens: 128, min_steps: 10, learning_rate: 0.01}
design: {levels: [1e9], sizes: 3, span: 2, tokens_per_parameter: 30}
run: {executor: inline}
checks: {diagnose: false}
"""


@pytest.fixture
def swept(
    make_setting: Callable[..., Setting],
    fake_executor: Any,
    monkeypatch: pytest.MonkeyPatch,
    fresh_store: Path,
) -> Setting:
    """A finished sweep of three trials with three points each, and no tracker yet."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )
    good = fake_executor.outcome

    def with_metrics(job: Job) -> Finished:
        job.out_dir.mkdir(parents=True)
        lines = [
            {"step": s, "tokens": s, "flops": s, "loss": 3.0 / s, "learning_rate": 0.01,
             "grad_norm": 1.0, "tokens_per_s": 5.0, "time": 1000.0 + s}
            for s in (1, 2, 3)
        ]  # fmt: skip
        lines.append({"step": 3, "validation_loss": 1.1, "validation_bpb": 1.6, "time": 1004.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (job.out_dir / "metrics.jsonl").write_text(text)
        return good(job)

    fake_executor.outcome = with_metrics
    setting = make_setting(TEXT)
    run_sweep(setting, make_executor=lambda: fake_executor, tracker=None, display=SilentDisplay())
    shutil.copy(fresh_store, setting.outputs / "mlflow.db")
    (setting.sweep_dir / "report").mkdir()
    (setting.sweep_dir / "report" / "report.html").write_text("<p>answer</p>")
    return setting


def project(setting: Setting, *, finish: bool = True, state: SweepState | None = None) -> Any:
    """Project the journal's state, or another, with a fresh object, as a new process would."""
    projection = Projection(
        uri=f"sqlite:///{setting.outputs / 'mlflow.db'}",
        experiment="e",
        artifacts=setting.outputs / "mlartifacts",
        sweep_dir=setting.sweep_dir,
    )
    state = state or read_state(setting.sweep_dir)
    projection.sync(state)
    if finish:
        projection.finish(state, note="**weak**: because", report=setting.sweep_dir / "report")
    return projection


def test_a_report_that_is_not_there_leaves_the_runs_and_the_answer(swept: Setting) -> None:
    shutil.rmtree(swept.sweep_dir / "report")
    projection = project(swept)
    client = projection.store.client
    assert client.get_run(projection.parent_id).info.status == "FINISHED"
    assert client.list_artifacts(projection.parent_id, "report") == []


def test_a_run_lasts_from_its_first_attempt_to_its_last_metric(swept: Setting) -> None:
    state = read_state(swept.sweep_dir)
    lasting = dict(zip(state.trials, (30.0, 5.0, 0.0), strict=True))
    continued, _, silent = state.trials
    for trial_id, seconds in lasting.items():
        path = swept.sweep_dir / "trials" / trial_id / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines[-1:] if trial_id == continued else lines:
            # The first steps of a trial that continues another are of long before it.
            line["time"] = state.trials[trial_id].started_at + seconds
        path.write_text("".join(json.dumps(li) + "\n" for li in lines if trial_id != silent))
    projection = project(swept)
    for trial_id, seconds in lasting.items():
        [run] = projection.store.client.search_runs(
            [projection.experiment_id], f"tags.`sweep.trial_id` = '{trial_id}'"
        )
        started = state.trials[trial_id].started_at
        assert started > state.opened_at
        assert run.info.start_time == int(started * 1000)
        assert run.info.end_time == int((started + seconds) * 1000)


def test_a_run_that_another_sweep_has_trained_lasts_as_it_did_there(swept: Setting) -> None:
    state = read_state(swept.sweep_dir)
    first = next(iter(state.trials.values()))
    taken = replace(first, attempts=0, started_at=0.0, cached_from="another")
    trials = {**state.trials, taken.trial_id: taken}
    projection = project(swept, state=replace(state, trials=trials))
    [run] = projection.store.client.search_runs(
        [projection.experiment_id], f"tags.`sweep.trial_id` = '{taken.trial_id}'"
    )
    assert (run.info.start_time, run.info.end_time) == (1_001_000, 1_004_000)


def test_projecting_again_and_again_adds_nothing(swept: Setting) -> None:
    for _ in range(3):
        projection = project(swept)
    client = projection.store.client
    runs = client.search_runs([projection.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 4
    assert len(children) == 3
    for run in children:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(m.step, m.value, m.timestamp) for m in history] == [
            (1, 3.0, 1001000), (2, 1.5, 1002000), (3, 1.0, 1003000)
        ]  # fmt: skip
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "final_loss")) == 1
        assert run.data.params["optimizer.learning_rate"]
        # Losses against tokens or compute: MLflow joins two metrics by their step.
        for name, key in (("train/tokens", "tokens"), ("train/flops", "flops")):
            points = client.get_metric_history(run.info.run_id, name)
            assert [(m.step, m.value) for m in points] == [(1, 1.0), (2, 2.0), (3, 3.0)], key
        # What MLflow's compare, scatter and contour pages can use at 100 runs: plain numbers.
        plain = {name: float(run.data.params[name]) for name in ("N", "D", "D_per_N", "C", "rate")}
        assert plain["D_per_N"] == pytest.approx(plain["D"] / plain["N"], rel=1e-3)
        assert run.data.metrics["tokens_per_parameter"] == pytest.approx(plain["D"] / plain["N"])
        assert re.fullmatch(r"L1 · [\d.]+[kMB]? · [\d.]+k? tok/param", run.info.run_name)
        assert "**held-out loss" in run.data.tags["mlflow.note.content"]
        assert run.inputs.dataset_inputs[0].dataset.name == "embedded"
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["mlflow.note.content"] == "**weak**: because"
    (given,) = parent.inputs.dataset_inputs
    assert given.dataset.digest == children[0].inputs.dataset_inputs[0].dataset.digest
    assert [item.path for item in client.list_artifacts(parent.info.run_id, "report")] == [
        "report/report.html"
    ]


def test_the_model_of_the_best_run_is_logged_once_if_asked(
    tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    text = " ".join(words[(i * i + i // 7) % len(words)] for i in range(9000))
    (tmp_path / "corpus.txt").write_text("\n".join(text[i : i + 400] for i in range(0, 40000, 400)))
    (tmp_path / "budget.yaml").write_text(TINY)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.copy(fresh_store, outputs / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )
    swept = CliRunner().invoke(app, ["run", "budget.yaml", "-y", "--json"])
    assert swept.exit_code == 1, swept.output  # One level is no law.
    (outputs / "tiny" / "report").mkdir()
    command = ["sync", "tiny", "--model", "--json"]
    twice = [CliRunner().invoke(app, command, catch_exceptions=False) for _ in range(2)]
    said = [json.loads(result.stdout) for result in twice]
    assert said[0] == said[1]
    assert said[0]["model"]["class"] == "GPT2LMHeadModel"
    client = MlflowClient(tracking_uri=f"sqlite:///{outputs / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'isosweep'")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    best = min(children, key=lambda run: run.data.metrics["final_loss"])
    assert said[0]["model"]["trial_id"] == best.data.tags["sweep.trial_id"]
    for run in runs:
        paths = [item.path for item in client.list_artifacts(run.info.run_id, "model")]
        assert ("model/model.safetensors" in paths) == (run is best)
    folder = client.download_artifacts(best.info.run_id, "model", str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == int(best.data.metrics["params_total"])

    monkeypatch.setattr("orchestrator.machinery.export", _no_class_for_it)
    with pytest.raises(BadInput, match=r"SWP-1318.*no class of transformers"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    CliRunner().invoke(app, ["clean", "tiny", "-y"])
    with pytest.raises(BadInput, match=r"SWP-1315.*is completed and has none"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    with pytest.raises(BadInput, match=r"SWP-1317.*none has finished"):
        best_trial(replace(read_state(outputs / "tiny"), trials={}))


def _no_class_for_it(*_: object, **__: object) -> str:
    raise ValueError("no class of transformers")


def test_the_sweep_s_own_run_says_its_answer_and_where_its_report_is(swept: Setting) -> None:
    state = read_state(swept.sweep_dir)
    note = sweep_note(state)
    assert note.startswith("## NOT IDENTIFIED")
    assert "**not_identified** (refused): NOT IDENTIFIED." in note
    assert "report/report.html" in note
    answer = {
        **(state.fit or {}),
        "status": "weak",
        "message": "a|b <script>",
        "tokens_per_parameter": 21.66,
        "interval": [10.6, 44.4],
        "flops": 3.3e12,
    }
    note = sweep_note(replace(state, fit=answer))
    assert note.startswith("## 21.7 bytes per parameter [10.6, 44.4] at 3.3e+12 FLOPs\n")
    assert r"a\|b &lt;script&gt;" in note
    projection = project(swept)
    (parent,) = projection.store.client.search_runs(
        [projection.experiment_id], "tags.`sweep.verdict` = 'not_identified'"
    )
    assert parent.data.metrics["runs_in_fit"] == 3
    assert parent.data.metrics["charged_flops"] == state.charged_flops


def test_the_twins_of_a_create_whose_reply_was_lost_are_deleted(
    swept: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    create = MlflowClient.create_run

    def asked_twice(self: Any, *arguments: Any, **options: Any) -> Any:
        create(self, *arguments, **options)
        return create(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", asked_twice)
    projection = project(swept)
    runs = projection.store.client.search_runs([projection.experiment_id])
    assert len(runs) == 4
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert all(run.data.params and run.data.metrics for run in children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {projection.parent_id}


def test_a_run_whose_parameters_were_refused_gets_them_later(
    swept: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise ConnectionError("500")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "log_params", refuses)
        with pytest.raises(ConnectionError):
            project(swept)
    projection = project(swept)
    runs = projection.store.client.search_runs([projection.experiment_id])
    assert len(runs) == 4
    assert all(run.data.params for run in runs)


def test_what_a_model_says_is_an_artifact_of_its_run(swept: Setting) -> None:
    trials = list(read_state(swept.sweep_dir).trials)
    folder = swept.sweep_dir / "trials" / trials[0]
    for name in ("first_batch.txt", "samples.txt", "predictions.json", "logits.json"):
        (folder / name).write_text(f"{name} of {trials[0]}")
    client = project(swept).store.client

    def artifacts(trial_id: str) -> dict[str, Path]:
        (run,) = client.search_runs(
            [client.get_experiment_by_name("e").experiment_id],
            f"tags.`sweep.trial_id` = '{trial_id}'",
        )
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        return {item.path: root / item.path for item in client.list_artifacts(run.info.run_id)}

    found = artifacts(trials[0])
    assert sorted(found) == [*("first_batch.txt", "logits.json", "predictions.json", "samples.txt")]
    assert found["samples.txt"].read_text() == f"samples.txt of {trials[0]}"
    assert artifacts(trials[1]) == {}


def test_points_written_between_two_projections_are_added_once(swept: Setting) -> None:
    state = read_state(swept.sweep_dir)
    trial_id = next(iter(state.trials))
    path = swept.sweep_dir / "trials" / trial_id / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:2]) + whole[2][:10])  # a torn third line
    project(swept, finish=False)
    path.write_text("".join(whole))
    projection = project(swept, finish=False)
    run_id = projection.store.find(f"tags.`sweep.trial_id` = '{trial_id}'").info.run_id
    # The run was closed with two points; the journal is the truth, so it is not opened again.
    history = projection.store.client.get_metric_history(run_id, "train/loss")
    assert [m.step for m in history] == [1, 2]


def test_a_wiped_store_is_rebuilt_whole(swept: Setting) -> None:
    project(swept)
    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.journal import read_state\n"
        "from orchestrator.tracking.projection import Projection\n"
        "outputs, sweep = map(Path, sys.argv[1:])\n"
        "p = Projection(uri=f'sqlite:///{outputs}/wiped.db', experiment='e',\n"
        "               artifacts=outputs, sweep_dir=sweep)\n"
        "p.sync(read_state(sweep))\n"
        "print(len(p.store.client.search_runs([p.experiment_id])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(swept.outputs), str(swept.sweep_dir)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "4"


def test_a_projected_sweep_imports_to_the_table_that_it_wrote(swept: Setting) -> None:
    project(swept)
    table = swept.outputs / "again.csv"
    record = import_runs(
        ImportRequest(source=f"sqlite:///{swept.outputs / 'mlflow.db'}", experiment="e", out=table)
    )
    assert (record["n_rows"], record["n_used"], len(record["set_aside"])) == (3, 3, 1)
    again, first = read_table(table), read_table(swept.sweep_dir / "losses.csv")
    assert_frame_equal(again.frame[first.frame.columns], first.frame, check_exact=True)


def test_the_store_is_private(swept: Setting) -> None:
    (swept.outputs / "mlflow.db").unlink()
    project(swept)
    assert (swept.outputs / "mlflow.db").stat().st_mode & 0o077 == 0


def test_a_store_killed_within_its_first_migration_is_made_again(swept: Setting) -> None:
    script = (
        "import os, sqlalchemy.event, sys; from pathlib import Path\n"
        "from orchestrator.tracking.projection import Projection\n"
        "count = 0\n"
        "@sqlalchemy.event.listens_for(sqlalchemy.Engine, 'before_cursor_execute')\n"
        "def die(conn, cursor, statement, *rest):\n"
        "    global count\n"
        "    count += statement.lstrip().startswith('CREATE TABLE _alembic_tmp')\n"
        "    if count == 3: os._exit(9)\n"
        "Projection(uri=sys.argv[1], experiment='e', artifacts=Path('/'), sweep_dir=Path('/'))\n"
    )
    (swept.outputs / "mlflow.db").unlink()
    uri = f"sqlite:///{swept.outputs / 'mlflow.db'}"
    killed = subprocess.run([sys.executable, "-c", script, uri], check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr
    assert not (swept.outputs / "mlflow.db").exists()
    projection = project(swept)
    assert len(projection.store.client.search_runs([projection.experiment_id])) == 4


def test_an_unreachable_store_is_trouble_and_not_an_error(swept: Setting) -> None:
    def broken() -> Projection:
        raise ConnectionError("no route")

    background = BackgroundProjection(broken, interval_s=0.01)
    background.show(read_state(swept.sweep_dir))
    background.start()
    background.stop(10)
    assert background.trouble == "ConnectionError: no route"


def test_lines_that_are_not_whole_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "t"
    folder.mkdir(parents=True)
    assert list(metric_lines(tmp_path, "t")) == []
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert list(metric_lines(tmp_path, "t")) == [{"step": 1}]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://host:5000/x"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_credentials_are_taken_out_of_addresses(uri: str, shown: str) -> None:
    assert redacted(uri) == shown

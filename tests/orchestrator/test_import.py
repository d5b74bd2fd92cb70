"""`sweep import`: what trackers and tables hold becomes a loss table, and nothing else does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.files import read_table
from analysis.laws import Surface
from analysis.table import COLUMNS
from orchestrator.errors import BadInput
from orchestrator.importing.importer import ImportRequest, import_runs, provenance_path

LAW = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


def points(sizes: int = 5) -> pd.DataFrame:
    """Three levels of the known law."""
    C = np.repeat(10 ** np.array([18, 18.5, 19]), sizes)
    N = np.round(np.sqrt(C / 120) * np.tile(np.geomspace(1 / 4, 4, sizes), 3))
    D = np.round(C / (6 * N))
    return pd.DataFrame({"n": N, "d": D, "val": np.asarray(LAW.loss(N, D))})


def bring(source: Path | str, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], Any]:
    """Import into a fresh table; the record and the table as a fit reads it."""
    out = tmp_path / "imported.csv"
    record = import_runs(ImportRequest(source=str(source), out=out, force=True, **options))
    return record, read_table(out)


NAMES = {"params": "n", "tokens": "d", "loss": "val"}


def test_a_table_gets_our_columns_and_what_it_lacks_stays_empty(tmp_path: Path) -> None:
    source = tmp_path / "theirs.csv"
    points().to_csv(source, index=False)
    record, table = bring(source, tmp_path, mapping=NAMES)
    written = pd.read_csv(tmp_path / "imported.csv")
    assert list(written)[: len(COLUMNS)] == list(COLUMNS)
    assert list(written)[len(COLUMNS) :] == ["params", "source", "run_name"]
    filled = {name for name in COLUMNS if written[name].notna().any()}
    assert filled == {"tokens", "loss", "flops_6nd"}
    assert record["derived"] == {"flops_6nd": "6 N D with N = params"}
    assert record["columns"] == NAMES
    assert json.loads(provenance_path(tmp_path / "imported.csv").read_text()) == record
    np.testing.assert_array_equal(table.loss, points()["val"])
    np.testing.assert_array_equal(table.params, points()["n"])


def test_parquet_and_csv_give_the_same_table(tmp_path: Path) -> None:
    points().to_csv(tmp_path / "t.csv", index=False)
    points().to_parquet(tmp_path / "t.parquet")
    _, one = bring(tmp_path / "t.csv", tmp_path, mapping=NAMES)
    _, other = bring(tmp_path / "t.parquet", tmp_path, mapping=NAMES)
    pd.testing.assert_frame_equal(
        one.frame.drop(columns="source"), other.frame.drop(columns="source")
    )


WANDB_CSV = """\
"Name","State","Notes","User","Tags","Created","Runtime","Sweep","n_params","seen","val/loss"
"a","finished","-","me","","2026-01-01T00:00:00.000Z","100","","1e7","1.6e9","3.62"
"b","crashed","-","me","","2026-01-01T00:00:00.000Z","100","","2e7","0.8e9","3.52"
"c","running","-","me","","2026-01-01T00:00:00.000Z","100","","4e7","0.4e9","3.55"
"d","finished","-","me","","2026-01-01T00:00:00.000Z","100","","8e7","0.2e9",""
"e","finished","-","me","","2026-01-01T00:00:00.000Z","100","","8e7","0.2e9","Infinity"
"f","killed","-","me","","2026-01-01T00:00:00.000Z","100","","8e7","0.2e9","3.1"
"""
WANDB_NAMES = {"params": "n_params", "tokens": "seen", "loss": "val/loss"}


def test_only_finished_runs_of_a_wandb_table_enter_and_the_others_say_why(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(WANDB_CSV)
    record, table = bring(tmp_path / "w.csv", tmp_path, mapping=WANDB_NAMES)
    assert record["excluded"] == {
        "ended badly: crashed": 1,
        "unfinished: running": 1,
        "no loss": 1,
        "loss is inf": 1,
        "ended badly: killed": 1,
    }
    assert list(table.used["trial_id"]) == ["a"]


def wandb_records() -> list[dict[str, Any]]:
    """Three runs as the public API gives them, one diverged, one with W&B's wrapped values."""
    return [
        {"id": "x1", "name": "same", "state": "finished", "config": {"model": {"n": 1e7}, "d": 1e9},
         "summary": {"val": 3.1, "_step": 10}},
        {"id": "x2", "name": "same", "state": "finished",
         "config": {"model": {"n": {"value": 2e7, "desc": None}}, "d": {"value": 2e9}},
         "summary": {"val": 3.0, "_step": 10}},
        {"id": "x3", "name": "same", "state": "finished", "config": {"model": {"n": 4e7}, "d": 1e9},
         "summary": {"val": float("nan"), "_step": 10}},
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["lines", "list", "dictionaries in a csv"])
def test_run_records_of_the_wandb_api_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    records = wandb_records()
    source = tmp_path / "runs.jsonl"
    if form == "lines":
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif form == "list":
        source.write_text(json.dumps(records))
    else:
        source = tmp_path / "runs.csv"
        pd.DataFrame(records).to_csv(source)
    record, table = bring(
        source, tmp_path, mapping={"params_total": "model.n", "tokens": "d", "loss": "val"}
    )
    assert record["excluded"] == {"loss is nan": 1}
    assert list(table.used["trial_id"]) == ["x1", "x2"]
    assert list(table.params) == [1e7, 2e7]
    assert list(table.loss) == [3.1, 3.0]


def test_a_history_gives_the_last_logged_value_of_each_run(tmp_path: Path) -> None:
    rows = [
        {"run_id": "b", "_step": 2, "n": 2e7, "d": 2e9, "val": 3.0},
        {"run_id": "a", "_step": 1, "n": 1e7, "d": 5e8, "val": 4.0},
        {"run_id": "a", "_step": 3, "n": 1e7, "d": 1e9, "val": None},
        {"run_id": "a", "_step": 2, "n": 1e7, "d": 1e9, "val": 3.5},
    ]
    source = tmp_path / "history.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, table = bring(source, tmp_path, mapping=NAMES)
    assert dict(zip(table.used["trial_id"], table.loss, strict=True)) == {"a": 3.5, "b": 3.0}
    assert list(table.tokens) == [2e9, 1e9]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("chart.csv", '"Step","a - loss","a - loss__MIN","a - loss__MAX"\n1,3,3,3\n',
         "one chart's export"),
        ("torn.jsonl", '{"id": "a", "config": {}}\n{"id": ', "line 2 is not JSON"),
        ("numbers.jsonl", "1\n2\n", "every line must be a JSON object"),
        ("mixed.csv", "_step,n,d,val\n1,1e7,1e9,3\n1,2e7,1e9,3\n", "no column says which"),
        ("dict.csv", "name,config,summary\na,oops,{}\n", "is no dictionary"),
    ],
)  # fmt: skip
def test_what_is_no_export_of_runs_is_refused_by_name(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        bring(tmp_path / name, tmp_path, form="wandb", mapping=NAMES)
    assert caught.value.faults[0].code == "SWP-4011"


def test_a_charts_export_is_known_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text('"Step","a - loss","a - loss__MIN"\n1,3,3\n')
    with pytest.raises(BadInput, match="one chart's export"):
        bring(tmp_path / "chart.csv", tmp_path, mapping=NAMES)


def test_a_nested_setting_is_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(i),
            "config": {"model": {"n": r["n"]}, "d": r["d"]},
            "summary": {"val": r["val"]},
        }
        for i, r in points().iterrows()
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record, _ = bring(tmp_path / "runs.jsonl", tmp_path, mapping=NAMES)
    assert record["columns"]["params"] == "config.model.n"


def test_a_column_that_was_named_wrongly_is_one_fault(tmp_path: Path) -> None:
    points().to_csv(tmp_path / "t.csv", index=False)
    wrong = {**NAMES, "params": "nn", "loss": "value"}
    with pytest.raises(BadInput) as caught:
        bring(tmp_path / "t.csv", tmp_path, mapping=wrong)
    assert [fault.place for fault in caught.value.faults] == ["--map params=nn", "--map loss=value"]


def test_a_proposed_option_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    points().rename(columns={"val": "final loss (val)"}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput) as caught:
        bring(tmp_path / "t.csv", tmp_path, mapping={"params": "n", "tokens": "d"})
    assert "--map 'loss=final loss (val)';" in caught.value.faults[0].remedy


def test_a_source_that_is_not_there_is_told_before_the_table_that_is(tmp_path: Path) -> None:
    (tmp_path / "losses.csv").write_text("taken")
    request = ImportRequest(source=str(tmp_path / "none.csv"), out=tmp_path / "losses.csv")
    with pytest.raises(BadInput, match="the table must exist"):
        import_runs(request)


@pytest.fixture(scope="module")
def foreign_store(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An experiment that is none of ours, logged by hand with MLflow itself."""
    folder = tmp_path_factory.mktemp("foreign")
    path = folder / "theirs.db"
    shutil.copy(fresh_store, path)
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.create_experiment("scaling", artifact_location=folder.as_uri())

    def run(
        name: str, params: dict[str, float], metrics: dict[str, list[float]], *,
        parent: str | None = None, end: str | None = "FINISHED",
    ) -> str:  # fmt: skip
        tags = {"mlflow.runName": name} | ({"mlflow.parentRunId": parent} if parent else {})
        run_id = str(client.create_run(experiment, tags=tags).info.run_id)
        client.log_batch(
            run_id,
            params=[Param(k, str(v)) for k, v in params.items()],
            metrics=[Metric(k, v, s, s) for k, vs in metrics.items() for s, v in enumerate(vs)],
        )
        if end:
            client.set_terminated(run_id, end)
        return run_id

    frame = points()
    for parent_name, rows in (("first", frame[:10]), ("second", frame[10:])):
        parent = run(parent_name, {"width": 8}, {})
        for index, row in rows.iterrows():
            run(
                f"run{index}",
                {"n": row["n"], "d": row["d"]},
                {"eval/loss": [9.0, 5.0, row["val"]], "train/loss": [9.0, 4.0, 1.0]},
                parent=parent,
            )
    run("died", {"n": 1e7, "d": 1e9}, {"eval/loss": [3.0]}, end="FAILED")
    run("live", {"n": 1e7, "d": 1e9}, {"eval/loss": [3.0]}, end=None)
    run("diverged", {"n": 1e7, "d": 1e9}, {"eval/loss": [3.0, float("nan")]})
    run("wordless", {"n": 1e7}, {"eval/loss": [3.0]})
    return f"sqlite:///{path}"


FOREIGN = {"params_total": "n", "tokens": "d", "loss": "eval/loss"}


def test_any_mlflow_experiment_becomes_a_table(foreign_store: str, tmp_path: Path) -> None:
    record, table = bring(foreign_store, tmp_path, experiment="scaling", mapping=FOREIGN)
    np.testing.assert_array_equal(np.sort(table.loss), np.sort(points()["val"]))
    assert record["excluded"] == {
        "ended badly: FAILED": 1, "unfinished: RUNNING": 1, "loss is nan": 1, "no tokens": 1
    }  # fmt: skip
    assert record["set_aside"] == [
        f"{name}: a parent of other runs, no measurement of its own" for name in ("first", "second")
    ]
    assert table.convention == "total"
    assert set(table.frame["source"]) == {f"{foreign_store}#scaling"}
    assert any("train/loss" in note for note in record["notes"])


def test_of_nested_runs_one_parents_children_can_be_read_alone(
    foreign_store: str, tmp_path: Path
) -> None:
    _, table = bring(
        foreign_store, tmp_path, experiment="scaling", parent="second", mapping=FOREIGN
    )
    assert list(table.frame["run_name"]) == [f"run{i}" for i in range(10, 15)]
    with pytest.raises(BadInput, match="none is nested under `secnd`") as caught:
        bring(foreign_store, tmp_path, experiment="scaling", parent="secnd", mapping=FOREIGN)
    assert "did you mean `second`" in str(caught.value)


@pytest.fixture(scope="module")
def folder_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of files, as MLflow wrote them before it took a database by default."""
    folder = tmp_path_factory.mktemp("old") / "mlruns"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=folder.as_uri())
        experiment = client.create_experiment("scaling")
        for row in points().to_dict("records"):
            run_id = str(client.create_run(experiment).info.run_id)
            params = [Param(name, str(row[name])) for name in ("n", "d")]
            client.log_batch(run_id, metrics=[Metric("val", row["val"], 0, 0)], params=params)
            client.set_terminated(run_id)
    return folder


@pytest.mark.parametrize("form", [str, Path.as_uri], ids=["path", "uri"])
def test_an_older_store_of_files_is_read_as_it_stands(
    form: Any, folder_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Set before it is deleted, so that it is put back as it was, unset.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    before = sorted(folder_store.rglob("*"))
    _, table = bring(form(folder_store), tmp_path, experiment="scaling", mapping=NAMES)
    np.testing.assert_array_equal(np.sort(table.loss), np.sort(points()["val"]))
    assert sorted(folder_store.rglob("*")) == before


def test_a_folder_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    empty = tmp_path / "mlruns"
    for uri in (empty.as_uri(), str(empty)):
        empty.mkdir(exist_ok=True)
        with pytest.raises(BadInput, match="the MLflow store must exist"):
            bring(uri, tmp_path, experiment="scaling", mapping=NAMES)
        assert not list(empty.iterdir())


def test_without_names_the_error_lists_the_likely_metrics(
    foreign_store: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as caught:
        bring(foreign_store, tmp_path, experiment="scaling", mapping={"params": "n"})
    tokens, loss = caught.value.faults
    assert "columns: params.n, params.d, metrics.eval/loss" in tokens.remedy
    assert "likely: metrics.eval/loss, metrics.train/loss" in loss.remedy


def test_a_store_or_an_experiment_that_is_not_there_is_never_made(
    foreign_store: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="did you mean `scaling`"):
        bring(foreign_store, tmp_path, experiment="scalling")
    with pytest.raises(BadInput, match="the MLflow store must exist"):
        bring(f"sqlite:///{tmp_path}/none.db", tmp_path, experiment="scaling")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(BadInput, match="--experiment NAME"):
        bring(foreign_store, tmp_path)


@pytest.mark.parametrize(
    ("params", "tokens", "remedy"),
    [
        (1.0, 1e-9, "use --unit tokens=1e9;"),
        (1.0, 1e-6, "use --unit tokens=1e6;"),
        (1e-6, 1.0, "use --unit params=1e6;"),
        (1e-6, 1e-9, "use --unit params=1e6 --unit tokens=1e9;"),
    ],
)
def test_counts_in_millions_or_billions_are_refused_with_the_unit_to_give(
    params: float, tokens: float, remedy: str, tmp_path: Path
) -> None:
    source = tmp_path / "t.csv"
    points().assign(n=lambda f: f["n"] * params, d=lambda f: f["d"] * tokens).to_csv(
        source, index=False
    )
    with pytest.raises(BadInput) as caught:
        bring(source, tmp_path, mapping=NAMES)
    assert caught.value.faults[0].code == "SWP-4013"
    assert remedy in str(caught.value)
    assert not (tmp_path / "imported.csv").exists()
    given = dict(item.split("=") for item in remedy[4:-1].replace("--unit ", "").split())
    units = {name: float(factor) for name, factor in given.items()}
    record, table = bring(source, tmp_path, mapping=NAMES, units=units)
    np.testing.assert_allclose(table.tokens, points()["d"], rtol=1e-12)
    assert record["units"] == units


def test_copies_are_left_out_and_two_measurements_of_one_run_are_a_fault(tmp_path: Path) -> None:
    frame = points().assign(run_id=[f"r{i}" for i in range(15)])
    copied = pd.concat([frame, frame[:2], frame[2:3].assign(run_id="other")])
    copied.to_csv(tmp_path / "t.csv", index=False)
    record, table = bring(tmp_path / "t.csv", tmp_path, mapping=NAMES)
    assert record["excluded"] == {"duplicate of an earlier row": 3}
    assert table.n_points == 15
    twice = pd.concat([frame, frame[:1].assign(val=2.0)])
    twice.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match=r"`r0` has several measurements \(duplicate-trial\)"):
        bring(tmp_path / "t.csv", tmp_path, mapping=NAMES)


def test_replicates_with_other_seeds_are_no_copies(tmp_path: Path) -> None:
    frame = points()
    pd.concat([frame.assign(seed=0), frame.assign(seed=1)]).to_csv(tmp_path / "t.csv", index=False)
    _, table = bring(tmp_path / "t.csv", tmp_path, mapping=NAMES)
    assert table.n_points == 30


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('n,d,val\n1e7,1e9,"3,1"\n2e7,1e9,3.0\n', "SWP-4001", "Write decimals with a point"),
        ("n,d,val\n1e7,1e9,3,1\n2e7,1e9,3,0\n", "SWP-4011", "as many cells as the header"),
        ("n;d;val\n1e7;1e9;3,1\n", "SWP-4011", "these are by semicolons"),
        ("", "SWP-4011", "the file is empty"),
        ("n,d,val\n", "SWP-4015", "of 0 rows none is"),
        ("n,d,val\n1e7,1e9,\n2e7,1e9,\n", "SWP-4015", "2 x no loss"),
        ("n,d,val\n1e7,1e9,three\n", "SWP-4001", "loss must be a finite number, got 'three'"),
        ("n,d,val\n1e7,1e9,-3\n", "SWP-4001", "loss must be greater than zero"),
        ("n,d,valu\n1e7,1e9,3\n", "SWP-4012", "did you mean `valu`"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_written(
    text: str, code: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        bring(tmp_path / "t.csv", tmp_path, mapping=NAMES)
    assert caught.value.faults[0].code == code
    assert not (tmp_path / "imported.csv").exists()


def test_mixed_tokenizers_stay_visible_to_the_fit(tmp_path: Path) -> None:
    frame = points().assign(vocab=["bpe32k"] * 8 + ["byte"] * 7)
    frame.to_csv(tmp_path / "t.csv", index=False)
    _, table = bring(tmp_path / "t.csv", tmp_path, mapping={**NAMES, "tokenizer": "vocab"})
    assert set(table.used["tokenizer"]) == {"bpe32k", "byte"}


def test_a_table_is_replaced_only_when_asked_and_a_source_never(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    points().to_csv(source, index=False)
    request = {"source": str(source), "mapping": NAMES}
    import_runs(ImportRequest(out=tmp_path / "o.csv", **request))
    with pytest.raises(BadInput, match="does not replace a file"):
        import_runs(ImportRequest(out=tmp_path / "o.csv", **request))
    with pytest.raises(BadInput, match="never replaces its own source"):
        import_runs(ImportRequest(out=source, force=True, **request))


def test_a_million_rows_are_read_row_by_row_by_nobody(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 9, 10**6), 10 ** rng.uniform(9, 11, 10**6)
    frame = pd.DataFrame({"n": N, "d": D, "val": np.asarray(LAW.loss(N, D))})
    frame.to_parquet(tmp_path / "t.parquet")
    record = import_runs(
        ImportRequest(source=str(tmp_path / "t.parquet"), out=tmp_path / "o.parquet", mapping=NAMES)
    )
    assert record["n_used"] == 10**6


def test_the_command_imports_and_the_table_fits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(points().assign(d=lambda f: f["d"] / 1e9).to_csv(index=False))

    def sweep(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    names = [word for item in NAMES.items() for word in ("--map", "=".join(item))]
    refused = sweep("import", "t.csv", *names, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    done = sweep("import", "t.csv", *names, "--unit", "tokens=1e9", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "sweep.import/1"
    assert document["n_used"] == 15
    wrong = sweep("import", "t.csv", "--unit", "tokens=many")
    assert wrong.returncode == 2
    assert "SWP-1340" in wrong.stderr
    fitted = sweep("fit", "--table", "losses.csv")
    assert fitted.returncode == 0, fitted.stderr
    assert "tokens per parameter" in fitted.stdout

"""MLflow as a projection of the journal. The only file that imports mlflow.

One parent run per sweep, one child per trial, found by their tags and created once. Everything
logged carries the identity it has in the sweep (trial_id, step, and the time in the trial's own
record), so projecting again adds nothing. The trainer never waits for it: one thread of the
driver reads the trials' files and writes in batches, and a tracker that is away is caught up with
later (`sweep sync`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from orchestrator.collect import row
from orchestrator.errors import EnvironmentUnusable, Fault
from orchestrator.state import SweepState, TrialState, TrialStatus
from trainer.result import OBSERVATION_NAMES

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "DO_NOT_TRACK": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}
_METRIC_NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_s": "train/tokens_per_s",
    "router_load": "train/router_load",
    "validation_loss": "validation/loss",
    "validation_bpb": "validation/bits_per_byte",
}
_RUN_STATUS = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.DIVERGED: "FAILED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.ABANDONED: "KILLED",
    TrialStatus.PRUNED: "KILLED",
}
_SQLITE = "sqlite:///"

FIRST_BATCH = "first_batch.txt"
"""File of a sweep directory: its first inputs and targets as text."""

BATCH = 1000
"""Metrics per call: MLflow's own limit."""
ROW_TAG = "sweep.row"
"""Tag of a trial's run: its row of the loss table as JSON, so that an import loses nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """A run of any MLflow experiment, as it stands in the store."""

    run_id: str
    """MLflow's identity."""
    name: str
    """Readable name."""
    status: str
    """`FINISHED`, `RUNNING`, `SCHEDULED`, `FAILED` or `KILLED`."""
    parent_id: str
    """Identity of the run that it is nested under; empty without one."""
    params: Mapping[str, str]
    """Logged parameters, as text."""
    metrics: Mapping[str, float]
    """The last value of each metric."""
    tags: Mapping[str, str]
    """Tags, MLflow's own left out."""


class StoreError(ValueError):
    """A store or an experiment that is not there."""

    def __init__(self, message: str, *, remedy: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.known = tuple(known)


def read_experiment(uri: str, experiment: str) -> list[TrackedRun]:
    """Every run of an experiment that is not deleted, oldest first; nothing is written.

    Args:
        uri: tracking URI; a local file of a store is taken for SQLite.
        experiment: its name.

    Raises:
        StoreError: when there is no such store or experiment.
        EnvironmentUnusable: when the store does not answer.
    """
    os.environ.update(_ENVIRONMENT)
    if "://" not in uri and Path(uri).is_file():
        uri = f"{_SQLITE}{Path(uri).resolve()}"
    local = uri.startswith(_SQLITE)
    if local and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise StoreError("the MLflow store must exist", remedy="check the path of the database")
    with _quiet():
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                known = [item.name for item in client.search_experiments()]
                raise StoreError(
                    "the store must hold the experiment", remedy="", known=known or ["none"]
                )
            return _all_runs(client, found.experiment_id)
        except MlflowException as error:
            raise EnvironmentUnusable(
                Fault(
                    code="SWP-3006",
                    rule=f"the MLflow store must answer: {str(error).splitlines()[0][:200]}",
                    place=redacted(uri),
                    remedy="check the URI, the network, and MLFLOW_TRACKING_USERNAME and _PASSWORD",
                )
            ) from None


def _all_runs(client: MlflowClient, experiment_id: str) -> list[TrackedRun]:
    runs: list[TrackedRun] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            page_token=token,
        )
        runs += [
            TrackedRun(
                run_id=str(run.info.run_id),
                name=str(run.info.run_name or run.info.run_id),
                status=str(run.info.status),
                parent_id=run.data.tags.get("mlflow.parentRunId", ""),
                params=dict(run.data.params),
                metrics=dict(run.data.metrics),
                tags={k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
            )
            for run in page
        ]
        token = page.token
        if not token:
            return runs


class Projection:
    """The sweep's runs in one MLflow store."""

    def __init__(self, *, uri: str, experiment: str, artifacts: Path, sweep_dir: Path) -> None:
        """Open the store; nothing is written before `sync`.

        Args:
            uri: tracking URI.
            experiment: name of the experiment, created when missing.
            artifacts: folder for artifacts of a local store.
            sweep_dir: the sweep whose trials are projected.
        """
        os.environ.update(_ENVIRONMENT)
        with _quiet():
            _prepare_sqlite(uri)
            from mlflow.tracking import MlflowClient

            self._client: MlflowClient = MlflowClient(tracking_uri=uri)
            self._experiment_id = self._experiment(experiment, artifacts)
        self._sweep_dir = sweep_dir
        self._parent_id: str | None = None
        self._examined: Mapping[str, Any] | None = None
        self._runs: dict[str, _Child] = {}

    @property
    def parent_id(self) -> str | None:
        """MLflow's id of the sweep's run, once it exists."""
        return self._parent_id

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return self._experiment_id

    def sync(self, state: SweepState) -> None:
        """Bring the store up to the journal and the trials' files."""
        if state.opened is None:
            return
        with _quiet():
            parent = self._parent(state)
            self._sync_examination(parent, state)
            for trial in state.trials.values():
                if trial.attempts or trial.result is not None:
                    self._sync_trial(parent, state, trial)

    def finish(self, state: SweepState, *, note: str, report: Path) -> None:
        """Close the sweep's run: the answer as its note, summary metrics, the report."""
        self.sync(state)
        if self._parent_id is None:
            return
        with _quiet():
            self._client.set_tag(self._parent_id, "mlflow.note.content", note)
            optimum = (state.fit or {}).get("tokens_per_parameter")
            summary = {"charged_flops": state.charged_flops}
            if optimum is not None:
                summary["tokens_per_parameter"] = optimum
            for key, value in summary.items():
                self._client.log_metric(
                    self._parent_id, key, value, timestamp=int(state.opened_at * 1000), step=0
                )
            self._client.log_artifacts(self._parent_id, str(report), "report")
            if state.finished:
                self._client.set_terminated(self._parent_id, "FINISHED")

    def _experiment(self, name: str, artifacts: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts.as_uri()))

    def _parent(self, state: SweepState) -> str:
        if self._parent_id is None:
            assert state.opened is not None
            sweep_id, name = state.opened["sweep_id"], state.opened["name"]
            tags = {"sweep.id": sweep_id, "sweep.name": name, "mlflow.runName": name}
            run = self._find_or_create(
                f"tags.`sweep.id` = '{sweep_id}'", tags, start_ms=int(state.opened_at * 1000)
            )
            parent_id = str(run.info.run_id)
            if not run.data.params:
                self._log_params(parent_id, _flat(state.opened["science"]))
            self._parent_id = parent_id
        return self._parent_id

    def _sync_examination(self, parent: str, state: SweepState) -> None:
        """Hand over the checks of the architecture and the first batch, once they are there."""
        if state.examination is None or self._examined == state.examination:
            return
        checks = state.examination["checks"]
        text = "\n".join(
            f"{'passed' if c['passed'] else 'FAILED'}  {c['name']}: {c['message']}" for c in checks
        )
        good = sum(check["passed"] for check in checks)
        self._client.set_tag(parent, "sweep.checks", f"{good} of {len(checks)} passed")
        self._client.log_text(parent, text + "\n", "checks.txt")
        if (self._sweep_dir / FIRST_BATCH).exists():
            self._client.log_artifact(parent, str(self._sweep_dir / FIRST_BATCH))
        self._examined = state.examination

    def _sync_trial(self, parent: str, state: SweepState, trial: TrialState) -> None:
        child = self._runs.get(trial.trial_id)
        if child is None:
            child = self._runs[trial.trial_id] = self._open_child(parent, state, trial)
        if child.closed:
            return
        child.step = self._log_lines(child, trial)
        if trial.status in _RUN_STATUS:
            self._close_child(child, state, trial)

    def _open_child(self, parent: str, state: SweepState, trial: TrialState) -> _Child:
        query = (
            f"tags.`sweep.trial_id` = '{trial.trial_id}' and tags.`mlflow.parentRunId` = '{parent}'"
        )
        tags = {
            "mlflow.parentRunId": parent,
            "mlflow.runName": trial.label,
            "sweep.trial_id": trial.trial_id,
            "sweep.level": str(trial.level),
        }
        run = self._find_or_create(query, tags, start_ms=self._started_ms(state, trial))
        run_id = str(run.info.run_id)
        # The data set is logged last: where it is missing, so may be what comes before it.
        if run.inputs is None or not run.inputs.dataset_inputs:
            self._log_params(run_id, _flat(json.loads(trial.config.to_json())))
            self._log_dataset(run_id, state)
        # The last step again: a batch may have ended within it, and nothing is stored twice.
        last = self._last_step(run_id) - 1
        return _Child(run_id, step=last, closed=run.info.status != "RUNNING")

    def _close_child(self, child: _Child, state: SweepState, trial: TrialState) -> None:
        assert state.opened is not None
        record = row(trial, unique_tokens=state.opened["data"]["train_tokens"])
        summary = {
            "final_loss": record["loss"],
            "final_bits_per_byte": record["bpb"],
            "params_matmul": record["params_matmul"],
            "tokens": record["tokens"],
            "tokens_per_parameter": record["tokens"] / record["params_matmul"],
            "flops": record["flops"],
            "wall_s": record["wall_s"],
        }
        stamp = self._last_ms(state, trial)
        self._log_observations(child.run_id, trial.trial_id)
        self._log_metrics(
            child.run_id, [(k, float(v), stamp, 0) for k, v in summary.items() if v is not None]
        )
        self._client.set_tag(child.run_id, "sweep.status", trial.status.value)
        self._client.set_tag(child.run_id, ROW_TAG, json.dumps(record))
        if trial.reason:
            self._client.set_tag(child.run_id, "sweep.reason", trial.reason[:4000])
        if trial.cached_from:
            self._client.set_tag(child.run_id, "sweep.cached_from", trial.cached_from)
        self._client.set_terminated(child.run_id, _RUN_STATUS[trial.status], end_time=stamp)
        child.closed = True

    def _log_observations(self, run_id: str, trial_id: str) -> None:
        """Hand over what the trained model says; a trial that never ended well has none of it."""
        folder = self._sweep_dir / "trials" / trial_id
        for name in OBSERVATION_NAMES:
            if (folder / name).exists():
                self._client.log_artifact(run_id, str(folder / name))

    def _log_lines(self, child: _Child, trial: TrialState) -> int:
        metrics, last = [], child.step
        for line in metric_lines(self._sweep_dir, trial.trial_id):
            # The evaluation follows its step, and comes before the next.
            step = 2 * line["step"] + ("validation_loss" in line)
            if step <= child.step:
                continue
            stamp = int(line["time"] * 1000)
            metrics += [
                (name, float(line[key]), stamp, line["step"])
                for key, name in _METRIC_NAMES.items()
                if line.get(key) is not None
            ]
            last = step
        self._log_metrics(child.run_id, metrics)
        return last

    def _log_metrics(self, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(metrics), BATCH):
            batch = [Metric(*item) for item in metrics[start : start + BATCH]]
            self._client.log_batch(run_id, metrics=batch)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(
            run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()]
        )

    def _log_dataset(self, run_id: str, state: SweepState) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        assert state.opened is not None
        data = state.opened["data"]
        dataset = Dataset(
            name=str(data["source"])[:500],
            digest=data["digest"][:36],
            source_type="local",
            source=json.dumps({"source": data["source"], "tokenizer": data["tokenizer"]}),
            profile=json.dumps(data, sort_keys=True),
        )
        tag = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])

    def _find_or_create(self, query: str, tags: dict[str, str], *, start_ms: int) -> Any:
        """The one run that a query means.

        When the reply of a create is lost, MLflow's client asks again, and the store holds twins.
        So what was created is looked for once more.
        """
        found = self._find(query)
        if found is not None:
            return found
        run = self._client.create_run(self._experiment_id, start_time=start_ms, tags=tags)
        return self._find(query) or run

    def _find(self, query: str) -> Any:
        """The run of a query or None; its empty twins are deleted."""
        runs = self._client.search_runs([self._experiment_id], query, max_results=100)
        if not runs:
            return None
        kept = max(runs, key=lambda run: (len(run.data.metrics), run.info.run_id))
        for twin in runs:
            if twin is not kept and not twin.data.metrics:
                self._client.delete_run(twin.info.run_id)
        return kept

    def _last_step(self, run_id: str) -> int:
        history = self._client.get_metric_history(run_id, "train/loss")
        evaluated = self._client.get_metric_history(run_id, "validation/loss")
        places = [2 * item.step for item in history] + [2 * item.step + 1 for item in evaluated]
        return max(places, default=-1)

    def _started_ms(self, state: SweepState, trial: TrialState) -> int:
        lines = metric_lines(self._sweep_dir, trial.trial_id)
        first = next(lines, None)
        return int((first["time"] if first else state.opened_at) * 1000)

    def _last_ms(self, state: SweepState, trial: TrialState) -> int:
        times = [line["time"] for line in metric_lines(self._sweep_dir, trial.trial_id)]
        return int((times[-1] if times else state.opened_at) * 1000)


class _Child:
    """A trial's run: what is already in the store."""

    __slots__ = ("closed", "run_id", "step")

    def __init__(self, run_id: str, *, step: int, closed: bool) -> None:
        self.run_id, self.step, self.closed = run_id, step, closed


def metric_lines(sweep_dir: Path, trial_id: str) -> Iterator[dict[str, Any]]:
    """Whole lines of a trial's `metrics.jsonl`; none when it has not begun."""
    path = sweep_dir / "trials" / trial_id / "metrics.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def redacted(uri: str) -> str:
    """A URI without user and password."""
    parts = urlsplit(uri)
    if not parts.hostname or parts.username is None:
        return uri
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{parts.hostname}{port}"))


def _prepare_sqlite(uri: str) -> None:
    """Create a local store whole: migrated beside its place, private, then moved into it.

    MLflow's first migration takes seconds, and a store that was killed within it can never be
    opened again (measured with 3.17: "table _alembic_tmp_trace_tags already exists"). WAL mode, so
    that a reader never blocks the writer.
    """
    if not uri.startswith(_SQLITE):
        return
    path = Path(uri.removeprefix(_SQLITE))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600))
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=f"{_SQLITE}{fresh}").search_experiments(max_results=1)
    fresh.replace(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep alembic's and MLflow's progress notes out of the terminal."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""A store of MLflow: opened private and whole, its runs found by tags and created once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import EnvironmentUnusable, Fault
from orchestrator.secrecy import scrubbed

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
SQLITE = "sqlite:///"
"""How the URI of a local store begins."""
BATCH = 1000
"""Metrics per call: MLflow's own limit."""
ROW_TAG = "sweep.row"
"""Tag of a trial's run: its row of the loss table as JSON, so that an import loses nothing."""


class Store:
    """One experiment of one store, to write to."""

    def __init__(self, *, uri: str, experiment: str, artifacts: Path) -> None:
        """Open the store and the experiment, created when missing.

        Args:
            uri: tracking URI.
            experiment: name of the experiment.
            artifacts: folder for artifacts of a local store.

        Raises:
            EnvironmentUnusable: when the store does not answer.
        """
        with quiet():
            _prepare_sqlite(uri)
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            try:
                self.client: MlflowClient = MlflowClient(tracking_uri=uri)
                found = self.client.get_experiment_by_name(experiment)
                self.experiment_id = str(
                    found.experiment_id
                    if found is not None
                    else self.client.create_experiment(
                        experiment, artifact_location=artifacts.as_uri()
                    )
                )
            except MlflowException as error:
                raise refuses(error, uri) from None

    def find_or_create(self, query: str, tags: dict[str, str], *, start_ms: int) -> Any:
        """The one run that a query means.

        When the reply of a create is lost, MLflow's client asks again, and the store holds twins.
        So what was created is looked for once more.
        """
        found = self.find(query)
        if found is not None:
            return found
        run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=tags)
        return self.find(query) or run

    def find(self, query: str) -> Any:
        """The run of a query or None; its empty twins are deleted."""
        runs = self.client.search_runs([self.experiment_id], query, max_results=100)
        if not runs:
            return None
        kept = max(runs, key=lambda run: (len(run.data.metrics), run.info.run_id))
        for twin in runs:
            if twin is not kept and not twin.data.metrics:
                self.client.delete_run(twin.info.run_id)
        return kept

    def log_metrics(self, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
        """Log (name, value, time in ms, step); what is there already is not stored twice."""
        from mlflow.entities import Metric

        for start in range(0, len(metrics), BATCH):
            batch = [Metric(*item) for item in metrics[start : start + BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters as text, once: MLflow refuses another value."""
        from mlflow.entities import Param

        self.client.log_batch(
            run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()]
        )

    def log_dataset(self, run_id: str, data: Mapping[str, Any]) -> None:
        """Log what a run was trained on."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=str(data["source"])[:500],
            digest=data["digest"][:36],
            source_type="local",
            source=json.dumps({"source": data["source"], "tokenizer": data["tokenizer"]}),
            profile=json.dumps(data, sort_keys=True),
        )
        tag = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep alembic's and MLflow's progress notes out of the terminal, and its telemetry off."""
    os.environ.update(_ENVIRONMENT)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield


def refuses(error: Exception, uri: str) -> EnvironmentUnusable:
    """The error of a store that does not answer, without what it quotes of user and password."""
    said = str(error).splitlines()[0][:200]
    return EnvironmentUnusable(
        Fault(
            code="SWP-3006",
            rule=f"the MLflow store must answer: {scrubbed(said)}",
            place=redacted(uri),
            remedy="check the URI, the network, and MLFLOW_TRACKING_USERNAME and _PASSWORD",
        )
    )


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
    if not uri.startswith(SQLITE):
        return
    path = Path(uri.removeprefix(SQLITE))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600))
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=f"{SQLITE}{fresh}").search_experiments(max_results=1)
    fresh.replace(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")

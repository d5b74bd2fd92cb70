"""Runs of any MLflow experiment, read as they stand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from orchestrator.tracking.store import SQLITE, quiet, refuses

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


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
        uri: tracking URI; a local file of a store is taken for SQLite, a folder for MLflow's
            older store of files.
        experiment: its name.

    Raises:
        StoreError: when there is no such store or experiment.
        EnvironmentUnusable: when the store does not answer.
    """
    if "://" not in uri and Path(uri).is_file():
        uri = f"{SQLITE}{Path(uri).resolve()}"
    local = uri.startswith(SQLITE)
    if local and not Path(uri.removeprefix(SQLITE)).is_file():
        raise StoreError("the MLflow store must exist", remedy="check the path of the database")
    if uri.startswith("file:") or Path(uri).is_dir():
        _allow_files(Path(unquote(urlparse(uri).path)))
    with quiet():
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
            raise refuses(error, uri) from None


def _allow_files(folder: Path) -> None:
    """Let MLflow open its older store, a folder of files, which it does not unless told to.

    Raises:
        StoreError: when the folder is no store; MLflow would make one of it.
    """
    if not any(folder.glob("*/meta.yaml")):
        raise StoreError(
            "the MLflow store must exist",
            remedy="name the folder whose folders of experiments hold a meta.yaml, often `mlruns`",
        )
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")


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

"""The runs of a sweep in MLflow, drawn from its journal.

One parent run per sweep and one per search for a recipe, one child per trial, found by their tags
and created once. Everything logged carries the identity it has in the sweep (trial_id, step, and
the time in the trial's own record), so projecting again adds nothing. The trainer never waits for
it: one thread of the driver reads the trials' files and writes in batches, and a tracker that is
away is caught up with later (`sweep sync`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.collect import row
from orchestrator.state import SweepState, TrialState, TrialStatus
from orchestrator.sweep_files import FIRST_BATCH, last_metrics, metric_lines
from orchestrator.tracking.note import run_note
from orchestrator.tracking.store import ROW_TAG, Store, quiet
from trainer.flops import training_flops_per_token
from trainer.result import OBSERVATION_NAMES
from trainer.shapes import count_parameters

_METRIC_NAMES = {
    "loss": "train/loss",
    # For the x axis of a chart: losses against tokens or compute instead of steps.
    "tokens": "train/tokens",
    "flops": "train/flops",
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
        self.store = Store(uri=uri, experiment=experiment, artifacts=artifacts)
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
        return self.store.experiment_id

    def sync(self, state: SweepState) -> None:
        """Bring the store up to the journal and the trials' files."""
        if state.opened is None:
            return
        with quiet():
            parent = self._parent(state)
            self._sync_examination(parent, state)
            for trial in state.trials.values():
                if trial.attempts or trial.result is not None:
                    self._sync_trial(parent, state, trial)

    def finish(self, state: SweepState, *, note: str, report: Path | None) -> None:
        """Close the sweep's run.

        Args:
            state: the sweep, or the search for its recipe.
            note: the answer; empty leaves the note that is there.
            report: folder of the report, or the picture of a recipe; None, or one that is not
                there, without one.
        """
        self.sync(state)
        if self._parent_id is None:
            return
        with quiet():
            if note:
                self.store.client.set_tag(self._parent_id, "mlflow.note.content", note)
            stamp = int(state.opened_at * 1000)
            self.store.log_metrics(
                self._parent_id, [(k, float(v), stamp, 0) for k, v in _summary(state).items()]
            )
            if state.fit is not None:
                self.store.client.set_tag(self._parent_id, "sweep.verdict", state.fit["status"])
            if report is not None and report.is_dir():
                self.store.client.log_artifacts(self._parent_id, str(report), "report")
            elif report is not None and report.is_file():
                self.store.client.log_artifact(self._parent_id, str(report))
            if state.finished:
                self.store.client.set_terminated(self._parent_id, "FINISHED")

    def log_model(self, state: SweepState, trial: TrialState, folder: Path) -> None:
        """Hand over an exported model as `model/` of its trial's run; again adds nothing.

        Args:
            state: the sweep.
            trial: a finished trial of it.
            folder: the model, as a `transformers` folder.
        """
        self.sync(state)
        with quiet():
            run_id = self._runs[trial.trial_id].run_id
            self.store.client.log_artifacts(run_id, str(folder), "model")

    def _parent(self, state: SweepState) -> str:
        if self._parent_id is None:
            assert state.opened is not None
            sweep_id, name = state.opened["sweep_id"], state.opened["name"]
            # The search for a recipe is named `SWEEP/tuning`, and is a run of its own: its sweep
            # may never begin.
            shown = name.replace("/", " · ")
            tags = {"sweep.id": sweep_id, "sweep.name": name, "mlflow.runName": shown}
            run = self.store.find_or_create(
                f"tags.`sweep.id` = '{sweep_id}'", tags, start_ms=int(state.opened_at * 1000)
            )
            parent_id = str(run.info.run_id)
            # The data set last, as below.
            if run.inputs is None or not run.inputs.dataset_inputs:
                self.store.log_params(parent_id, _flat(state.opened["science"]))
                self.store.log_dataset(parent_id, state.opened["data"])
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
        self.store.client.set_tag(parent, "sweep.checks", f"{good} of {len(checks)} passed")
        self.store.client.log_text(parent, text + "\n", "checks.txt")
        if (self._sweep_dir / FIRST_BATCH).exists():
            self.store.client.log_artifact(parent, str(self._sweep_dir / FIRST_BATCH))
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
        assert state.opened is not None
        query = (
            f"tags.`sweep.trial_id` = '{trial.trial_id}' and tags.`mlflow.parentRunId` = '{parent}'"
        )
        tags = {
            "mlflow.parentRunId": parent,
            "mlflow.runName": trial.label,
            "sweep.trial_id": trial.trial_id,
            "sweep.level": str(trial.level),
            "sweep.purpose": trial.purpose.value,
        }
        run = self.store.find_or_create(query, tags, start_ms=self._started_ms(state, trial))
        run_id = str(run.info.run_id)
        # The data set is logged last: where it is missing, so may be what comes before it.
        if run.inputs is None or not run.inputs.dataset_inputs:
            config = json.loads(trial.config.to_json())
            self.store.log_params(run_id, {**_plain(trial), **_flat(config)})
            self.store.log_dataset(run_id, state.opened["data"])
        # The last step again: a batch may have ended within it, and nothing is stored twice.
        last = self._last_step(run_id) - 1
        return _Child(run_id, step=last, closed=run.info.status != "RUNNING")

    def _close_child(self, child: _Child, state: SweepState, trial: TrialState) -> None:
        assert state.opened is not None
        record = row(trial, unique_tokens=state.opened["data"]["train_tokens"])
        summary = {
            # A step of a search has a loss too, though it is no row of the fit.
            "final_loss": trial.result.loss if trial.result else None,
            "final_bits_per_byte": trial.result.bpb if trial.result else None,
            "params_matmul": record["params_matmul"],
            "params_total": record["params_total"],
            "tokens": record["tokens"],
            "tokens_per_parameter": record["tokens"] / record["params_matmul"],
            "flops": record["flops"],
            "wall_s": record["wall_s"],
            "tokens_per_s": record["tokens_per_s"],
        }
        if trial.result is not None and trial.result.peak_memory_bytes:
            summary["system/peak_memory_megabytes"] = trial.result.peak_memory_bytes / 1e6
        stamp = self._last_ms(state, trial)
        self._log_observations(child.run_id, trial.trial_id)
        self.store.log_metrics(
            child.run_id, [(k, float(v), stamp, 0) for k, v in summary.items() if v is not None]
        )
        self.store.client.set_tag(child.run_id, "sweep.status", trial.status.value)
        self.store.client.set_tag(child.run_id, "mlflow.note.content", run_note(trial, record))
        self.store.client.set_tag(child.run_id, ROW_TAG, json.dumps(record))
        if trial.reason:
            self.store.client.set_tag(child.run_id, "sweep.reason", trial.reason[:4000])
        if trial.cached_from:
            self.store.client.set_tag(child.run_id, "sweep.cached_from", trial.cached_from)
        self.store.client.set_terminated(child.run_id, _RUN_STATUS[trial.status], end_time=stamp)
        child.closed = True

    def _log_observations(self, run_id: str, trial_id: str) -> None:
        """Hand over what the trained model says; a trial that never ended well has none of it."""
        folder = self._sweep_dir / "trials" / trial_id
        for name in OBSERVATION_NAMES:
            if (folder / name).exists():
                self.store.client.log_artifact(run_id, str(folder / name))

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
        self.store.log_metrics(child.run_id, metrics)
        return last

    def _last_step(self, run_id: str) -> int:
        history = self.store.client.get_metric_history(run_id, "train/loss")
        evaluated = self.store.client.get_metric_history(run_id, "validation/loss")
        places = [2 * item.step for item in history] + [2 * item.step + 1 for item in evaluated]
        return max(places, default=-1)

    def _started_ms(self, state: SweepState, trial: TrialState) -> int:
        if trial.started_at:
            return int(trial.started_at * 1000)
        # Another sweep has trained it.
        first = next(metric_lines(self._sweep_dir, trial.trial_id), None)
        return int((first["time"] if first else state.opened_at) * 1000)

    def _last_ms(self, state: SweepState, trial: TrialState) -> int:
        started = self._started_ms(state, trial)
        last = last_metrics(self._sweep_dir, trial.trial_id)
        # What it continues from another trial was trained before it started.
        return max(started, int(last["time"] * 1000)) if last else started


class _Child:
    """A trial's run: what is already in the store."""

    __slots__ = ("closed", "run_id", "step")

    def __init__(self, run_id: str, *, step: int, closed: bool) -> None:
        self.run_id, self.step, self.closed = run_id, step, closed


def _summary(state: SweepState) -> dict[str, float]:
    """Metrics of the sweep's own run: what sweeps are compared by."""
    fit = state.fit or {}
    low, high = fit.get("interval") or (None, None)
    found = {
        "charged_flops": state.charged_flops,
        "runs_in_fit": fit.get("n_points"),
        "tokens_per_parameter": fit.get("tokens_per_parameter"),
        "tokens_per_parameter_low": low,
        "tokens_per_parameter_high": high,
        "target_flops": fit.get("flops"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _plain(trial: TrialState) -> dict[str, Any]:
    """What a person tells runs apart by, under short names that come first in MLflow's lists."""
    config = trial.config
    counts = count_parameters(config.shape)
    return {
        "N": counts.matmul,
        "D": config.tokens,
        "D_per_N": f"{config.tokens / counts.matmul:.4g}",
        "C": f"{training_flops_per_token(config.shape).total * config.tokens:.4g}",
        "level": trial.level,
        "batch": config.batch_tokens,
        "rate": f"{config.optimizer.learning_rate:.4g}",
        "steps": config.steps,
        "seed": config.seed,
    }


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""Trials as Ray Tune trials, on this machine or on a cluster.

One long-lived Tuner per sweep, fed by a search algorithm that hands out jobs as the service submits
them; workers stay warm between jobs of equal size (`reuse_actors`). Tune's own state is never
restored: what is left to do follows from the journal. Whatever Ray would print goes to a log file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import secrets
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentUnusable, Fault
from orchestrator.executors.base import TEMPORARY, ExecutorEvent, Finished, Job
from orchestrator.executors.ray_cluster import (
    PRIVATE,
    QUIET,
    connect,
    living_nodes,
    refuse_early_import,
    refuse_greed,
)
from orchestrator.executors.tune_hooks import event_callback, job_feed, races
from orchestrator.executors.worker import Ended, run_all

# Ray reads it once in a process: a second private Ray there must have the same.
_TOKEN = secrets.token_hex(32)

OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's shared memory: results are small, tokens are read from disk."""
CLOSE_TIMEOUT_S = 60.0
"""How long the end of a sweep waits for Tune before Ray is shut down under it."""


class RayTuneExecutor:
    """Runs jobs in Ray Tune workers."""

    def __init__(
        self,
        *,
        slots: int,
        cpus: int,
        gpus: int,
        log_dir: Path,
        address: str | None = None,
        warm: bool = True,
    ) -> None:
        """Describe the resources; nothing starts before the context is entered.

        Args:
            slots: trials at a time.
            cpus: cores that a private Ray may use (ignored with `address`).
            gpus: GPUs that a private Ray may use (ignored with `address`).
            log_dir: folder for Ray's chatter.
            address: a running cluster to join; None starts a private one on this machine.
            warm: whether a worker takes the next job when it has done one. Only where all jobs ask
                for the same resources: Tune holds those of a warm worker for its next job,
                and one that asks for others may wait for them.
        """
        self._slots = slots
        self._cpus = cpus
        self._gpus = gpus
        self._address = address
        self._warm = warm
        self._log = log_dir / "ray.log"
        self._events: queue.SimpleQueue[ExecutorEvent] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._placed: dict[str, Any] = {}
        self._temporary: Path | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._streams = contextlib.ExitStack()
        self._nodes: list[dict[str, float]] = []

    def __enter__(self) -> RayTuneExecutor:
        """Start or join Ray and the Tuner.

        Raises:
            EnvironmentUnusable: when Ray does not start or the cluster does not answer.
        """
        if self._address is None:
            refuse_early_import()
        self._temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY))
        os.environ.update(QUIET)
        log = self._streams.enter_context(self._log.open("a"))
        self._streams.enter_context(contextlib.redirect_stdout(log))
        self._streams.enter_context(contextlib.redirect_stderr(log))
        try:
            self._start_ray()
            self._start_tune()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End Tune and, where it was private, Ray; remove its temporary folder."""
        import ray

        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        ray.shutdown()
        self._streams.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def submit(self, job: Job) -> None:
        """Queue a job, after checking that the cluster can ever run it.

        Raises:
            EnvironmentUnusable: when it asks for more than there is; Ray would wait for ever.
        """
        refuse_greed(self._nodes, cpus=job.cpus, gpus=job.gpus)
        self._jobs.put(job)

    def kill(self, trial_id: str) -> None:
        """End a trial's worker; Ray does it by force when the worker does not answer."""
        import ray

        trial = self._placed.get(trial_id)
        worker = trial.temporary_state.ray_actor if trial is not None else None
        if worker is not None:
            ray.kill(worker)

    def next_event(self, timeout_s: float) -> ExecutorEvent | None:
        """The next thing that happened, or None after `timeout_s` seconds.

        Raises:
            EnvironmentUnusable: when Tune itself has ended with an error.
        """
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            if self._thread is not None and not self._thread.is_alive():
                raise EnvironmentUnusable(
                    Fault(
                        code="SWP-3003",
                        rule=f"Ray Tune must run as long as the sweep; it ended: {self._failure}",
                        place=str(self._log),
                        remedy="run the same command again: finished trials are kept",
                    )
                ) from self._failure
            return None

    def _start_ray(self) -> None:
        assert self._temporary is not None
        if self._address is None:
            token = self._temporary / "token"
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(_TOKEN)
            os.environ.update(PRIVATE, RAY_AUTH_TOKEN_PATH=str(token))
            os.environ.pop("RAY_ADDRESS", None)
        private = {
            "address": "local",
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(self._temporary / "ray"),
        }
        connect(self._address, private if self._address is None else None)
        self._nodes = living_nodes()

    def _start_tune(self) -> None:
        from ray import tune

        assert self._temporary is not None
        trainable = tune.with_resources(
            _run_in_worker,
            lambda config: tune.PlacementGroupFactory(
                [{"CPU": config["cpus"], "GPU": config["gpus"]}]
            ),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=job_feed(self._jobs),
                scheduler=races(),
                num_samples=-1,
                max_concurrent_trials=self._slots,
                reuse_actors=self._warm,
                trial_name_creator=lambda trial: trial.config["job"].trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(self._temporary / "tune"),
                verbose=0,
                callbacks=[event_callback(self._events, self._placed)],
            ),
        )

        def fit() -> None:
            try:
                tuner.fit()
            except BaseException as error:  # noqa: BLE001 - reported by next_event
                self._failure = error

        self._thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
        self._thread.start()


def _run_in_worker(config: dict[str, Any]) -> None:
    """The Tune trainable: one job, reported at the rungs of its race and at each trial's end."""
    from ray import tune

    def at_rung(percent: int, loss: float) -> None:
        # Tune ends the thread here (SystemExit) when its scheduler says so.
        tune.report({"objective": 0.0, "percent": percent, "loss": loss})

    def over(outcome: Ended) -> None:
        told: dict[str, Any] = {"objective": 0.0, "trial": outcome.trial_id}
        if isinstance(outcome, Finished):
            # As text: plain values survive whatever Tune does to a report.
            tune.report({**told, "finished": outcome.result.to_json()})
        else:
            record = dataclasses.asdict(outcome)
            tune.report({**told, "ended": type(outcome).__name__, "record": record})

    run_all(config["job"], over, at_rung=at_rung)

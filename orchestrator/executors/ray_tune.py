"""Trials as Ray Tune trials, on this machine or on a cluster. The only file that imports ray.

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
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentUnusable, Fault
from orchestrator.executors.base import (
    TEMPORARY,
    AtRung,
    Blocked,
    ExecutorEvent,
    Finished,
    Interrupted,
    Job,
    Lost,
    Pruned,
    Started,
)
from orchestrator.executors.worker import Ended, run_all
from orchestrator.hardware import beyond
from orchestrator.pruning import FACTOR, RUNGS

# Read by Ray at import. Loopback only: without the multi-node switch a private Ray takes 127.0.0.1
# as its address, and its servers then bind to it alone (measured with 2.60: no other socket).
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray reads it once in a process: a second private Ray there must have the same.
_TOKEN = secrets.token_hex(32)

OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's shared memory: results are small, tokens are read from disk."""
CLOSE_TIMEOUT_S = 60.0
"""How long the end of a sweep waits for Tune before Ray is shut down under it."""


KNOCK_TIMEOUT_S = 5.0
"""How long a cluster's address may take to accept a connection."""


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
            _refuse_early_import()
        self._temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY))
        os.environ.update(_QUIET)
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
        _refuse_greed(self._nodes, cpus=job.cpus, gpus=job.gpus)
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
            os.environ.update(_PRIVATE, RAY_AUTH_TOKEN_PATH=str(token))
            os.environ.pop("RAY_ADDRESS", None)
        private = {
            "address": "local",
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(self._temporary / "ray"),
        }
        _connect(self._address, private if self._address is None else None)
        self._nodes = _nodes()

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
                search_alg=_job_feed(self._jobs),
                scheduler=_races(),
                num_samples=-1,
                max_concurrent_trials=self._slots,
                reuse_actors=self._warm,
                trial_name_creator=lambda trial: trial.config["job"].trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(self._temporary / "tune"),
                verbose=0,
                callbacks=[_event_callback(self._events, self._placed)],
            ),
        )

        def fit() -> None:
            try:
                tuner.fit()
            except BaseException as error:  # noqa: BLE001 - reported by next_event
                self._failure = error

        self._thread = threading.Thread(target=fit, name="ray-tune", daemon=True)
        self._thread.start()


def _refuse_early_import() -> None:
    """See that this process has not imported Ray before a private one's settings were made.

    Raises:
        EnvironmentUnusable: when it has: Ray reads at import how it guards itself and where it
            listens, and would start without its token and off loopback.
    """
    if "ray" not in sys.modules or all(os.environ.get(key) == _PRIVATE[key] for key in _PRIVATE):
        return
    settings = " ".join(f"{key}={value}" for key, value in _PRIVATE.items())
    raise EnvironmentUnusable(
        Fault(
            code="SWP-3001",
            rule="a private Ray must be set up before Ray is imported; this process has it already",
            place="run.executor",
            remedy=f"import it later, or set {settings} before Python starts",
        )
    )


def check_cluster(address: str, *, cpus: float, gpus: float, together: float) -> None:
    """See that a cluster answers and could run a sweep, before anything of it begins.

    Args:
        address: the cluster's.
        cpus: cores of one trial.
        gpus: GPUs of the trial that asks for most.
        together: GPUs of all trials that run at a time.

    Raises:
        EnvironmentUnusable: when it does not answer, has no node for a trial, or fewer GPUs than
            the trials need together.
    """
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        os.environ.update(_QUIET)
        _connect(address)
        import ray

        try:
            nodes = _nodes()
        finally:
            ray.shutdown()
    _refuse_greed(nodes, cpus=cpus, gpus=gpus)
    there = sum(node.get("GPU", 0.0) for node in nodes)
    if together > there:
        who = "a sweep with so many trials at a time"
        raise beyond("GPU", together, there, who=who, where="the cluster")


def _connect(address: str | None, private: dict[str, Any] | None = None) -> None:
    """Join a cluster, or start a private Ray.

    Raises:
        EnvironmentUnusable: when it does not answer.
    """
    import ray

    options = {"logging_level": "ERROR", "log_to_driver": False, **(private or {})}
    if address is not None:
        options["address"] = address
    try:
        if address is not None:
            _knock(address)
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "a private Ray on this machine"
        raise EnvironmentUnusable(
            Fault(
                code="SWP-3001",
                rule=f"Ray must be reachable: {where} did not answer ({error})".splitlines()[0],
                place="run.address",
                remedy="check the address, or run without Ray: `run: {executor: inline}`",
            )
        ) from error


def _nodes() -> list[dict[str, float]]:
    """What each living node has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _refuse_greed(nodes: list[dict[str, float]], *, cpus: float, gpus: float) -> None:
    """See that one node has what one trial asks for.

    Raises:
        EnvironmentUnusable: when none does.
    """
    wanted = {"CPU": cpus, "GPU": gpus}
    if any(all(node.get(kind, 0.0) >= count for kind, count in wanted.items()) for node in nodes):
        return
    largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in wanted}
    for kind, count in wanted.items():
        if count > largest[kind]:
            where = "the largest node of the cluster"
            raise beyond(kind, count, largest[kind], who="a trial", where=where)
    cores = max(
        (node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus), default=0.0
    )
    where = "the largest node with its GPUs"
    raise beyond("CPU", cpus, cores, who="a trial", where=where)


def _knock(address: str) -> None:
    """See that something listens at a cluster's address: Ray itself would try for minutes.

    Raises:
        OSError: when nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()


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


def _job_feed(jobs: queue.SimpleQueue[Job | None]) -> Any:
    """A search algorithm that suggests submitted jobs in their order, until it is closed."""
    from ray.tune.search import Searcher

    class JobFeed(Searcher):
        def __init__(self, queued: queue.SimpleQueue[Job | None]) -> None:
            super().__init__(metric="objective", mode="min")
            self._queued = queued

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its searcher for a restore that never happens

        def suggest(self, trial_id: str) -> Any:
            try:
                job = self._queued.get_nowait()
            except queue.Empty:
                return None  # nothing now: Tune asks again
            if job is None:
                return Searcher.FINISHED
            return {"job": job, "cpus": job.cpus, "gpus": job.gpus}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    return JobFeed(jobs)


def _races() -> Any:
    """A Tune scheduler that gives every race an `ASHAScheduler` of its own.

    It knows trials by our identity, so that one whose worker died is not compared with itself, and
    what happened before a restart is told to it first.
    """
    from types import SimpleNamespace

    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

    class Races(FIFOScheduler):
        def __init__(self) -> None:
            super().__init__()
            self._groups: dict[str, ASHAScheduler] = {}
            self._known: set[tuple[str, str, int]] = set()

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            race = trial.config["job"].race
            if race is None:
                return
            asha = self._groups.setdefault(
                race.group,
                ASHAScheduler(
                    time_attr="percent",
                    metric="loss",
                    mode="min",
                    max_t=100,
                    grace_period=RUNGS[0],
                    reduction_factor=FACTOR,
                ),
            )
            for trial_id, percent, loss in race.earlier:
                self._told(tune_controller, asha, race.group, trial_id, percent, loss)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
            job = trial.config["job"]
            if job.race is None or "percent" not in result:
                return str(TrialScheduler.CONTINUE)
            asha = self._groups[job.race.group]
            decision = self._told(
                tune_controller,
                asha,
                job.race.group,
                job.trial_id,
                result["percent"],
                result["loss"],
            )
            return str(TrialScheduler.CONTINUE) if job.race.protected else decision

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
            pass

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            pass

        def _told(
            self,
            controller: Any,
            asha: Any,
            group: str,
            trial_id: str,
            percent: int,
            loss: float,
        ) -> str:
            if (group, trial_id, percent) in self._known:
                return str(TrialScheduler.CONTINUE)
            self._known.add((group, trial_id, percent))
            known = SimpleNamespace(trial_id=trial_id)
            asha.on_trial_add(controller, known)
            return str(asha.on_trial_result(controller, known, {"percent": percent, "loss": loss}))

    return Races()


def _event_callback(events: queue.SimpleQueue[ExecutorEvent], placed: dict[str, Any]) -> Any:
    """A Tune callback that turns what happens to trials into executor events.

    Args:
        events: where they go.
        placed: filled with the Tune trial of each job that runs, by the job's identity.
    """
    from ray import tune

    from trainer.result import RunResult

    class Events(tune.Callback):
        def __init__(self, sink: queue.SimpleQueue[ExecutorEvent]) -> None:
            self._sink = sink
            self._running: dict[str, list[str]] = {}

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_start(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            members = [job.trial_id for job in trial.config["job"].members]
            self._running[trial.trial_id] = members
            for trial_id in members:
                placed[trial_id] = trial
                self._sink.put(Started(trial_id=trial_id))

        def on_trial_result(
            self, iteration: int, trials: list, trial: Any, result: dict, **_: Any
        ) -> None:
            if "percent" in result:
                self._sink.put(
                    AtRung(
                        trial_id=trial.config["job"].trial_id,
                        percent=result["percent"],
                        loss=result["loss"],
                    )
                )
            else:
                self._over(trial, result)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            report = trial.last_result or {}
            # Tune's statistics of every number of a report are most of what a trial that is over
            # holds in the driver's memory; nobody asks for them.
            trial.metric_analysis.clear()
            trial.metric_n_steps.clear()
            if "percent" in report:
                self._sink.put(Pruned(trial_id=trial.config["job"].trial_id))
                return
            self._over(trial, report)
            # Tune calls a trial that never reported a success; it is not one.
            self._lost(trial, "its worker ended without a report")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            self._lost(trial, "its worker died")

        def _over(self, trial: Any, report: dict) -> None:
            """Tell the end that a report is about, once: Tune may show a report twice."""
            running = self._running.get(trial.trial_id, [])
            trial_id = report.get("trial", "")
            if trial_id not in running:
                return
            running.remove(trial_id)
            if "finished" in report:
                result = RunResult.from_json(report["finished"])
                self._sink.put(Finished(trial_id=trial_id, result=result))
            else:
                kind = {end.__name__: end for end in (Interrupted, Blocked, Lost)}[report["ended"]]
                self._sink.put(kind(**report["record"]))

        def _lost(self, trial: Any, reason: str) -> None:
            for trial_id in self._running.pop(trial.trial_id, ()):
                self._sink.put(Lost(trial_id=trial_id, reason=reason))

    return Events(events)

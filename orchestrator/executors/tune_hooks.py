"""What Ray Tune is given: jobs as suggestions, races as a scheduler, and a callback for events.

Classes are made inside functions: importing Ray takes seconds, and only a sweep on Ray needs it.
"""

from __future__ import annotations

import queue
from typing import Any

from orchestrator.executors.base import (
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
from orchestrator.pruning import FACTOR, RUNGS
from trainer.result import RunResult


def job_feed(jobs: queue.SimpleQueue[Job | None]) -> Any:
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


def races() -> Any:
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


def event_callback(events: queue.SimpleQueue[ExecutorEvent], placed: dict[str, Any]) -> Any:
    """A Tune callback that turns what happens to trials into executor events.

    Args:
        events: where they go.
        placed: filled with the Tune trial of each job that runs, by the job's identity.
    """
    from ray import tune

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

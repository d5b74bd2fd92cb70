"""What happens inside a worker: run one job and say how it ended, or how each of its stack did."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from orchestrator.executors.base import Blocked, Finished, Interrupted, Job, Lost
from orchestrator.executors.stored import at_hand
from orchestrator.journal import DISK_REFUSES
from orchestrator.pruning import LOG_POINTS, RUNGS
from orchestrator.secrecy import keep_private, scrubbed
from orchestrator.storage import StorageRefused
from trainer.result import Progress, RunResult, RunStatus

STOP_POLL_S = 0.5
"""How often a running trial looks for the stop file, seconds."""

Ended = Finished | Interrupted | Blocked | Lost
"""How a worker that lives can end a trial."""

_log = logging.getLogger(__name__)


def run_all(
    job: Job,
    tell: Callable[[Ended], None],
    *,
    at_rung: Callable[[int, float], None] | None = None,
) -> None:
    """Run a job, or all trials of its stack together, and tell the end of each when it comes.

    Where the job's files are at a storage, what is told of a trial is there first.

    Args:
        job: what to run.
        tell: told the end of every trial.
        at_rung: told the rung and the training loss when a trial in a race passes one; it ends the
            trial by raising what is no `Exception`.
    """
    try:
        with at_hand(job) as (local, send):

            def send_and_tell(outcome: Ended) -> None:
                try:
                    send()
                except StorageRefused as error:
                    outcome = _blocked(outcome.trial_id, error)
                tell(outcome)

            _run_here(local, send_and_tell, at_rung)
    except StorageRefused as error:
        for one in job.members:
            tell(_blocked(one.trial_id, error))


def _run_here(
    job: Job, tell: Callable[[Ended], None], at_rung: Callable[[int, float], None] | None
) -> None:
    """Run a job whose files are here.

    A stack that fails as a whole cannot say which of its trials is at fault. Its members then go on
    alone, one after the other, and each that fails says so in its own record.
    """
    if not job.stack:
        tell(run_job(job, at_rung=at_rung))
        return
    from trainer import members, run

    left = {one.trial_id: one for one in job.members}

    def over(result: RunResult) -> None:
        del left[result.trial_id]
        tell(Finished(trial_id=result.trial_id, result=result))

    keep_private()
    try:
        members.run_members(
            [one.config for one in job.members],
            job.options,
            [one.out_dir for one in job.members],
            on_result=over,
            should_stop=_stop_when_asked(job.stop_file),
        )
    except run.Interrupted:
        for trial_id in left:
            tell(Interrupted(trial_id=trial_id))
    except Exception as error:  # noqa: BLE001 - told of each, or repeated by whose fault it is
        refused = _is_refusal(error)
        if not refused:
            _log.warning("a stack of %d trials failed; each goes on alone: %r", len(left), error)
        for one in left.values():
            tell(_blocked(one.trial_id, error) if refused else run_job(one))


def run_job(job: Job, *, at_rung: Callable[[int, float], None] | None = None) -> Ended:
    """Train one trial, whose files are here, to its end.

    An error of the trial itself is part of its record: the sweep goes on without it, and trying
    again would only repeat it. The death of the process is the one end that leaves no record; that
    of another process of the trial is told.

    Args:
        job: the trial; its stack is left aside.
        at_rung: as of `run_all`.
    """
    # Imported here: the driver, which never trains, must not pay for torch.
    from trainer import run, together

    try:
        result = together.run_together(
            job.config,
            job.options,
            job.out_dir,
            job.processes,
            on_progress=_rung_reporter(at_rung) if job.race and at_rung else None,
            should_stop=_stop_when_asked(job.stop_file),
        )
    except run.Interrupted:
        return Interrupted(trial_id=job.trial_id)
    except together.CompanionDied as error:
        return Lost(trial_id=job.trial_id, reason=str(error))
    except Exception as error:  # noqa: BLE001 - recorded as the trial's result, with its trace
        if _is_refusal(error):
            # This says nothing of the trial: it goes on once the disk takes more.
            return _blocked(job.trial_id, error)
        job.out_dir.mkdir(parents=True, exist_ok=True)
        (job.out_dir / "error.txt").write_text(scrubbed(traceback.format_exc()))
        message = scrubbed(f"{type(error).__name__}: {error}")
        result = RunResult(trial_id=job.trial_id, status=RunStatus.FAILED, message=message)
    return Finished(trial_id=job.trial_id, result=result)


def _is_refusal(error: Exception) -> bool:
    """Whether an error is the disk's."""
    return isinstance(error, OSError) and error.errno in DISK_REFUSES


def _blocked(trial_id: str, error: Exception) -> Blocked:
    if isinstance(error, OSError):
        reason = f"{error.filename or 'a disk'}: {error.strerror}"
        return Blocked(trial_id=trial_id, reason=reason)
    return Blocked(trial_id=trial_id, reason=str(error), by_storage=True)


def _rung_reporter(at_rung: Callable[[int, float], None]) -> Callable[[Progress], None]:
    """Tells each rung at the logged point that passes it, unless that was in an earlier life."""
    interval = 100 / LOG_POINTS

    def on_progress(progress: Progress) -> None:
        percent = 100 * progress.step / progress.steps
        for rung in RUNGS:
            if rung <= percent < rung + interval:
                at_rung(rung, progress.loss)

    return on_progress


def _stop_when_asked(stop_file: Path) -> Callable[[], bool]:
    next_look = 0.0

    def should_stop() -> bool:
        nonlocal next_look
        now = time.monotonic()
        if now < next_look:
            return False
        next_look = now + STOP_POLL_S
        return stop_file.exists()

    return should_stop

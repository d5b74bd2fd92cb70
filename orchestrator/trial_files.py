"""What the files of trials say: how far one is, what it cost, whether another sweep paid for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.board import Running
from orchestrator.sweep_files import last_metrics
from trainer.result import RunResult, RunStatus


def progress_of(sweep_dir: Path, trial_id: str) -> Running:
    """Latest measurements of a running trial."""
    last = last_metrics(sweep_dir, trial_id) or {}
    return Running(
        step=last.get("step", 0),
        loss=last.get("loss"),
        tokens_per_s=last.get("tokens_per_s") or 0.0,
    )


def steps_executed(folder: Path) -> int:
    """Optimiser steps that a trial has executed over all attempts, as far as it could say."""
    try:
        return int(json.loads((folder / "attempts.json").read_bytes())["steps_executed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def steps_in_all(folder: Path, *, steps: int) -> int:
    """Steps that a trial will have executed when it is over, if nothing more happens to it.

    Args:
        folder: the trial's.
        steps: steps of the whole trial; what lies behind its newest checkpoint is to be done.
    """
    saved = [
        int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/step-*.json")
    ]
    return steps_executed(folder) + steps - max(saved, default=0)


def paid_elsewhere(outputs: Path, sweep_dir: Path, trial_id: str) -> tuple[Path, RunResult] | None:
    """Another sweep's folder, and the completed result that it holds for a trial."""
    for path in sorted(outputs.glob(f"*/trials/{trial_id}/result.json")):
        source = path.parents[2]
        if os.path.samefile(source, sweep_dir):
            continue
        result = RunResult.from_json(path.read_text())
        if result.status is RunStatus.COMPLETED and result.trial_id == trial_id:
            return source, result
    return None


def paid_for(outputs: Path, trial_id: str) -> bool:
    """Whether any sweep of a folder holds the completed result of a trial."""
    paths = outputs.glob(f"*/trials/{trial_id}/result.json")
    return any(
        RunResult.from_json(path.read_text()).status is RunStatus.COMPLETED for path in paths
    )

"""From a predicted optimum to a configuration that the trainer takes as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.budget import parse_budget
from orchestrator.data import DATA_FOLDER
from orchestrator.designs.base import Centre, Point, Round
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state, write_atomic
from orchestrator.lattice import nearest_shape
from orchestrator.measurements import Measurements
from orchestrator.throughput import CPU_CORE
from orchestrator.trial import Hardware, Notes, Trial, plan_trial
from trainer.data.facts import DataFacts
from trainer.data.manifest import MANIFEST_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadyRun:
    """A run that can be started, and what to know about it."""

    trial: Trial
    """The run under the sweep's own rules: shape, rate, batch, schedule."""
    data_dir: Path | None
    """The sweep's token files; None where they are gone."""
    remarks: tuple[str, ...]
    """What a person should know before paying for it."""


def ready_run(runs: Measurements, record: dict[str, Any]) -> ReadyRun:
    """The predicted optimum as a trial of the sweep's family, data and recipe.

    Args:
        runs: a sweep.
        record: of `orchestrator.forecast.predict`.

    Raises:
        BadInput: for a table, which has no family; or when no shape or step count fits.
    """
    if runs.sweep_dir is None:
        raise _refused(
            "a configuration needs a sweep's model family, data and recipe; a table has none",
            runs.name,
            "predict from the sweep itself",
        )
    state = read_state(runs.sweep_dir)
    assert state.opened is not None
    file = runs.sweep_dir / "budget.yaml"
    budget = parse_budget(file.read_text(), file=str(file))
    sample = next(iter(state.trials.values())).config
    data = state.opened["data"]
    facts = DataFacts(
        train_tokens=data["train_tokens"],
        validation_tokens=sample.validation_tokens + 1,
        vocab_size=sample.shape.vocab_size,
        bytes_per_token=data["bytes_per_token"],
        digest=data["digest"],
        exact=True,
    )
    shape = nearest_shape(budget.model, facts.vocab_size, record["params"])
    if shape is None:
        raise _refused(
            f"no shape of the family lies within a factor of 2 of {record['params']:.3g} "
            "parameters",
            str(file),
            "widen model.shapes, or ask for another target",
        )
    exact = record["asked"] == ["params", "tokens"]
    point = Point(
        params=record["params"],
        tokens=record["tokens"] if exact else None,
        flops=None if exact else record["flops"],
    )
    asked = Round(
        number=1,
        flops=record["flops"],
        centre=Centre(tokens_per_parameter=record["tokens"] / record["params"], reason="predicted"),
        even=False,
        points=(point,),
    )
    notes = Notes()
    hardware = Hardware(slots=1, throughput=CPU_CORE, precision=sample.precision)
    trial = plan_trial(budget, facts, hardware, asked, point, shape, sample.seed, notes)
    if trial is None:
        raise _refused(
            "; ".join(notes.lines), str(file), "lower training.batch_tokens, or ask for more"
        )
    return ReadyRun(
        trial=trial,
        data_dir=_data_dir(runs.sweep_dir.parent / DATA_FOLDER, str(data["digest"])),
        remarks=(*notes.lines, *trial.notes, f"learning rate: {trial.learning_rate_source}"),
    )


def write_config(ready: ReadyRun, path: Path) -> None:
    """Write the configuration for `python -m trainer`.

    Raises:
        BadInput: when the file is there already.
    """
    if path.exists():
        raise _refused("a configuration does not replace a file", str(path), "name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, ready.trial.config.to_json() + "\n")


def _data_dir(store: Path, digest: str) -> Path | None:
    """The folder of token files with a digest."""
    for manifest in sorted(store.glob(f"*/{MANIFEST_NAME}")):
        if json.loads(manifest.read_text()).get("digest") == digest:
            return manifest.parent
    return None


def _refused(rule: str, place: str, remedy: str) -> BadInput:
    return BadInput(Fault(code="SWP-1342", rule=rule, place=place, remedy=remedy))

"""What is here: cores, GPUs, and how fast they have turned out to be."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.budget import Budget
from orchestrator.errors import BadInput, EnvironmentUnusable, Fault
from orchestrator.journal import write_atomic
from orchestrator.placement import ALL_SIZES, Placement
from orchestrator.state import TrialState
from orchestrator.throughput import CPU_CORE, GPU, StepTime, Throughput, calibrate
from orchestrator.trial import Hardware

HARDWARE_FILE = "hardware.json"
SCHEMA = "sweep.hardware/2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """This machine."""

    cores: int
    """CPU cores this process may use."""
    gpus: tuple[str, ...]
    """Names of the NVIDIA GPUs."""


def detect() -> Machine:
    """Look at this machine, without torch."""
    return Machine(cores=len(os.sched_getaffinity(0)), gpus=tuple(_gpu_names()))


def hardware_for(budget: Budget, outputs: Path, machine: Machine) -> Hardware:
    """Slots, speed and precision that a budget's trials will have.

    Raises:
        BadInput: when one trial asks for more than the whole machine has.
    """
    run, placement = budget.run, placement_of(budget, machine)
    if placement.on_gpus:
        devices = budget.budget.gpus or len(machine.gpus)
        prior, have = GPU, f"{devices} GPUs"
    else:
        devices = machine.cores
        prior, have = CPU_CORE, f"{devices} cores"
    fits = devices + 1e-9 >= placement.most or run.slots is not None
    slots = run.slots or int(devices / placement.least + 1e-9)
    if run.executor == "inline":
        slots = min(slots, 1)
    if not fits and run.address is None:
        raise BadInput(
            Fault(
                code="SWP-1202",
                rule=f"one trial must fit the machine: it asks for {placement.most:g} of {have}",
                place="run",
                remedy="lower run.cpus_per_trial, run.gpus_per_trial or run.gpus_by_size",
            )
        )
    return Hardware(
        slots=max(1, slots),
        throughput=_throughput(outputs, prior),
        precision="bf16" if placement.on_gpus else "fp32",
        placement=placement,
    )


def placement_of(budget: Budget, machine: Machine) -> Placement:
    """What one trial is given: what the budget says, else one GPU where there are any."""
    run = budget.run
    if run.gpus_by_size is not None:
        shares = tuple((share.up_to or ALL_SIZES, share.gpus) for share in run.gpus_by_size)
        return Placement(cpus=run.cpus_per_trial, gpus=shares)
    some = bool(machine.gpus or budget.budget.gpus)
    gpus = float(some) if run.gpus_per_trial is None else run.gpus_per_trial
    return Placement(cpus=run.cpus_per_trial, gpus=((ALL_SIZES, gpus),) if gpus else ())


def refuse_missing_gpus(budget: Budget, machine: Machine) -> None:
    """See that this machine has the GPUs that a sweep on it would use.

    Raises:
        EnvironmentUnusable: when it has fewer.
    """
    placement = placement_of(budget, machine)
    wanted = max(placement.most, budget.budget.gpus or 0) if placement.on_gpus else 0.0
    if budget.run.address is None and wanted > len(machine.gpus):
        raise beyond("GPU", wanted, len(machine.gpus), who="the budget", where="this machine")


def beyond(kind: str, wanted: float, have: float, *, who: str, where: str) -> EnvironmentUnusable:
    """The error of a request that can never be met; Ray would wait for ever.

    Args:
        kind: `CPU` or `GPU`.
        wanted: how many are asked for.
        have: how many there are.
        who: what asks.
        where: what does not have them.
    """
    return EnvironmentUnusable(
        Fault(
            code="SWP-3002",
            rule=f"{who} asks for {wanted:g} {kind}s, {where} has {have:g}",
            place="run",
            remedy="lower run.cpus_per_trial, run.gpus_per_trial, run.gpus_by_size, run.slots or "
            "budget.gpus, or name a larger cluster with run.address",
        )
    )


def remember(outputs: Path, prior: Throughput, trials: Iterable[TrialState]) -> Throughput:
    """Calibrate the throughput with finished trials and keep it for the next plan."""
    return keep(outputs, prior, [step for trial in trials if (step := _step_time(trial))])


def keep(outputs: Path, prior: Throughput, steps: Sequence[StepTime]) -> Throughput:
    """Calibrate the throughput with step times and keep it for the next plan."""
    measured = calibrate(prior, steps)
    if measured.measured:
        record = {"schema": SCHEMA, **dataclasses.asdict(measured)}
        outputs.mkdir(parents=True, exist_ok=True)
        write_atomic(outputs / HARDWARE_FILE, json.dumps(record, indent=2) + "\n")
    return measured


def _step_time(trial: TrialState) -> StepTime | None:
    result = trial.result
    if result is None or not result.is_datum or trial.cached_from or result.tokens_per_s <= 0:
        return None
    return StepTime(
        n_layer=trial.config.shape.n_layer,
        flops_per_step=trial.flops_per_step,
        seconds=trial.config.batch_tokens / result.tokens_per_s,
        devices=result.devices,
    )


def _throughput(outputs: Path, prior: Throughput) -> Throughput:
    """The kept measurement for this kind of device, else the prior."""
    path = outputs / HARDWARE_FILE
    if not path.exists():
        return prior
    record = json.loads(path.read_text())
    if record.pop("schema", None) != SCHEMA or record["device"] != prior.device:
        return prior
    return Throughput(**record)


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]

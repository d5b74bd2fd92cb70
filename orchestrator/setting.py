"""Everything that a run of a sweep needs to know, settled before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget
from orchestrator.data import PreparedData
from orchestrator.hardware import Machine
from orchestrator.plan import Plan
from orchestrator.trial import Hardware


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Everything a run of a sweep needs besides its budget."""

    budget: Budget
    """What was asked for."""
    budget_text: str
    """Its file, kept in the sweep directory as it was."""
    base: Path
    """The folder that relative paths in it are taken from, absolute."""
    plan: Plan
    """The plan that was agreed to."""
    sweep_dir: Path
    """The sweep's folder, absolute."""
    outputs: Path
    """The folder of all sweeps."""
    data: PreparedData
    """The prepared corpus."""
    hardware: Hardware
    """Slots and speed."""
    machine: Machine
    """Cores and GPUs."""
    precision_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds a step in each arithmetic, where that was measured to settle `precision: auto`."""
    kernels: tuple[Mapping[str, Any], ...] = ()
    """What was measured of the implementations, by width (`preflight.settle_kernels`); empty: the
    trainer's rule."""

"""How long a step takes: a model of this hardware in three numbers, and how it is calibrated.

    seconds per step = step_overhead + n_layer * layer_overhead
                       + FLOPs per step / (devices * flops_per_s)

Very small models spend most of a step outside of arithmetic, so their cost in time is far above
what their FLOPs say. The defaults are measured, and finished trials move them to the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Speed of one device of this hardware."""

    device: str
    """What one device is: `cpu core` or `gpu`."""
    flops_per_s: float
    """Arithmetic rate of one device for large matrices, FLOPs per second."""
    step_overhead_s: float
    """Time of a step that does not depend on the model, seconds."""
    layer_overhead_s: float
    """Time of a step per layer that does not depend on the width, seconds."""
    measured: bool
    """Whether the numbers come from this machine."""

    def step_s(self, *, n_layer: int, flops_per_step: float, devices: float = 1.0) -> float:
        """Expected duration of one step, seconds.

        Args:
            n_layer: depth of the model.
            flops_per_step: training FLOPs of the step.
            devices: what the run has of them; a part of one has that part of its rate.
        """
        overhead = self.step_overhead_s + n_layer * self.layer_overhead_s
        return overhead + flops_per_step / (devices * self.flops_per_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """One measured step time."""

    n_layer: int
    """Depth of the model."""
    flops_per_step: float
    """Training FLOPs of one step."""
    seconds: float
    """Mean duration of one step."""
    devices: float = 1.0
    """Devices that took it together, or the part of one."""


CPU_CORE = Throughput(
    device="cpu core",
    flops_per_s=5e10,
    step_overhead_s=3e-4,
    layer_overhead_s=1.5e-3,
    measured=False,
)
"""One core of a current server CPU, fp32, one thread: within a fifth of the measured step times of
byte-level models of width 8 to 40 and depth 1 to 5 at 1,024 tokens a step."""

GPU = Throughput(
    device="gpu",
    flops_per_s=1.5e14,
    step_overhead_s=2.0e-3,
    layer_overhead_s=3.0e-4,
    measured=False,
)
"""A data-centre GPU in bf16 at a moderate share of its peak: an assumption, until measured."""


def calibrate(prior: Throughput, steps: Sequence[StepTime]) -> Throughput:
    """Move a prior to measured step times.

    One or two measurements scale the prior as a whole; from three different sizes on, the
    overhead and the rate are scaled separately by least squares in relative error.

    Args:
        prior: what is known without the measurements.
        steps: measured step times; an empty sequence returns the prior.
    """
    if not steps:
        return prior
    overhead = np.array([prior.step_overhead_s + s.n_layer * prior.layer_overhead_s for s in steps])
    arithmetic = np.array([s.flops_per_step / (s.devices * prior.flops_per_s) for s in steps])
    seconds = np.array([s.seconds for s in steps])
    common = float(np.exp(np.mean(np.log(seconds / (overhead + arithmetic)))))
    scale_overhead = scale_arithmetic = common
    if len({s.flops_per_step / s.devices for s in steps}) >= 3:
        rows = np.column_stack([overhead, arithmetic]) / seconds[:, None]
        solution, *_ = np.linalg.lstsq(rows, np.ones(len(steps)), rcond=None)
        if all(common / 10 <= value <= common * 10 for value in solution):
            scale_overhead, scale_arithmetic = map(float, solution)
    return Throughput(
        device=prior.device,
        flops_per_s=prior.flops_per_s / scale_arithmetic,
        step_overhead_s=prior.step_overhead_s * scale_overhead,
        layer_overhead_s=prior.layer_overhead_s * scale_overhead,
        measured=True,
    )

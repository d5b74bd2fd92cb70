"""What one trial is given: CPU cores, or GPUs by the size of its model."""

from __future__ import annotations

import math
from dataclasses import dataclass

ALL_SIZES = math.inf
"""The size below which every model is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What trials of each size occupy, and so what an hour of theirs costs."""

    cpus: float = 1.0
    """CPU cores of one trial."""
    gpus: tuple[tuple[float, float], ...] = ()
    """(largest N in matmul parameters, GPUs of one trial), ascending, the last for all larger
    sizes; empty: trials run on cores."""

    @property
    def on_gpus(self) -> bool:
        """Whether trials run on GPUs."""
        return bool(self.gpus)

    @property
    def even(self) -> bool:
        """Whether trials of all sizes ask for the same."""
        return len({count for _, count in self.gpus}) <= 1

    @property
    def least(self) -> float:
        """Devices of the trial that has fewest: GPUs, or cores."""
        return min((count for _, count in self.gpus), default=self.cpus)

    @property
    def most(self) -> float:
        """Devices of the trial that has most: GPUs, or cores."""
        return max((count for _, count in self.gpus), default=self.cpus)

    def gpus_of(self, params: float, *, batch_sequences: int) -> float:
        """GPUs of one trial; 0 where trials run on cores.

        Whole ones each train an equal part of the batch, and so are as many as can share it.

        Args:
            params: N of its model, matmul parameters.
            batch_sequences: sequences of a step.
        """
        asked = next((count for largest, count in self.gpus if params <= largest), 0.0)
        return asked if asked <= 1 else float(processes_of(batch_sequences, asked))

    def devices_of(self, params: float, *, batch_sequences: int) -> float:
        """What an hour of a trial costs: GPU-hours, or core-hours where it runs on cores.

        Args:
            params: N of its model, matmul parameters.
            batch_sequences: sequences of a step.
        """
        if not self.on_gpus:
            return self.cpus
        return self.gpus_of(params, batch_sequences=batch_sequences)


def processes_of(batch_sequences: int, gpus: float) -> int:
    """Processes that train one trial: one for each of its GPUs, as far as its batch can be shared.

    Args:
        batch_sequences: sequences of a step; each process gets equally many.
        gpus: what a trial may have.
    """
    most = max(1, min(int(gpus), batch_sequences))
    return next(count for count in range(most, 0, -1) if batch_sequences % count == 0)

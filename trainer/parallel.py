"""Several processes that train one model: each takes a part of every batch.

Started by `trainer.together` or by `torchrun`, which set RANK and WORLD_SIZE; alone, a group of one
in which nothing happens. Gradients live in one flat array, so a step needs one all-reduce.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MEETING = "ISOSWEEP_MEETING"
"""Environment variable: a new file by which the processes find each other; without it they do as
`torchrun` says."""


class Group:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of the sequences [B, ...] of a batch.

        Raises:
            ValueError: when the processes cannot get equally many.
        """
        if batch.shape[0] % self.size:
            raise ValueError(
                f"batch_sequences must be a multiple of the {self.size} processes, got "
                f"{batch.shape[0]}"
            )
        return batch[self.rank :: self.size]

    def mean_(self, values: Tensor) -> Tensor:
        """Replace values by their mean over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each flag is set in any process."""
        if self.size == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        if dist.get_backend() == "nccl":
            counts = counts.cuda()
        dist.all_reduce(counts)
        return tuple(bool(count) for count in counts.tolist())

    def from_leader(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Hand the leader's value to every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """The group that the environment describes: NCCL on GPUs, gloo on CPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = os.environ.get(MEETING)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}" if meeting else "env://",
        rank=int(os.environ["RANK"]),
        world_size=size,
    )
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()

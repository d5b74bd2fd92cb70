"""Names of a loss table: its columns, readings of N, and what is said where a table is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLUMNS = (
    "trial_id",
    "level",
    "params_total",
    "params_body",
    "params_embedding",
    "params_head",
    "params_matmul",
    "params_active",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "flops_6nd",
    "flops_target",
    "loss",
    "loss_sd",
    "bpb",
    "batch_tokens",
    "steps",
    "learning_rate",
    "seed",
    "trajectory_id",
    "wall_s",
    "device",
    "tokens_per_s",
    "mfu",
    "excluded",
)
"""The loss table's columns, in the order in which they are written."""

LAW_COLUMNS = ("experts", "granularity", "sparsity", "lr_area", "lr_annealed")
"""Further columns that some laws read; see `analysis.law_inputs`."""

CONVENTIONS = ("matmul", "total", "body", "active")
"""Named readings of N, the default first: `params_<name>` holds it."""

UNNAMED_CONVENTION = "params"
"""The convention's name when the table has one parameter column without a reading of its own."""

SYMBOLS = {"N": "params", "D": "tokens", "C": "flops", "L": "loss"}
"""The field's one-letter column names, understood when the long name is absent."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with a table, in the parts that an error line needs."""

    rule: str
    """Slug of the broken rule: `missing-column`, `not-a-number`, `not-positive`, ..."""
    place: str
    """Where: a column, or a row and a column (rows count from 1, the header is not a row)."""
    message: str
    """The rule, then what was found."""
    remedy: str
    """What to change."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}. {self.remedy}"


class TableError(ValueError):
    """A table that cannot be fitted as it is; holds every fault that was found."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def parameter_column(convention: str) -> str:
    """Name of the column that holds N under a convention."""
    return UNNAMED_CONVENTION if convention == UNNAMED_CONVENTION else f"params_{convention}"

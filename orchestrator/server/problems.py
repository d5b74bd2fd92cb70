"""Errors of the service as JSON, with the codes of the command."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from typing_extensions import TypedDict

from orchestrator.errors import BadInput, EnvironmentUnusable, Fault, StateRefused, SweepError

_NOT_FOUND = frozenset({"SWP-1305", "SWP-1309", "SWP-6005"})
"""Codes that mean: there is no such thing."""


class FaultRecord(TypedDict):
    """One thing that is wrong."""

    code: str
    rule: str
    place: str
    excerpt: str
    remedy: str


class ErrorDocument(TypedDict):
    """What is wrong, and the exit code that the command would end with."""

    schema: Literal["sweep.error/1"]
    exit_code: int
    faults: list[FaultRecord]


def fault_records(error: SweepError) -> list[FaultRecord]:
    """An error's faults as plain values."""
    records: Any = [dataclasses.asdict(fault) for fault in error.faults]
    return records


def error_document(error: SweepError) -> ErrorDocument:
    """An error as the service answers it."""
    return {
        "schema": "sweep.error/1",
        "exit_code": int(error.exit_code),
        "faults": fault_records(error),
    }


def status_of(error: SweepError) -> int:
    """The HTTP status of an error."""
    if any(fault.code in _NOT_FOUND for fault in error.faults):
        return 404
    for kind, status in ((BadInput, 422), (StateRefused, 409), (EnvironmentUnusable, 503)):
        if isinstance(error, kind):
            return status
    return 500


def error_from(record: dict[str, Any]) -> SweepError:
    """An error that another process of ours wrote down."""
    faults = [Fault(**fault) for fault in record["faults"]]
    for kind in (BadInput, StateRefused, EnvironmentUnusable):
        if int(kind.exit_code) == record["exit_code"]:
            return kind(faults)
    return SweepError(faults)


def defect(error: Exception) -> SweepError:
    """A defect of ours as an error."""
    return SweepError(
        Fault(
            code="SWP-7000",
            rule=f"a defect of ours: {type(error).__name__}: {error}",
            remedy="see the log of `sweep serve`, and report it",
        )
    )

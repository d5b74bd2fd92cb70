"""A sweep's journal as a stream of server-sent events: what is there, then what comes.

Each event has its number as `id`, so that a reader who was cut off asks for what follows
(`Last-Event-ID`). The last one, `end`, says how the driver ended; while somebody drives the sweep
the stream goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from orchestrator.chronicle import words
from orchestrator.errors import Exit, SweepError
from orchestrator.journal import JOURNAL, read_new, read_state
from orchestrator.operations import is_running, standing
from orchestrator.server.problems import error_document
from orchestrator.state import Event, EventKind, SweepState, fold
from orchestrator.submission import has_driver, read_record

LOOK_S = 0.5
"""Pause between two looks at the journal, seconds."""
KEEP_ALIVE_S = 15.0
"""Longest silence: a comment tells both ends that the other is there."""


async def stream(sweep_dir: Path, *, after: int = -1) -> AsyncIterator[str]:
    """Events behind number `after`, until nobody drives the sweep any more."""
    state, offset, seq = SweepState(), 0, 0
    silence = 0.0
    yield ": the journal of a sweep\n\n"
    while True:
        alive = await asyncio.to_thread(is_driven, sweep_dir)
        try:
            fresh, offset = await asyncio.to_thread(read_new, sweep_dir, offset=offset, seq=seq)
        except SweepError as error:
            yield _message("error", dict(error_document(error)))
            return
        for event in fresh:
            state = fold([event], state)
            seq = event.seq + 1
            if event.seq > after:
                yield _message(event.kind.value, _record(event, state), number=event.seq)
                silence = 0.0
        if not alive:
            yield _message("end", await asyncio.to_thread(ending, sweep_dir))
            return
        if silence >= KEEP_ALIVE_S:
            yield ": still there\n\n"
            silence = 0.0
        await asyncio.sleep(LOOK_S)
        silence += LOOK_S


def is_driven(sweep_dir: Path) -> bool:
    """Whether somebody drives a sweep, or is about to."""
    return has_driver(sweep_dir) or ((sweep_dir / JOURNAL).exists() and is_running(sweep_dir))


def ending(sweep_dir: Path) -> dict[str, Any]:
    """How the driver of a sweep ended; the exit code is None where it died without a word."""
    begun = (sweep_dir / JOURNAL).exists()
    state = read_state(sweep_dir) if begun else SweepState()
    record = read_record(sweep_dir) or {}
    return {
        "schema": "sweep.end/1",
        "name": sweep_dir.name,
        "standing": standing(sweep_dir, state) if begun else "stopped",
        "exit_code": record["exit_code"] if record else _exit_code(sweep_dir, begun),
        "faults": record.get("faults", []),
        "fit": state.fit,
        "charged_flops": state.charged_flops,
        "budget_flops": (state.opened or {}).get("budget_flops"),
    }


def _exit_code(sweep_dir: Path, begun: bool) -> int | None:
    """What the journal says of a sweep that no service drove."""
    for event in reversed(read_new(sweep_dir, offset=0, seq=0)[0] if begun else []):
        if event.kind is EventKind.SWEEP_FINISHED:
            return int(event.data["exit_code"])
        if event.kind is EventKind.SWEEP_INTERRUPTED:
            return 128 + int(event.data["signal"])
        if event.kind is EventKind.BUDGET_SPENT:
            return int(Exit.BUDGET_SPENT)
    return None


def _record(event: Event, state: SweepState) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "time": event.time,
        "kind": event.kind.value,
        "words": words(event, state),
        "data": event.data,
    }


def _message(kind: str, record: dict[str, Any], *, number: int | None = None) -> str:
    place = "" if number is None else f"id: {number}\n"
    return f"{place}event: {kind}\ndata: {json.dumps(record, allow_nan=False)}\n\n"

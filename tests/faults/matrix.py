"""The rows of the fault matrix: what is promised, how the fault is made, how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

SEED = 20_261_121
"""Every random choice of the suite follows from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fault."""

    id: str
    """Stable name."""
    promises: str
    """Which of P1 to P12 it is evidence for."""
    fault: str
    """What goes wrong, and how it is made to."""
    outcome: str
    """What is promised."""
    quick: int = 1
    """Injections in `make test`; 0: only in the full matrix."""
    full: int = 1
    """Injections in `make faults`."""
    lane: str = "light"
    """`ray`: the row starts Ray. `make faults` runs the two lanes side by side, one core each."""


@dataclass(slots=True)
class Trial:
    """A row under test: how often to inject, with which luck, and what was seen."""

    row: Row
    times: int
    full: bool
    random: random.Random
    figure: str = ""
    facts: list[str] = field(default_factory=list)

    def record(self, figure: str) -> None:
        """Keep what was measured; the table and the documentation print it."""
        self.figure = figure


ROWS = (
    Row(
        id="worker-kill",
        promises="P1 P2 P8",
        fault="SIGKILL of a Ray worker at a seeded step",
        outcome="goes on from its checkpoint in another worker; same table",
        quick=2,
        full=50,
        lane="ray",
    ),
    Row(
        id="checkpoint-kill",
        promises="P2",
        fault="SIGKILL within the writing of a checkpoint: at write, fsync, rename, manifest",
        outcome="goes on from the checkpoint before; same loss",
        quick=4,
        full=40,
    ),
    Row(
        id="driver-kill",
        promises="P1 P2 P4",
        fault="SIGKILL of the driver at a seeded line of metrics",
        outcome="`sweep resume` gives the same table; one MLflow run per trial",
        quick=2,
        full=20,
    ),
    Row(
        id="kill-all",
        promises="P1 P2 P10",
        fault="SIGKILL of driver, workers and Ray at once",
        outcome="`sweep resume` gives the same table",
        quick=0,
        full=10,
        lane="ray",
    ),
    Row(
        id="outcome-kill",
        promises="P5",
        fault="SIGKILL within fit and report, at a seeded rename or fsync",
        outcome="no file is torn; the next run gives the same bytes",
        quick=2,
        full=20,
    ),
    Row(
        id="power-cut",
        promises="P4",
        fault="the power goes: only what was flushed to the disk survives",
        outcome="everything that was announced is in the journal; same table",
        quick=1,
        full=5,
    ),
    Row(
        id="ctrl-c",
        promises="P9 P10",
        fault="SIGINT at a seeded line of metrics",
        outcome="checkpoint, no fit, exit 130, nothing left running; resumed: same table",
        quick=1,
        full=10,
    ),
    Row(
        id="ctrl-c-twice",
        promises="P10",
        fault="SIGINT twice",
        outcome="ends at once with 130, nothing left running; resumed: same table",
        quick=0,
        full=5,
    ),
    Row(
        id="sigterm",
        promises="P10",
        fault="SIGTERM",
        outcome="checkpoint, exit 143, nothing left running; resumed: same table",
        quick=1,
        full=5,
    ),
    Row(
        id="ray-ctrl-c",
        promises="P10 P12",
        fault="SIGINT while Ray trains",
        outcome="exit 130; Ray and its workers are gone within 30 s; resumed: same table",
        quick=0,
        full=2,
        lane="ray",
    ),
    Row(
        id="terminal-gone",
        promises="P10",
        fault="SIGHUP: the terminal is closed",
        outcome="checkpoint, exit 143; resumed: same table",
        quick=0,
    ),
    Row(
        id="pipe-gone",
        promises="P1",
        fault="whoever read the progress is gone: closed pipe on stderr",
        outcome="the sweep goes on in silence; same table",
    ),
    Row(
        id="output-gone",
        promises="P10",
        fault="closed pipe on stdout of `sweep logs`",
        outcome="no traceback",
    ),
    Row(
        id="host-memory",
        promises="P9",
        fault="a trial allocates more than there is",
        outcome="it fails with its reason; the others' rows are the same",
    ),
    Row(
        id="gpu-memory",
        promises="P2",
        fault="out of memory above 4 sequences at a time (simulated on the CPU)",
        outcome="the micro-batch is halved, the batch is not; said in the result",
    ),
    Row(
        id="stopped-worker",
        promises="P8",
        fault="SIGSTOP of a Ray worker",
        outcome="`stalled`, ended at the deadline, tried again; same table",
        quick=1,
        full=5,
        lane="ray",
    ),
    Row(
        id="stuck-worker",
        promises="P8",
        fault="interpreter held, endless loop, data that never come, in a Ray worker",
        outcome="as above, with a dump of every thread's stack",
        quick=0,
        full=3,
        lane="ray",
    ),
    Row(
        id="not-a-number",
        promises="P9",
        fault="a loss becomes NaN, or infinite, at a seeded step",
        outcome="diverged and listed; the fit is that of the table without it",
        quick=1,
        full=6,
    ),
    Row(
        id="spike",
        promises="P9",
        fault="a loss is ten times too large for one step",
        outcome="completed: the held-out loss is the datum",
        quick=0,
    ),
    Row(
        id="disk-checkpoint",
        promises="P4",
        fault="the disk is full when a trial writes",
        outcome="exit 3 with the path; with room again: same table",
    ),
    Row(
        id="disk-journal",
        promises="P4",
        fault="the disk is full when the journal is written",
        outcome="exit 3 with the path and no half line; with room again: same table",
    ),
    Row(
        id="corrupt-checkpoint",
        promises="P2",
        fault="newest checkpoint flipped, cut, emptied, removed, or another trial's",
        outcome="found before it is loaded, the one before is used, said so; same loss",
        quick=6,
        full=200,
    ),
    Row(
        id="no-checkpoint",
        promises="P2",
        fault="every checkpoint of a trial destroyed",
        outcome="trained from the start, said so; same loss",
    ),
    Row(
        id="tracker-never",
        promises="P4 P7",
        fault="MLflow's server does not answer from start to end",
        outcome="same table; `sweep sync` brings everything later",
    ),
    Row(
        id="tracker-faults",
        promises="P4 P7",
        fault="MLflow's server: lost midway, errors 500, slow, reply lost after the commit",
        outcome="same table; after `sweep sync` the store is whole, one run per trial",
        quick=0,
        full=4,
    ),
    Row(
        id="tracker-wiped",
        promises="P4",
        fault="MLflow's database is removed",
        outcome="`sweep sync` builds it again with every value",
    ),
    Row(
        id="tracker-locked",
        promises="P7",
        fault="another process holds MLflow's database",
        outcome="same table; after `sweep sync` nothing is missing",
    ),
    Row(
        id="second-driver",
        promises="P1",
        fault="a second driver on the same folder; a lock left by a killed one",
        outcome="exit 5 with the holder; the lock of the dead is taken over",
    ),
    Row(
        id="data-changed",
        promises="P9",
        fault="a byte of the corpus changed; the whole folder moved",
        outcome="exit 5; moved: same table",
    ),
    Row(
        id="budget-changed",
        promises="P9",
        fault="budget edited: how it runs, and what it means",
        outcome="goes on; exit 5 with the keys",
    ),
    Row(
        id="retry-storm",
        promises="P6",
        fault="every attempt dies at 90 % of its trial, without checkpoints",
        outcome="stops below the ceiling with exit 4",
    ),
    Row(
        id="clock",
        promises="P1",
        fault="the wall clock jumps by hours, forward and back",
        outcome="same table, no negative duration",
        quick=0,
    ),
    Row(
        id="threads",
        promises="P2",
        fault="another thread count when a trial goes on",
        outcome="said in the result",
    ),
    Row(
        id="rerun",
        promises="P5",
        fault="a finished sweep is run again",
        outcome="trains nothing, changes no byte",
    ),
    Row(
        id="canary",
        promises="P12",
        fault="a secret in the environment, in the tracking URI and in a trial's error",
        outcome="in no journal, store, report, log, bundle or list of processes; files are 0600",
        quick=1,
        full=2,
    ),
    Row(
        id="node-lost",
        promises="P1 P2",
        fault="a node of a cluster dies with its workers, and another one joins",
        outcome="its trials go on elsewhere from their checkpoints; same table",
        quick=0,
        lane="ray",
    ),
    Row(
        id="neighbours",
        promises="P12",
        fault="a stale Ray session, ports 6379, 8265 and 5000 taken, a second sweep beside",
        outcome="both sweeps finish; whatever stood there still stands",
        quick=0,
        full=1,
        lane="ray",
    ),
    Row(
        id="old-state",
        promises="P11",
        fault="a sweep interrupted under an earlier release",
        outcome="goes on; no trial is paid twice",
    ),
    Row(
        id="fuzz-budget",
        promises="P9",
        fault="budget files with pieces cut, doubled, or replaced by nasty ones (hypothesis)",
        outcome="an answer or an error with its code; never a traceback",
        quick=300,
        full=10_000,
    ),
    Row(
        id="fuzz-table",
        promises="P9",
        fault="loss tables with pieces cut, doubled, or replaced by nasty ones (hypothesis)",
        outcome="an answer or an error with its code; never a traceback",
        quick=300,
        full=10_000,
    ),
    Row(
        id="fuzz-journal",
        promises="P9",
        fault="journals with pieces cut, doubled, or replaced by nasty ones (hypothesis)",
        outcome="an answer or an error with its code; never a traceback",
        quick=300,
        full=10_000,
    ),
)
BY_ID = {row.id: row for row in ROWS}


def row(name: str) -> pytest.MarkDecorator:
    """Mark a test as the evidence for a row."""
    return pytest.mark.parametrize("trial", [BY_ID[name]], ids=[name], indirect=True)

"""Print what the fault matrix showed, and write it beside the promises in the documentation.

`python -m faults.guarantees ACCOUNT.json ... [--kept KEPT.json] [--write PAGE.md]`; exits with 1
unless every row held at its full count in the accounts that are named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from faults.matrix import ROWS, Row

PROMISES = {
    "P1": "one row per planned trial, and one value per trial and step, whatever was killed",
    "P2": "losses of resumed trials equal undisturbed ones bit for bit, on the same device, "
    "thread count and versions",
    "P3": "a step that is trained again is compared with its first execution; a difference ends "
    "the trial as failed, with both values",
    "P4": "after any crash the journal holds everything that was announced, and MLflow equals it "
    "after `sweep sync`",
    "P5": "a finished sweep that is run again trains nothing and gives the same bytes",
    "P6": "charged compute never exceeds the budget, retries included",
    "P7": "MLflow down, slow or locked costs the sweep nothing",
    "P8": "a lost worker costs at most the steps since its last checkpoint; a stuck one is ended "
    "and tried again",
    "P9": "only a completed trial with a finite loss enters the fit; every other one is listed "
    "with its reason",
    "P10": "after Ctrl-C, SIGTERM or a crash no process of a sweep lives on after 30 s",
    "P11": "a sweep written by an earlier release goes on",
    "P12": "nothing listens beyond this machine, nothing is sent anywhere, no neighbour is ended",
}
ELSEWHERE = {
    "P3": "`tests/trainer/test_run.py`: a loss that differs when a step is trained again "
    "stops the trial",
    "P12": "`tests/orchestrator/test_ray_executor.py` lists the sockets",
}
HEAD = """\
# What is guaranteed

The promises, and beside each what the fault matrix last showed. This page is written by
`make faults`, which runs every row below on real processes with real signals, from one seed.
"Identical" means: `losses.csv`, its wall-clock columns aside, has the same SHA-256 as that of the
undisturbed sweep. A part of the rows, at smaller counts, runs with every `make test`.
Each row stands with the day of its last run; a row that counts fewer times than its full number
was not run whole since, and a run that was cut off leaves the earlier figures of the rows that it
did not reach.
`make faults-mutants` takes away the flush to disk, the lock, the digest of checkpoints and the
tracker's key, one at a time, and demands that the row which each of them guards then fails.
"""

Account = dict[str, dict[str, Any]]
"""What each row showed: `held`, `figure`, `times`, `seconds`, `date`."""


def main() -> int:
    """Read the accounts, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accounts", type=Path, nargs="+", help="of this run")
    parser.add_argument("--kept", type=Path, help="what earlier runs showed; brought up to date")
    parser.add_argument("--write", type=Path, help="the page of the documentation")
    options = parser.parse_args()
    account: Account = {}
    for path in options.accounts:
        account |= json.loads(path.read_text()) if path.exists() else {}
    for row in ROWS:
        print(f"{verdict(row, account):<7}{row.id:<20}{row.promises:<12}{_seen(row, account)}")
    held = [row.id for row in ROWS if verdict(row, account) == "held"]
    spent = sum(entry.get("seconds", 0) for entry in account.values())
    print(f"{len(held)} of {len(ROWS)} rows held; {spent / 60:.0f} min of rows")
    if options.kept is not None:
        earlier = json.loads(options.kept.read_text()) if options.kept.exists() else {}
        known = {**earlier, **account}
        account = {row.id: known[row.id] for row in ROWS if row.id in known}
        options.kept.write_text(json.dumps(account, indent=2) + "\n")
    if options.write is not None:
        options.write.write_text(page(account))
    return 0 if len(held) == len(ROWS) else 1


def verdict(row: Row, account: Account) -> str:
    """Whether a row held at its full count: `held`, `FAILED`, `short` or `absent`."""
    entry = account.get(row.id)
    if entry is None:
        return "absent"
    if not entry["held"]:
        return "FAILED"
    return "held" if entry["times"] >= row.full else "short"


def _seen(row: Row, account: Account) -> str:
    return str(account.get(row.id, {}).get("figure") or "-")


def page(account: Account) -> str:
    """The documentation's page: the same account gives the same bytes."""
    python = ".".join(str(part) for part in sys.version_info[:2])
    machine = f"{os.cpu_count()} CPU cores, {platform.system()}, Python {python}"
    days = sorted(entry["date"] for entry in account.values())
    lines = [HEAD, f"Last run: {days[-1]}, on {machine}; seed fixed in `tests/faults/matrix.py`."]
    lines += ["", "## Promises", "", "| | promise | last measured |", "|---|---|---|"]
    for name, promise in PROMISES.items():
        evidence = [
            f"`{row.id}`: {_said(account.get(row.id))}"
            for row in ROWS
            if name in row.promises.split()
        ]
        evidence += [ELSEWHERE[name]] if name in ELSEWHERE else []
        lines.append(f"| {name} | {promise} | {'; '.join(evidence)} |")
    lines += ["", "## Rows", ""]
    lines += ["| row | fault | promised | times | day | last measured |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in ROWS:
        entry = account.get(row.id, {"times": 0, "date": "–"})
        times = f"{entry['times']} of {row.full}"
        said = _said(account.get(row.id))
        lines.append(
            f"| `{row.id}` | {row.fault} | {row.outcome} | {times} | {entry['date']} | {said} |"
        )
    return "\n".join(lines) + "\n"


def _said(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not run yet"
    figure = entry["figure"] or "no figure"
    return figure if entry["held"] else f"**failed** ({figure})"


if __name__ == "__main__":
    sys.exit(main())

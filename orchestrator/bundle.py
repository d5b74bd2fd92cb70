"""`sweep doctor --bundle`: what a maintainer needs to find a fault, in one file, without secrets.

In go what the doctor found, the versions of every installed package, the names (never the values)
of environment variables, and of a sweep its journal, plan, budget, results and logs, with those of
the search for its recipe. Weights, data and tokens stay. Every text is scrubbed first.
"""

from __future__ import annotations

import json
import os
import platform
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

from orchestrator.doctor import Finding
from orchestrator.errors import BadInput, Fault
from orchestrator.opening import TUNING_FOLDER
from orchestrator.secrecy import scrubbed

LARGEST = 5_000_000
"""Bytes of a file that are packed, its end: a log may have run for weeks."""
_OF_A_SWEEP = (
    "journal.jsonl", "plan.json", "budget.yaml", "fit.json", "losses.csv", "*.log",
    "trials/*/error.txt", "trials/*/stacks*.txt", "trials/*/attempts.json", "trials/*/config.json",
)  # fmt: skip


def pack(path: Path, findings: Sequence[Finding], sweep_dir: Path | None) -> list[str]:
    """Write a bundle; returns the names of what is in it.

    Args:
        path: the zip file to write, for its user alone (0600).
        findings: what the doctor found.
        sweep_dir: a sweep or a search that something is wrong with, or None.

    Raises:
        BadInput: when there is a file of this name.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadInput(
            Fault(
                code="SWP-1316",
                rule="a bundle does not replace a file",
                place=str(path),
                remedy="name another file with --bundle",
            )
        ) from None
    names = []
    with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in (*_machine(findings), *_sweep(sweep_dir)):
            z.writestr(name, scrubbed(text))
            names.append(name)
    return names


def _machine(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    found = [finding.to_dict() for finding in findings]
    yield "doctor.json", json.dumps(found, indent=2)
    packages = sorted(f"{item.metadata['Name']}=={item.version}" for item in distributions())
    yield "packages.txt", "\n".join(packages) + "\n"
    yield "platform.txt", f"{platform.platform()}\nPython {platform.python_version()}\n"
    yield "environment.txt", "".join(f"{name}\n" for name in sorted(os.environ))


def _sweep(sweep_dir: Path | None) -> Iterator[tuple[str, str]]:
    if sweep_dir is None:
        return
    for pattern in (*_OF_A_SWEEP, *(f"{TUNING_FOLDER}/{name}" for name in _OF_A_SWEEP)):
        for file in sorted(sweep_dir.glob(pattern)):
            with file.open("rb") as stream:
                stream.seek(max(0, file.stat().st_size - LARGEST))
                text = stream.read().decode("utf-8", "replace")
            yield f"sweep/{file.relative_to(sweep_dir)}", text

"""Which files of a sweep directory are given out: results, never keys, checkpoints or locks."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.errors import BadInput, Fault

_TOP = (
    r"budget\.yaml|plan\.json|losses\.csv|fit\.json|recipe\.yaml|journal\.jsonl|driver\.log"
    r"|first_batch\.txt"
)
_OF_TRIAL = (
    r"config\.json|result\.json|metrics\.jsonl|samples\.txt|predictions\.json|logits\.json"
    r"|first_batch\.txt"
)
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_GIVEN = re.compile(
    rf"{_TOP}|report/(?:figures/)?{_WORD}|trials/{_WORD}/(?:{_OF_TRIAL})|tuning/recipe\.svg"
)
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
}


def listed(sweep_dir: Path) -> list[str]:
    """The files that are given out, by their paths inside the sweep."""
    patterns = ("*", "report/*", "report/figures/*", "trials/*/*", "tuning/recipe.svg")
    found = (path for pattern in patterns for path in sweep_dir.glob(pattern))
    names = (path.relative_to(sweep_dir).as_posix() for path in found)
    return sorted(name for name in names if _resolved(sweep_dir, name) is not None)


def given(sweep_dir: Path, name: str) -> Path:
    """A file that is given out.

    Raises:
        BadInput: when there is no such file, or it is not for others.
    """
    path = _resolved(sweep_dir, name)
    if path is None:
        raise BadInput(
            Fault(
                code="SWP-6005",
                rule="the sweep must have this file, and it must be a result",
                place=name[:200],
                remedy="the list of files names all that are given out",
            )
        )
    return path


def media_type(path: Path) -> str:
    """What a file is sent as; everything unknown is plain text."""
    return _KINDS.get(path.suffix, "text/plain; charset=utf-8")


def _resolved(sweep_dir: Path, name: str) -> Path | None:
    """The real path of a name, or None when it is not given out or leads out of the sweep."""
    if not _GIVEN.fullmatch(name) or ".." in name:
        return None
    path = (sweep_dir / name).resolve()
    inside = path.is_relative_to(sweep_dir.resolve())
    return path if inside and path.is_file() else None

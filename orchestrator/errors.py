"""What can go wrong for a user: faults with a code, a place, a rule and a remedy.

Every error that reaches a person is a `SweepError`; its `exit_code` follows the design's table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every verb."""

    COMPLETE = 0
    """Everything planned is done and fitted."""
    WITH_FAILURES = 1
    """Finished, with failed or excluded trials, or with a fit that was refused."""
    BAD_INPUT = 2
    """Usage, budget file or table wrong."""
    ENVIRONMENT = 3
    """Ray, MLflow, disk or GPU not usable."""
    BUDGET_SPENT = 4
    """The budget ran out before the plan was complete; resumable."""
    STATE_REFUSED = 5
    """The sweep's state does not allow it: locked, or data or budget changed."""
    BUG = 70
    """A defect of ours."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C."""
    TERMINATED = 143
    """Stopped by SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong."""

    code: str
    """Stable code `SWP-xxxx`; `docs/errors/` has a page for each."""
    rule: str
    """The rule that must hold, and what was found instead."""
    remedy: str
    """What to do about it."""
    place: str = ""
    """`file:line:column`, a key or a row; empty when there is none."""
    excerpt: str = ""
    """The offending line with a caret under the place; empty when there is none."""

    def __str__(self) -> str:
        """Render as the lines that a terminal shows."""
        lines = [f"error[{self.code}]: {self.rule}"]
        if self.place:
            lines.append(f"  --> {self.place}")
        lines.extend(f"   | {line}" for line in self.excerpt.splitlines())
        lines.append(f"  help: {self.remedy}")
        return "\n".join(lines)


class SweepError(Exception):
    """An error with one or more faults and the exit code that they mean."""

    exit_code = Exit.BUG

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    @property
    def pages(self) -> str:
        """Where to read more: the documentation's page of each code."""
        return ", ".join(page_of(code) for code in dict.fromkeys(f.code for f in self.faults))


class BadInput(SweepError):
    """A budget file, a table or an option is wrong."""

    exit_code = Exit.BAD_INPUT


class EnvironmentUnusable(SweepError):
    """Ray, MLflow, the disk or a device cannot be used."""

    exit_code = Exit.ENVIRONMENT


class StateRefused(SweepError):
    """The sweep directory does not allow what was asked."""

    exit_code = Exit.STATE_REFUSED


def page_of(code: str) -> str:
    """The page of the documentation about a code, as a path in the repository."""
    return f"docs/errors/{code}.md"


def nearest(word: str, valid: Iterable[str]) -> str:
    """A clause "did you mean ...?" for the closest valid word, or the list of all of them."""
    words = [str(item) for item in valid]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    listed = f"valid: {', '.join(words)}"
    return f"did you mean `{close[0]}`? ({listed})" if close else listed

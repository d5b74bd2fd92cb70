"""Files that somebody damaged or invented: always an answer or a coded error, never a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.files import read_table
from analysis.table import TableError
from faults.matrix import Trial, row
from faults.specimen import Place
from orchestrator.budget import parse_budget
from orchestrator.errors import BadInput, StateRefused
from orchestrator.journal import JOURNAL, read_state

NASTY = (
    *("", " ", "\t", "\n", "\r\n", "\x00", "\ufeff", "é", "\ud7ff", "🙂"),
    *("0", "-1", "1e400", "-1e18", ".nan", ".inf", "nan", "inf", "1e-400", "017", "1:30", "0x10"),
    *(
        "no",
        "on",
        "null",
        "~",
        "[]",
        "{}",
        "[[[[[[",
        "{{{{",
        "&a [*a]",
        "*a",
        "<<: *a",
        "!!python/x",
    ),
    *(
        "'",
        '"',
        "|",
        ">",
        "---",
        "...",
        "# x",
        ": ",
        "- ",
        ",",
        ";",
        "=1+1",
        "2,31",
        "1_000",
        "9" * 400,
    ),
)


def damaged(whole: str) -> st.SearchStrategy[str]:
    """A text with a few pieces cut out, doubled, or replaced by something nasty."""
    place = st.integers(0, len(whole))
    edit = st.tuples(place, st.integers(0, 30), st.sampled_from(NASTY) | st.text(max_size=5))

    def apply(edits: list[tuple[int, int, str]]) -> str:
        text = whole
        for start, length, piece in edits:
            text = text[:start] + piece + text[start + length :]
        return text

    return st.lists(edit, min_size=1, max_size=4).map(apply)


def survives(trial: Trial, whole: str, read: Callable[[str], object], *coded: type) -> None:
    """Feed damaged texts to a reader; it may only answer or raise its own errors."""
    refused = 0

    @settings(
        max_examples=trial.times,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(whole))
    def fuzz(text: str) -> None:
        nonlocal refused
        try:
            read(text)
        except coded as error:
            assert str(error)
            refused += 1

    fuzz()
    assert refused > trial.times // 10
    trial.record(f"{trial.times} files, {refused} refused with their error, 0 traces")


@row("fuzz-budget")
def test_no_budget_file_makes_a_trace(trial: Trial, calm: Place) -> None:
    survives(trial, (calm.folder / "budget.yaml").read_text(), parse_budget, BadInput)


@row("fuzz-table")
def test_no_table_makes_a_trace(trial: Trial, calm: Place, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"

    def read(text: str) -> None:
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        read_table(file)

    survives(trial, (calm.sweep_dir() / "losses.csv").read_text(), read, TableError)


@row("fuzz-journal")
def test_no_journal_makes_a_trace(trial: Trial, calm: Place, tmp_path: Path) -> None:
    def read(text: str) -> None:
        (tmp_path / JOURNAL).write_bytes(text.encode("utf-8", "surrogatepass"))
        read_state(tmp_path)

    survives(trial, (calm.sweep_dir() / JOURNAL).read_text(), read, StateRefused)

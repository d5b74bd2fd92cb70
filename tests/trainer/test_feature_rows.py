"""Every row of the diaries' feature table is claimed by a test module's docstring.

Rows are written `rows M1, M3-M5` in the docstrings; the rows are models (M), data (T), training
(R), metrics and diagnosis (X), sampling (S).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = {
    f"{group}{number}"
    for group, last in {"M": 17, "T": 11, "R": 14, "X": 11, "S": 4}.items()
    for number in range(1, last + 1)
}
_LIST = re.compile(r"\b[Rr]ows?:?\s+((?:[A-Z]\d+(?:\s*-\s*[A-Z]\d+)?(?:,\s*|\s+and\s+)?)+)")
_ITEM = re.compile(r"([A-Z])(\d+)(?:\s*-\s*[A-Z](\d+))?")


def rows_in(docstring: str) -> set[str]:
    """Rows that a docstring names; ranges are inclusive."""
    return {
        f"{group}{number}"
        for listed in _LIST.findall(docstring)
        for group, first, last in _ITEM.findall(listed)
        for number in range(int(first), int(last or first) + 1)
    }


def claims() -> dict[str, set[str]]:
    """Rows by test module."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.relative_to(TESTS).as_posix()] = rows_in(docstring)
    return found


def test_every_row_has_a_module() -> None:
    claimed = set().union(*claims().values())
    assert sorted(ROWS - claimed) == []


@pytest.mark.parametrize(
    ("docstring", "rows"),
    [
        ("Steps; rows M9, R1.", {"M9", "R1"}),
        ("Steps (row T5).", {"T5"}),
        ("Rows T1-T3 and X2, with more.", {"T1", "T2", "T3", "X2"}),
        ("Rows M1,\nM3-M4 are here.", {"M1", "M3", "M4"}),
        ("A row of R1.", set()),
    ],
)
def test_rows_are_read_from_docstrings(docstring: str, rows: set[str]) -> None:
    assert rows_in(docstring) == rows

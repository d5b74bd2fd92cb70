"""Fixtures of the data room's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "wizards", "potions", "seven")


def prose(paragraphs: int, *, start: int = 0) -> str:
    """Text whose lines are all different and at least 32 bytes long."""
    lines = []
    for number in range(start, start + paragraphs):
        picked = [WORDS[(number * 7 + step * step) % len(WORDS)] for step in range(9)]
        lines.append(f"{number} {' '.join(picked)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def shared_text() -> Path:
    """Corpora that are too large for the repository; tests that need them are skipped without."""
    folder = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "text"
    if not folder.is_dir():
        pytest.skip("the shared text corpora are not on this machine")
    return folder


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """A text file of about 90 KB."""
    path = tmp_path / "corpus.txt"
    path.write_text(prose(1500), encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    return tmp_path / "cache"

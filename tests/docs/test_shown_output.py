"""Output shown on the diaries' page is what the command above it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "diaries.md"
PAIRS = re.findall(
    r"```sh\n(python -m trainer [^\n]+)\n```\s+```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL
)


def words(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.parametrize(("command", "shown"), PAIRS, ids=[command for command, _ in PAIRS])
def test_the_page_shows_what_the_command_prints(command: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    printed = {words(line) for line in done.stdout.splitlines()}
    assert [line for line in shown.splitlines() if words(line) not in printed] == []


def test_the_page_shows_three_commands() -> None:
    assert len(PAIRS) == 3

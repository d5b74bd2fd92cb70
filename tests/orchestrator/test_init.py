"""`sweep init` asks on a terminal, and only there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from orchestrator.budget import parse_budget


def typed(folder: Path, answers: list[str], *options: str) -> str:
    """What a terminal shows while a person answers `sweep init`."""
    person, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "init", *options],
        cwd=folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"},
    ) as process:
        os.close(terminal)
        os.write(person, "".join(f"{answer}\n" for answer in answers).encode())
        shown = b""
        while True:
            try:
                shown += os.read(person, 4096)
            except OSError:  # the other side is closed: Linux says EIO
                break
    os.close(person)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def test_three_answers_make_a_budget_and_a_wrong_one_is_asked_again(tmp_path: Path) -> None:
    shown = typed(tmp_path, ["lots", "flops: 2e12", "", "bpe:300"])
    assert shown.count("How much may the sweep spend?") == 2
    assert "error[SWP-" in shown
    budget = parse_budget((tmp_path / "budget.yaml").read_text())
    assert budget.budget.flops == 2e12
    assert budget.data.corpus == "embedded"
    assert budget.data.tokenizer == "bpe:300"


def test_an_option_is_answer_enough_for_all_three(tmp_path: Path) -> None:
    shown = typed(tmp_path, [], "--budget", "flops: 3e12")
    assert "?" not in shown
    assert parse_budget((tmp_path / "budget.yaml").read_text()).budget.flops == 3e12

"""A real terminal and a real browser for the stranger's walk; both leave pictures of what they saw.

`make walk` installs the browser driver beside the product and runs these tests; Chromium and tmux
come from the system. Without one of them the tests skip and say which.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "walk" / "shots"
COLUMNS, LINES = 120, 45
LONG_S = 1800.0
"""A step that takes longer than this has hung, on any machine."""


def chromium() -> str | None:
    """Chromium of the system."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


class Terminal:
    """A shell in a tmux window of its own server."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"walk-{uuid.uuid4().hex[:8]}"
        self._shots = 0
        self._ends = 0
        environment = {
            **os.environ,
            "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PS1": "$ ",
            "HISTFILE": "",
        }
        subprocess.run(
            ["tmux", "-L", self._socket, "-f", os.devnull, "new-session", "-d", "-x", str(COLUMNS),
             "-y", str(LINES), "-c", str(folder), "bash", "--norc", "--noprofile"],
            check=True,
            env=environment,
        )  # fmt: skip
        self._tmux("set-option", "-g", "history-limit", "20000")

    def close(self) -> None:
        """End the server and everything in it."""
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], check=False)

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        """Press one key, such as `C-c`."""
        self._tmux("send-keys", key)

    def screen(self, *, history: bool = True) -> str:
        """What is on the screen, with everything that has scrolled away."""
        return self._tmux("capture-pane", "-p", "-J", *(("-S", "-") if history else ()))

    def wait_for(self, *words: str, timeout_s: float = LONG_S) -> str:
        """Wait until one of some words stands on the screen; a finished command counts too late."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            screen = self.screen()
            if any(word in screen for word in words):
                return screen
            time.sleep(0.2)
        pytest.fail(f"none of {words} came; the screen says\n{self.screen()}")

    def run(self, command: str, *, timeout_s: float = LONG_S) -> tuple[str, int]:
        """Run a command to its end: what it printed, and its exit code."""
        self._tmux("send-keys", "-l", "clear")
        self._tmux("send-keys", "Enter")
        self._tmux("clear-history")
        self.begin(command)
        return self.end(timeout_s=timeout_s)

    def begin(self, command: str) -> None:
        """Start a command whose end `end` waits for."""
        self._ends += 1
        self.type(f"{command}; echo ended-{self._ends}=$?")

    def end(self, *, timeout_s: float = LONG_S) -> tuple[str, int]:
        """Wait for the command started last."""
        mark = re.compile(rf"ended-{self._ends}=(\d+)")  # what was typed has no digits there
        deadline = time.monotonic() + timeout_s
        while (found := mark.search(screen := self.screen())) is None:
            if time.monotonic() > deadline:
                pytest.fail(f"the command did not end; the screen says\n{screen}")
            time.sleep(0.2)
        return screen[: found.start()], int(found[1])

    def shoot(self, name: str) -> None:
        """Keep what is on the screen."""
        self._shots += 1
        SHOTS.mkdir(parents=True, exist_ok=True)
        text = self.screen(history=False).rstrip() + "\n"
        (SHOTS / f"terminal-{self._shots:02d}-{name}.txt").write_text(text)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty directory that a stranger begins in."""
    return tmp_path_factory.mktemp("stranger")


@pytest.fixture(scope="session")
def terminals(workplace: Path) -> Iterator[tuple[Terminal, Terminal]]:
    """Two shells in the workplace."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    both = (Terminal(workplace), Terminal(workplace))
    yield both
    for terminal in both:
        terminal.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless."""
    driver = pytest.importorskip(
        "playwright.sync_api", reason="the browser driver is not installed: `make walk` does it"
    )
    path = chromium()
    if path is None:
        pytest.skip("Chromium is not installed")
    with driver.sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield window
        window.close()


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where pictures are kept."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS


@pytest.fixture(scope="session")
def shoot(shots: Path) -> Callable[[Any, str], None]:
    """Keep a picture of a page."""

    def keep(page: Any, name: str) -> None:
        page.screenshot(path=shots / f"{name}.png")

    return keep

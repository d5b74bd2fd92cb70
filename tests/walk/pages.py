"""What the tests of pages share: the product's Python, a page that tells of trouble, axe-core."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERIOUS = ("serious", "critical")


def synthetic(what: str, folder: Path) -> Path:
    """Have the product write synthetic pages into a folder."""
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("the product is not installed beside the tests: `make setup`")
    subprocess.run(
        [python, Path(__file__).with_name("synthetic.py"), what, folder], check=True, cwd=ROOT
    )
    return folder


@contextmanager
def opened(browser: Any, *, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Any]:
    """A page that fails the test on a script error or a request to elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if _leaves(request) else None)
    try:
        yield page
    finally:
        context.close()
    assert not trouble


def _leaves(request: Any) -> bool:
    return not re.match(r"(file|data|blob|about):|https?://127\.0\.0\.1[:/]", request.url)


def faults_of(page: Any) -> list[tuple[str, str]]:
    """Serious and critical violations that axe-core finds: (rule, first element)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:300]) for v in found if v["impact"] in SERIOUS]

"""Hostile run names in a real browser: shown as text, they run nothing and ask nobody."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

from tests.walk.conftest import ROOT

HOSTILE = (
    "<img src=x onerror=\"document.title='hit'\">",
    "</script><script>document.title='hit'</script>",
    "<svg onload=\"document.title='hit'\">",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "javascript:document.title='hit'",
    '"><a href=javascript:alert(1)>x</a>',
    "'; DROP TABLE runs; --",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "</style><style>*{display:none}</style>",
    "<!--",
    "]]>",
)


def test_hostile_run_names_do_nothing_in_a_browser(browser: Any, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial_id", "params", "tokens", "loss", "excluded"])
        for i, name in enumerate(HOSTILE):
            n, d = 1e6 * 2 ** (i % 4), 2e7 * 4 ** (i // 4)
            loss = 1.7 + 400 / n**0.34 + 410 / d**0.28
            writer.writerow([name, n, d, f"{loss:.5f}", name if i % 5 == 4 else ""])
    sweep = ROOT / ".venv" / "bin" / "sweep"
    done = subprocess.run(
        [sweep, "fit", "--table", table, "--report", tmp_path / "r"], check=False, cwd=tmp_path
    )
    assert done.returncode in (0, 1)
    context = browser.new_context()
    page = context.new_page()
    trouble: list[str] = []
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith("file:") else trouble.append(r.url))
    page.goto((tmp_path / "r" / "report.html").as_uri())
    page.wait_for_load_state()
    text = page.evaluate("document.body.textContent")
    assert [name for name in HOSTILE if name.isascii() and name not in text] == []
    assert page.title() != "hit"
    made_of_names = "iframe, object, embed, img[src=x], [onerror], [onload]"
    assert page.locator(made_of_names).count() == 0
    scripts = page.locator("script").all_text_contents()  # the page's own sorts its tables
    assert len(scripts) <= 1
    assert not [name for name in HOSTILE if name in "".join(scripts)]
    assert page.locator("a[href^='javascript:']").count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    assert trouble == []
    context.close()

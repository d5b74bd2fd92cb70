"""report.html as a stranger meets it: every verdict, phone and desktop, dark, paper, no scripts.

The reports are synthetic (by a published law), so that a refusal, runs left out, repeated seeds, a
mixture of experts' counts and a sweep that is still running are all seen. Pictures lie in
build/walk/shots.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from walk.pages import faults_of, opened, synthetic

KINDS = ("identified", "mixed", "refused", "running")
WIDTHS = {"phone": 390, "desktop": 1280}


pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four reports."""
    return synthetic("reports", tmp_path_factory.mktemp("reports"))


def address(reports: Path, kind: str) -> str:
    return (reports / kind / "report.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_fits_the_screen_and_says_its_verdict_first(
    reports: Path, browser: Any, shots: Path, kind: str, width: str
) -> None:
    with opened(browser, width=WIDTHS[width]) as page:
        page.goto(address(reports, kind))
        page.screenshot(path=shots / f"pages-{kind}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        first = page.evaluate("document.body.innerText.slice(0, 1500)").lower()
    status = json.loads((reports / f"{kind}.json").read_text())["status"]
    assert status.replace("_", " ") in first
    assert ("still running" in first) == (kind == "running")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_has_no_serious_accessibility_fault(
    reports: Path, browser: Any, shots: Path, kind: str, scheme: str
) -> None:
    with opened(browser, color_scheme=scheme) as page:
        page.goto(address(reports, kind))
        if scheme == "dark":
            page.screenshot(path=shots / f"pages-{kind}-dark.png", full_page=True)
        assert faults_of(page) == []


@pytest.mark.parametrize("kind", ["identified", "refused"])
def test_a_report_reads_without_scripts_and_prints(
    reports: Path, browser: Any, shots: Path, kind: str
) -> None:
    with opened(browser, java_script_enabled=False) as page:
        page.goto(address(reports, kind))
        rows = page.locator("#runs ~ div table.sortable tbody tr").count()
        assert rows == page.locator('tr[id^="run-"]').count() > 0
        assert page.locator("table.sortable button").count() == 0
        page.pdf(path=shots / f"pages-{kind}.pdf", format="A4")
    assert (shots / f"pages-{kind}.pdf").stat().st_size > 20_000


def test_the_table_of_runs_sorts_by_keyboard_and_says_how(reports: Path, browser: Any) -> None:
    rows = "[...document.querySelectorAll('table.sortable tbody tr')]"
    losses = f"{rows}.map(r => r.cells[6].dataset.v)"
    with opened(browser) as page:
        page.goto(address(reports, "mixed"))
        before = page.evaluate(losses)
        button = page.locator("table.sortable thead button", has_text="Loss")
        button.focus()
        page.keyboard.press("Enter")
        head = page.locator("table.sortable thead th", has_text="Loss")
        assert head.get_attribute("aria-sort") == "ascending"
        up = page.evaluate(losses)
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        down = page.evaluate(losses)
    known = [float(v) for v in before if v]
    assert sorted(before) == sorted(up) == sorted(down)
    # Runs without a loss stay at the end both ways.
    assert [float(v) for v in up if v] == sorted(known)
    assert [float(v) for v in down if v] == sorted(known, reverse=True)
    assert up[-1] == down[-1] == ""


def test_hovering_and_focusing_a_point_names_its_run(reports: Path, browser: Any) -> None:
    with opened(browser) as page:
        page.goto(address(reports, "identified"))
        point = page.locator("#figure-isoflop svg a").nth(3)
        tip = point.locator(".tip")
        assert not tip.is_visible()
        point.focus()
        assert tip.is_visible()
        assert "L1 · " in tip.text_content()
        assert "loss" in point.get_attribute("aria-label")
        page.locator("h1").click()
        point.scroll_into_view_if_needed()
        point.hover(force=True)
        assert tip.is_visible()
        titles = page.locator("#figure-residual-map svg title")
        assert titles.count() >= 21


def test_every_point_of_the_main_picture_is_reached_by_tab_and_leads_to_its_row(
    reports: Path, browser: Any
) -> None:
    with opened(browser) as page:
        page.goto(address(reports, "identified"))
        link = page.locator("#figure-isoflop svg a").first
        link.focus()
        page.keyboard.press("Enter")
        row = page.url.split("#")[1]
        assert page.locator(f"tr#{row}:target").count() == 1

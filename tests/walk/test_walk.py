"""A stranger's walk: a new directory, a budget, a plan, a sweep stopped and resumed, its answer.

The tests are one story and run in the order of the file; what a later one needs an earlier one
made. Pictures of every stop lie in build/walk/shots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.walk.conftest import Terminal

Shoot = Callable[[Any, str], None]

pytestmark = pytest.mark.usefixtures("browser")

SERIOUS = ("serious", "critical")
WIDTHS = {"phone": 390, "desktop": 1280}
MLFLOW_WAIT_MS = 90_000


@pytest.fixture(scope="session")
def swept(terminals: tuple[Terminal, Terminal], workplace: Path) -> Path:
    """The sweep's folder after the walk through the terminal."""
    first, second = terminals
    _asks_and_writes_a_budget(first, workplace)
    _quotes(first)
    _is_interrupted(first)
    _is_resumed_and_watched(first, second)
    return workplace / "outputs" / "my-sweep"


def _asks_and_writes_a_budget(terminal: Terminal, workplace: Path) -> None:
    terminal.begin("sweep init")
    terminal.wait_for("How much may the sweep spend?")
    terminal.type("flops: 2e12")
    terminal.wait_for("What should the models learn from?")
    terminal.type("")
    terminal.wait_for("How is the text cut into tokens?")
    terminal.shoot("init")
    terminal.type("")
    printed, code = terminal.end()
    assert code == 0
    assert "Next: sweep plan budget.yaml" in printed
    assert (workplace / "budget.yaml").is_file()


def _quotes(terminal: Terminal) -> None:
    printed, code = terminal.run("sweep plan budget.yaml")
    terminal.shoot("plan")
    assert code == 0
    assert re.search(r"\d+ trials in \d levels", printed)
    assert "D/N for a run of" in printed


def _is_interrupted(terminal: Terminal) -> None:
    terminal.begin("sweep run budget.yaml")
    terminal.wait_for("Run it? [Y/n]")
    terminal.type("y")
    terminal.wait_for("held-out loss")
    terminal.shoot("run")
    terminal.press("C-c")
    printed, code = terminal.end()
    terminal.shoot("interrupted")
    assert code == 130
    assert "sweep resume my-sweep" in printed


def _is_resumed_and_watched(first: Terminal, second: Terminal) -> None:
    first.begin("sweep resume my-sweep")
    first.wait_for("tok/s")
    second.begin("sweep status my-sweep --watch")
    second.wait_for("left")
    second.shoot("watch")
    printed, code = first.end()
    first.shoot("answer")
    assert code in (0, 1)
    assert "tokens per parameter" in printed or "NOT IDENTIFIED" in printed
    assert "open outputs/my-sweep/report/report.html" in printed
    watched, code = second.end()
    assert code == 0
    assert "charged" in watched


def test_the_terminal_leads_from_an_empty_directory_to_an_answer(swept: Path) -> None:
    fit = json.loads((swept / "fit.json").read_text())
    assert fit["schema"] == "sweep.fit/1"
    assert (swept / "losses.csv").is_file()


def test_every_command_of_the_closing_lines_works(
    swept: Path, terminals: tuple[Terminal, Terminal]
) -> None:
    terminal = terminals[0]
    for command in ("sweep status my-sweep", "sweep logs my-sweep", "sweep report my-sweep"):
        printed, code = terminal.run(command)
        terminal.shoot(command.split()[1])
        assert code == 0, printed
    printed, code = terminal.run("sweep predict my-sweep --flops 1e13")
    terminal.shoot("predict")
    answered = json.loads((swept / "fit.json").read_text())["status"] != "not_identified"
    assert ("tokens per parameter [" in printed) == answered
    assert "Traceback" not in printed


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on a script error or a request to elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    trouble: list[str] = []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda request: trouble.append(request.url) if _leaves(request) else None)
    yield opened
    context.close()
    assert not trouble


def _leaves(request: Any) -> bool:
    return not re.match(r"(file|data|blob):|https?://127\.0\.0\.1[:/]", request.url)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_fits_the_screen_and_says_the_verdict_first(
    swept: Path, page: Any, shoot: Shoot, width: str
) -> None:
    page.set_viewport_size({"width": WIDTHS[width], "height": 900})
    page.goto((swept / "report" / "report.html").as_uri())
    shoot(page, f"report-{width}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= WIDTHS[width]
    verdict = json.loads((swept / "fit.json").read_text())["status"]
    words = {"identified": "identified", "weak": "weak", "not_identified": "not identified"}
    first = page.evaluate("document.body.innerText.slice(0, 1500)").lower()
    assert words[verdict] in first


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_has_no_serious_accessibility_fault(
    swept: Path, page: Any, shoot: Shoot, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    page.goto((swept / "report" / "report.html").as_uri())
    shoot(page, f"report-{scheme}")
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS] == []


def test_the_report_reads_without_scripts_and_prints(
    swept: Path, browser: Any, shoot: Shoot, shots: Path
) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto((swept / "report" / "report.html").as_uri())
    shoot(opened, "report-no-scripts")
    rows = len((swept / "losses.csv").read_text().splitlines()) - 1
    assert opened.locator("table tbody tr").count() >= rows
    opened.pdf(path=shots / "report.pdf", format="A4")
    assert (shots / "report.pdf").stat().st_size > 20_000
    context.close()


def test_focusing_a_point_names_its_run(swept: Path, page: Any) -> None:
    page.goto((swept / "report" / "report.html").as_uri())
    points = page.locator("svg a, svg [tabindex='0']")
    assert points.count() > 0
    points.first.focus()
    said = points.first.evaluate(
        "e => (e.getAttribute('aria-label') || '') + ' ' + (e.textContent || '')"
    )
    assert re.search(r"L\d · ", said)


@pytest.fixture(scope="session")
def links(swept: Path, terminals: tuple[Terminal, Terminal]) -> Iterator[dict[str, str]]:
    """Links that `sweep ui` prints while it serves."""
    terminal = terminals[1]
    terminal.type("clear")
    terminal.begin("sweep ui my-sweep")
    printed = terminal.wait_for("Ctrl-C ends it.")
    terminal.shoot("ui")
    yield dict(re.findall(r"^(.+?): (http://127\.0\.0\.1:\S+)$", printed, flags=re.MULTILINE))
    terminal.press("C-c")
    _, code = terminal.end()
    assert code in (0, 130)


def test_mlflow_shows_the_runs_under_names_for_people(
    links: dict[str, str], page: Any, shoot: Shoot
) -> None:
    for number, what in enumerate(("loss curves", "table of runs"), start=1):
        page.goto(links[what])
        page.get_by_text(re.compile("L1 · ")).first.wait_for(timeout=MLFLOW_WAIT_MS)
        shoot(page, f"mlflow-{number}-{what.replace(' ', '-')}")


def test_mlflow_shows_the_report_inside_the_parent_run(
    links: dict[str, str], page: Any, shoot: Shoot
) -> None:
    page.goto(links["report"])
    page.get_by_text("report.html").first.wait_for(timeout=MLFLOW_WAIT_MS)
    inside = page.frame_locator("iframe").get_by_text("Compute-optimal tokens per parameter").first
    inside.wait_for(timeout=MLFLOW_WAIT_MS)
    shoot(page, "mlflow-3-report")


def test_mlflow_draws_the_losses_of_two_runs_over_each_other(
    links: dict[str, str], page: Any, shoot: Shoot
) -> None:
    page.goto(links["loss curves"])
    page.get_by_text(re.compile("L1 · ")).first.wait_for(timeout=MLFLOW_WAIT_MS)
    page.locator("svg.main-svg").first.wait_for(timeout=MLFLOW_WAIT_MS)
    lines = page.locator("svg.main-svg .scatterlayer .trace")
    lines.nth(1).wait_for(state="attached", timeout=MLFLOW_WAIT_MS)
    shoot(page, "mlflow-4-two-runs")

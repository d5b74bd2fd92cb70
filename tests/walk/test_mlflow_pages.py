"""MLflow's pages of a sweep of 100 runs, in Chromium: experiment, answer, report, charts, compare.

The sweep is synthetic (losses by a law), projected by the product, served by `sweep ui`. MLflow's
pages are not ours: what is tested is that a person finds the sweep in them. Pictures lie in
build/walk/shots.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from walk.pages import ROOT, opened, synthetic

WAIT_MS = 180_000


pytestmark = pytest.mark.usefixtures("browser")


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Links that `sweep ui` prints while it serves."""
    folder = synthetic("sweep", tmp_path_factory.mktemp("outputs"))
    process = subprocess.Popen(
        [ROOT / ".venv" / "bin" / "sweep", "ui", "hundred", "--outputs", folder],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    watch = threading.Timer(300, process.kill)
    watch.start()
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "Ctrl-C" in line:
            break
    watch.cancel()
    found = dict(re.findall(r"^(.+?): (http://127\.0\.0\.1:\S+)$", printed, flags=re.MULTILINE))
    assert {"loss curves", "table of runs", "report"} <= set(found), printed
    yield found
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_the_table_names_runs_for_people_and_sorts_them_by_loss(
    links: dict[str, str], browser: Any, shots: Path
) -> None:
    with opened(browser, width=1600) as page:
        page.goto(links["table of runs"])
        page.get_by_text(re.compile(r"L5 · [\d.]+k? · ")).first.wait_for(timeout=WAIT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / "mlflow-table.png")
        assert page.get_by_text(re.compile(r"L\d · [\d.]+[kM]? · [\d.]+k? tok/param")).count() >= 10


def test_the_sweep_s_own_run_says_its_answer_in_its_note(
    links: dict[str, str], browser: Any, shots: Path
) -> None:
    with opened(browser, width=1600) as page:
        page.goto(re.sub(r"/artifacts/.*", "", links["report"]))
        answer = page.get_by_text(re.compile(r"bytes per parameter \[|NOT IDENTIFIED")).first
        answer.wait_for(timeout=WAIT_MS)
        page.wait_for_timeout(1000)
        page.screenshot(path=shots / "mlflow-parent.png")
        assert page.get_by_text("report/report.html").first.is_visible()


def test_the_report_renders_inside_mlflow(links: dict[str, str], browser: Any, shots: Path) -> None:
    with opened(browser, width=1600, height=1100) as page:
        page.goto(links["report"])
        page.get_by_text("report.html").first.wait_for(timeout=WAIT_MS)
        inside = page.frame_locator("iframe").get_by_text("Compute-optimal tokens per parameter")
        inside.first.wait_for(timeout=WAIT_MS)
        page.screenshot(path=shots / "mlflow-report.png")
        for name in ("report.pdf", "fit.json", "losses.csv"):
            assert page.get_by_text(name, exact=True).count() >= 1


def test_the_losses_of_runs_are_drawn_over_each_other(
    links: dict[str, str], browser: Any, shots: Path
) -> None:
    with opened(browser, width=1600, height=1100) as page:
        page.goto(links["loss curves"])
        page.get_by_text(re.compile("L5 · ")).first.wait_for(timeout=WAIT_MS)
        page.locator("svg.main-svg").first.wait_for(timeout=WAIT_MS)
        lines = page.locator("svg.main-svg .scatterlayer .trace")
        lines.nth(1).wait_for(state="attached", timeout=WAIT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / "mlflow-charts.png")


def test_two_runs_are_compared_by_the_numbers_that_people_use(
    links: dict[str, str], browser: Any, shots: Path
) -> None:
    with opened(browser, width=1600, height=1200) as page:
        page.goto(links["table of runs"])
        page.get_by_text(re.compile("L5 · ")).first.wait_for(timeout=WAIT_MS)
        base = links["table of runs"].split("/#/")[0]
        experiment = re.search(r"experiments/(\w+)/", links["table of runs"])[1]
        runs = page.request.post(
            f"{base}/api/2.0/mlflow/runs/search",
            data={
                "experiment_ids": [experiment],
                "max_results": 3,
                "filter": "tags.sweep.level = '5'",
            },
        ).json()["runs"]
        ids = ",".join(f'"{run["info"]["run_id"]}"' for run in runs)
        page.goto(f'{base}/#/compare-runs?runs=[{ids}]&experiments=["{experiment}"]')
        page.get_by_text("D_per_N", exact=True).first.wait_for(timeout=WAIT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / "mlflow-compare.png")
        for name in ("N", "D", "C", "final_loss"):
            assert page.get_by_text(name, exact=True).count() >= 1

"""What a report holds beside its two pages: PDF, parquet, notebook; its order and its tables."""

import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.answer import fit_table
from analysis.holdout import holdout_section
from analysis.published import BESIROGLU
from analysis.report import RecipeCheck, SweepFacts, write_report
from analysis.report.folder import FORMATS
from analysis.report.gather import gather
from analysis.report.layout import lay_out
from analysis.report.pdf import pdf_document
from analysis.report.plots import draw_pictures
from analysis.report.story import tell
from analysis.report.svg import render
from analysis.table import read_rows

ROOT = Path(__file__).resolve().parents[2]
FACTS = SweepFacts(
    name="formats",
    target_flops=1e21,
    recipe_checks=[
        RecipeCheck(params=1e8, learning_rate=0.01, losses={0.5: 3.01, 1.0: 3.0, 2.0: None})
    ],
    method={"schedule": "cosine to a tenth"},
    next_steps=["`sweep extend formats --budget +1e20` gives the sweep more money."],
)


def frame():
    """Twelve runs of three levels, one of them left out."""
    rng = np.random.default_rng(5)
    rows = []
    for level, flops in enumerate((1e18, 1e19, 1e20)):
        for N in BESIROGLU.optimum(flops).params * np.geomspace(0.3, 3.3, 5):
            D = flops / (6 * N)
            loss = float(BESIROGLU.loss(N, D)) * float(np.exp(0.001 * rng.standard_normal()))
            rows.append({"trial_id": f"t{len(rows)}", "level": level, "params_total": N})
            rows[-1] |= {"tokens": D, "flops": flops, "loss": loss, "excluded": "", "seed": 0}
    rows[4] |= {"excluded": "loss spiked", "loss": 9.0}
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def measured():
    table = read_rows(frame())
    report = fit_table(table, target_flops=1e21, resamples=30)
    assert report.status != "not_identified"
    return {**report.to_dict(), **holdout_section(table, report, resamples=20)}, table


@pytest.fixture(scope="module")
def folder(measured, tmp_path_factory):
    fit, table = measured
    out = tmp_path_factory.mktemp("formats") / "report"
    write_report(out, fit=fit, table=table, sweep=FACTS)
    return out


def test_every_format_lies_in_the_folder(folder):
    assert {p.name for p in folder.iterdir()} == {*FORMATS.values(), "figures"}


def test_the_command_offers_every_format():
    from orchestrator.cli_analysis import Format

    assert [item.value for item in Format] == list(FORMATS)


def test_parquet_holds_the_table_of_the_csv(folder):
    exact = pd.read_csv(folder / "losses.csv", keep_default_na=False, dtype={"level": str})
    kept = pd.read_parquet(folder / "losses.parquet")
    assert list(kept) == list(exact)
    assert kept["loss"].tolist() == exact["loss"].astype(float).tolist()
    assert kept["excluded"].tolist() == exact["excluded"].tolist()


def test_the_notebook_runs_from_the_table_beside_it_and_says_the_answer(
    folder, measured, monkeypatch
):
    spec = importlib.util.spec_from_file_location("docs_notebook", ROOT / "docs" / "notebook.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    monkeypatch.chdir(folder)
    notebook = json.loads((folder / "report.ipynb").read_text("utf-8"))
    assert not [cell for cell in notebook["cells"] if cell.get("outputs")]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    left = runner.execute(notebook)
    fit, _ = measured
    best = fit["optimum"][0]["tokens_per_parameter"]
    again = left["report"].optimum[0]
    assert again.tokens / again.params == pytest.approx(best, rel=1e-6)
    assert "14 of 15 runs are in the fit" in "".join(runner.text_of(notebook))


def test_the_pdf_has_pages_an_outline_alt_texts_and_no_action(folder):
    data = (folder / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", data)) >= 6
    assert b"/Outlines" in data
    assert b"/Lang (en)" in data
    assert data.count(b"/Alt ") >= 9
    for word in (b"/JavaScript", b"/JS", b"/URI", b"/Launch", b"/EmbeddedFile", b"/OpenAction ("):
        assert word not in data
    assert len(data) < 3_000_000


def test_the_pdf_is_the_same_bytes_at_another_time(measured, monkeypatch):
    import time

    fit, table = measured
    evidence = gather(fit, table, FACTS)
    story, pictures = tell(evidence), draw_pictures(evidence, {})[:2]
    drawn = {p.slug: render(p).png for p in pictures}
    sections = lay_out(story, set(drawn), has_sweep=True)
    first = pdf_document(story, pictures, drawn, sections)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400.0)
    assert pdf_document(story, pictures, drawn, sections) == first


def test_a_pdf_of_hostile_words_in_any_script_is_set(measured):
    fit, table = measured
    facts = replace(
        FACTS,
        name="<b>{{7*7}}\x00\u202e 漢字 \ud800 **bold**",
        faults=["`rm -rf` | a\tb", "x" * 4000],
        unfinished="This sweep is not over: 3 of 9 runs are over, level 1",
    )
    story = tell(gather(fit, table, facts))
    assert pdf_document(story, (), {}, lay_out(story, set(), has_sweep=True)).endswith(b"%%EOF\n")


class Headings(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self._in = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "h2":
            self.found.append(dict(attrs)["id"])


def test_the_sections_follow_the_reader_in_every_format(folder):
    page = (folder / "report.html").read_text("utf-8")
    order = Headings(page).found
    assert order == [
        *("verdict", "waste", "isoflop", "law", "ratio", "scaling", "residuals", "profile"),
        *("conventions", "recipe", "runs", "exclusions", "budget", "caveats", "checklist", "next"),
        *("reproduce", "words"),
    ]
    markdown = (folder / "report.md").read_text("utf-8")
    heads = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert len(heads) == len(order) - 1
    assert heads[0].startswith("Verdict")
    assert heads[-1] == "How to reproduce it"


def test_a_run_left_out_stands_in_a_table_of_its_own_with_its_reason(folder):
    page = (folder / "report.html").read_text("utf-8")
    part = page[page.index('id="exclusions"') : page.index('id="budget"')]
    assert "1 of 15 runs are left out" in part
    assert "loss spiked" in part


def test_the_table_of_runs_carries_numbers_to_sort_by_and_reads_without_the_script(folder):
    page = (folder / "report.html").read_text("utf-8")
    (table,) = re.findall(r'<table class="sortable">.*?</table>', page, re.DOTALL)
    assert table.count("<tr id=") == 15
    values = [float(v) for v in re.findall(r'data-v="([^"]+)"', table)]
    for loss in frame()["loss"]:
        assert loss in values
    assert "<button" not in page


def test_the_checklist_answers_from_the_records_and_admits_the_rest(folder):
    page = (folder / "report.html").read_text("utf-8")
    part = page[page.index('id="checklist"') : page.index('id="next"')]
    assert "cosine to a tenth" in part
    assert "not in the records" in part
    assert re.search(r"\d+ of 22 questions answered; on \d+ questions the records are silent", part)


def test_a_sweep_that_is_not_over_says_so_first(measured, tmp_path):
    fit, table = measured
    words = "Sweep still running when this was written: 10 of 15 runs are over, level 3"
    facts = replace(FACTS, unfinished=words)
    path = write_report(tmp_path / "r", fit=fit, table=table, sweep=facts, page_only=True)
    page = path.read_text("utf-8")
    assert page.index(words) < page.index('class="badge"')
    assert "so far</p>" in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_forecast_of_held_out_runs_names_each_and_its_numbers(measured):
    fit, table = measured
    picture = {p.slug: p for p in draw_pictures(gather(fit, table, FACTS), {})}["holdout"]
    assert len(picture.rows) == fit["holdout"]["n_held_out"] == 5
    for row, item in zip(picture.rows, fit["holdout"]["runs"], strict=True):
        assert row[4:] == (item["loss"], item["forecast"], *item["prediction_interval"])
    names = [name.text for name in picture.names["forecast"]]
    assert all(re.match(r"t1\d: forecast [\d.]+, measured [\d.]+$", name) for name in names)


def test_the_profile_s_valley_lies_at_the_answer_and_its_band_is_the_interval(measured):
    fit, table = measured
    evidence = gather(fit, table, FACTS)
    picture = {p.slug: p for p in draw_pictures(evidence, {})}["profile"]
    least = min(picture.rows, key=lambda row: row[1])
    assert least[0] == pytest.approx(evidence.answer.tokens_per_parameter, rel=0.02)
    (band,) = [p for p in picture.figure.axes[0].patches if p.get_width() > 0]
    low, high = fit["profile"]["interval"]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((low, high))
    open_end = {**fit, "profile": {**fit["profile"], "interval": [low, None], "open": True}}
    picture = {p.slug: p for p in draw_pictures(gather(open_end, table, FACTS), {})}["profile"]
    assert "any larger" in picture.caption


def test_a_refused_fit_shows_no_profile_no_choices_and_no_interval(measured, tmp_path):
    fit, table = measured
    refused = {**fit, "status": "not_identified", "optimum": []}
    page = write_report(
        tmp_path / "r", fit=refused, table=table, sweep=FACTS, page_only=True
    ).read_text("utf-8")
    for anchor in ("waste", "profile"):
        assert f'<h2 id="{anchor}"' not in page
    for slug in ("profile", "sensitivity"):
        assert f'id="figure-{slug}"' not in page
    assert "by every route" not in page
    assert "D/N there was" not in page


def test_what_stands_in_backticks_is_code_in_both_pages(folder, measured):
    page = (folder / "report.html").read_text("utf-8")
    assert "<code>sweep fit --table losses.csv</code>" in page
    assert "`sweep fit --table losses.csv` fits it again." in (folder / "report.md").read_text()

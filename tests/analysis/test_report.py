"""The report folder: what its pages answer, that nothing foreign acts, how it is replaced."""

import base64
import csv
import hashlib
import io
import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis.report.folder as report_module
from analysis.answer import fit_table
from analysis.holdout import holdout_section
from analysis.laws import Surface
from analysis.report import (
    CurvePoint,
    NextRun,
    RecipeCheck,
    ReportFolderError,
    SweepFacts,
    write_report,
)
from analysis.report.fit_tables import estimator_table
from analysis.report.gather import gather
from analysis.report.plot_axes import loss_label
from analysis.report.story import tell
from analysis.table import read_rows

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "{{7*7}}{% raw %}",
    "=cmd|' /C calc'!A0",
    "a\"b'c`d|e_f$g\\h\x00i\u202ej",
)
LAW = Surface(E=1.2, A=40.0, B=600.0, alpha=0.42, beta=0.46)
LEVELS = (1e11, 3.2e11, 1e12)
TARGET = 3.2e12
SORT = (Path(report_module.__file__).parent / "templates" / "sort.js").read_text("utf-8")


def quickstart_frame(names=()):
    """Fifteen byte-level runs at three levels, with counts by component."""
    rows = []
    for level, flops in enumerate(LEVELS):
        best = LAW.optimum(flops).params
        for N in best * np.geomspace(0.3, 3.2, 5):
            D = flops / (6 * N)
            i = len(rows)
            loss = float(LAW.loss(N, D)) * (1 + 0.001 * math.sin(7 * i))
            rows.append(
                {
                    "trial_id": names[i] if i < len(names) else f"run{i:02d}",
                    "level": level,
                    "params_matmul": N,
                    "params_total": N + 2048,
                    "tokens": D,
                    "flops": flops,
                    "loss": loss,
                    "bpb": loss / math.log(2),
                    "steps": 1200.0 + i,
                    "seed": 0,
                    "wall_s": 20.0 + i,
                }
            )
    return pd.DataFrame(rows)


def sweep_facts(name="quickstart", **changes):
    facts = SweepFacts(
        name=name,
        started="2026-01-02T03:04:05Z",
        budget_flops=8e12,
        charged_flops=7.31e12,
        useful_flops=7.1e12,
        target_flops=TARGET,
        price=0.42,
        currency_note="USD at 2.50 per hour",
        slot_hours=0.11,
        wall_s=241.0,
        states={"completed": 15, "failed": 0},
        family="gpt, context 128 tokens",
        tokenizer="byte",
        corpus="embedded",
        bytes_per_token=1.0,
        convention="N = body matrices and head",
        levels=[("0", 1e11, 150.0, "the budget's"), ("1", 3.2e11, 92.0, "moved to level 0")],
        faults=["L1 · 68k: worker died, 1 attempt lost"],
        commands=[("sweep run budget.yaml", "run this sweep again")],
        versions={"torch": "2.13.0"},
        hashes={"budget": "ab" * 32},
        mlflow_hint="sweep ui quickstart",
        labels={f"run{i:02d}": f"L{i // 5} · run {i}" for i in range(15)},
        recipe_checks=[
            RecipeCheck(params=2.8e3, learning_rate=0.02, losses={0.5: 2.31, 1.0: 2.29, 2.0: None})
        ],
        next_runs=[NextRun(params=3e4, tokens=3e6, flops=5e11, fold_before=4.25, fold_after=3.15)],
        method={"schedule": "cosine to a tenth"},
        spending=[("Checks before the sweep", 2.5e11)],
        next_steps=["Add a level at 3.2e12 FLOPs."],
    )
    return replace(facts, **changes)


def curves_of(table):
    return {
        row["trial_id"]: [
            CurvePoint(
                step=s, tokens=s * 1024.0, flops=row["flops"] * s / 50, loss=row["loss"] + 50 / s
            )
            for s in range(1, 51)
        ]
        for row in table.frame.to_dict("records")
        if isinstance(row["trial_id"], str) and row["loss"] > 0
    }


@pytest.fixture(scope="session")
def answered():
    """A table and its fit, identified or weak."""
    table = read_rows(quickstart_frame())
    report = fit_table(table, target_flops=TARGET, resamples=60)
    assert report.status in ("identified", "weak")
    return {**report.to_dict(), **holdout_section(table, report, resamples=20)}, table


@pytest.fixture(scope="session")
def refused():
    """One level only: no answer."""
    frame = quickstart_frame()
    table = read_rows(frame[frame["level"] == 0])
    fit = fit_table(table, target_flops=TARGET, resamples=60).to_dict()
    assert fit["status"] == "not_identified"
    return fit, table


@pytest.fixture(scope="session")
def hostile():
    """Names that would act in HTML, templates, spreadsheets, Markdown or LaTeX; two runs out."""
    frame = quickstart_frame(HOSTILE).assign(loss_unit=HOSTILE[0])
    frame["excluded"] = ""
    frame.loc[2, ["excluded", "loss"]] = ["diverged <b>badly</b>", math.nan]
    frame.loc[9, ["excluded", "loss"]] = ["=loss|spiked", 9.5]
    table = read_rows(frame)
    return fit_table(table, target_flops=TARGET, resamples=60).to_dict(), table


@pytest.fixture(scope="session")
def folder(answered, tmp_path_factory):
    fit, table = answered
    out = tmp_path_factory.mktemp("answered") / "report"
    page = write_report(out, fit=fit, table=table, curves=curves_of(table), sweep=sweep_facts())
    assert page == out / "report.html"
    return out


@pytest.fixture(scope="session")
def refused_folder(refused, tmp_path_factory):
    fit, table = refused
    out = tmp_path_factory.mktemp("refused") / "report"
    write_report(out, fit=fit, table=table, curves=curves_of(table), sweep=sweep_facts())
    return out


@pytest.fixture(scope="session")
def hostile_folder(hostile, tmp_path_factory):
    fit, table = hostile
    out = tmp_path_factory.mktemp("hostile") / "report"
    facts = sweep_facts(
        HOSTILE[0], labels={}, faults=[*HOSTILE, "half a pair: \ud800"], next_steps=[HOSTILE[1]]
    )
    facts = replace(facts, commands=[(HOSTILE[2], HOSTILE[1])], versions={HOSTILE[1]: HOSTILE[0]})
    write_report(out, fit=fit, table=table, curves=curves_of(table), sweep=facts)
    return out


class Page(HTMLParser):
    """Elements with their attributes, and the text of the page."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words, self.misnested = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(folder):
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_page_answers_ratio_certainty_runs_and_cost(answered, folder):
    fit, _ = answered
    best = fit["optimum"][0]
    text = page_of(folder).text
    low, high = best["interval"]
    from analysis.report.words import count, interval, power, si

    assert f"{count(best['tokens_per_parameter'])} tokens (bytes) per parameter" in text
    assert f"90 % interval {interval((low, high))}" in text
    assert f"verdict: {fit['status'].upper()}" in text
    assert f"train {si(best['params'])} parameters on {si(best['tokens'])} tokens" in text
    assert f"at {power(TARGET)} FLOPs" in text
    assert "From 15 runs at 3 compute levels" in text
    assert "91.4 % of its budget" in text
    assert "0.42 USD at 2.50 per hour" in text
    assert "about a quarter of a BPE token" in text


@pytest.mark.parametrize(
    ("unit", "sweep", "said"),
    [
        ("bits per byte", None, "bits per byte"),
        (None, None, ""),
        (None, sweep_facts(), "nats per token"),
    ],
    ids=["the table's", "none", "a sweep's"],
)
def test_an_expected_loss_is_in_the_unit_that_is_known_and_in_no_other(answered, unit, sweep, said):
    fit, table = answered
    if unit:
        table = read_rows(table.frame.assign(loss_unit=unit))
    evidence = gather(fit, table, sweep)
    remarks = {what: remark for what, _, remark in tell(evidence).figures}
    assert remarks["Loss expected"] == said
    assert loss_label(evidence) == ("Held-out loss" + (f" ({said})" if said else ""))


def test_markdown_gives_the_same_answer_as_the_page(folder):
    answer = re.search(r"tokens \(bytes\) per parameter \(.*?\)", page_of(folder).text)
    assert answer.group().replace("  ", " ") in (folder / "report.md").read_text("utf-8")


def test_every_rule_is_shown_with_its_id_and_outcome(answered, folder):
    fit, _ = answered
    text = page_of(folder).text
    for check in fit["checks"]:
        assert check["rule"] in text
        assert re.sub(r"\s+", " ", check["message"]) in text


def test_a_compute_that_prints_like_the_target_has_no_row_of_its_own(answered):
    fit, table = answered
    first, *others = fit["optimum"]
    near = {**first, "flops": first["flops"] * 1.001}
    evidence = gather({**fit, "optimum": [first, near, *others]}, table)
    alone = gather(fit, table)
    assert [row.flops for row in evidence.frontier] == [row.flops for row in alone.frontier]
    assert evidence.answer == alone.answer
    assert first["flops"] in [row.flops for row in evidence.frontier]


def test_the_floor_of_a_law_has_its_interval_beside_it(answered):
    fit, table = answered

    def floors(ends):
        laws = {n: {**law, "E": 1.8171, "interval": {"E": ends}} for n, law in fit["laws"].items()}
        rows = estimator_table(gather({**fit, "laws": laws}, table)).rows
        return {row[4] for row in rows if not row[0].startswith("Line")}

    assert floors([1.7702, 1.8641]) == {"1.817 (1.77 to 1.864)"}
    assert floors([0.0, 1.8641]) == {"1.817 (at most 1.864)"}
    assert floors(None) == {"1.817"}


def test_a_test_that_was_not_made_is_no_rule_passed(answered):
    fit, _ = answered
    assert "lack-of-fit" not in " ".join(check["message"] for check in fit["checks"])


def test_a_weak_answer_says_so_beside_the_number(answered, tmp_path):
    fit, table = answered
    weak = {**fit, "status": "weak"}
    page = Page(
        write_report(tmp_path / "r", fit=weak, table=table, page_only=True).read_text("utf-8")
    )
    assert re.search(r"WEAK [\d.]+ tokens per parameter .{10,40} — a weak answer", page.text)


def test_a_refused_fit_has_no_headline_number_anywhere(answered, refused, refused_folder):
    fit, table = refused
    page = page_of(refused_folder)
    text = page.text + (refused_folder / "report.md").read_text("utf-8")
    text += (refused_folder / "table.tex").read_text("utf-8")
    assert "NOT IDENTIFIED" in text
    assert "none is given" in text
    assert "What to do" in text
    for check in fit["checks"]:
        if not check["passed"] and check["severity"] == "refuse":
            assert re.sub(r"\s+", " ", check["message"]) in text
    assert not re.search(r"\d+ % interval", page.text)
    assert "is compute-optimal at" not in text
    from analysis.report.words import count

    ratios = [v["tokens_per_parameter"] for v in fit["conventions"].values()]
    ratios += [v.get("tokens_per_parameter") for v in fit["laws"].values()]
    sampled = {count(t / n) for n, t in zip(table.params, table.tokens, strict=True)}
    for ratio in ratios:
        if ratio is not None and count(ratio) not in sampled:
            assert f" {count(ratio)} " not in page.text


def test_a_refusal_stands_even_if_the_file_carries_an_optimum(answered, tmp_path):
    fit, table = answered
    stale = {**fit, "status": "not_identified"}
    text = Page(
        write_report(tmp_path / "r", fit=stale, table=table, page_only=True).read_text("utf-8")
    ).text
    assert "NOT IDENTIFIED" in text
    assert "is compute-optimal at" not in text


def test_a_status_without_an_optimum_counts_as_refused(answered, tmp_path):
    fit, table = answered
    hollow = {**fit, "status": "identified", "optimum": []}
    text = Page(
        write_report(tmp_path / "r", fit=hollow, table=table, page_only=True).read_text("utf-8")
    ).text
    assert "NOT IDENTIFIED" in text
    assert "Verdict: IDENTIFIED" not in text


def test_labels_cannot_carry_control_characters_or_turned_writing(answered, tmp_path):
    fit, table = answered
    facts = sweep_facts(labels={"run00": "a\x00b\u202ec\nd"})
    out = tmp_path / "r"
    write_report(out, fit=fit, table=table, sweep=facts)
    for path in (out / "report.html", out / "report.md", out / "figures" / "isoflop.svg"):
        text = path.read_text("utf-8")
        assert "a b c d" in text
        assert not re.search("[\x00\u202e]", text)


@pytest.mark.parametrize("name", ["folder", "refused_folder", "hostile_folder"])
def test_the_page_asks_nothing_of_the_network_and_runs_only_the_sorting_of_its_table(name, request):
    page = page_of(request.getfixturevalue(name))
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    raw = (request.getfixturevalue(name) / "report.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", raw, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert script == SORT.strip()
    assert policy == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    ]
    forbidden = {
        "iframe",
        "object",
        "embed",
        "link",
        "base",
        "form",
        "img",
        "foreignobject",
    }
    assert not forbidden & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        assert not [a for a in attrs if a.lower().startswith("on")], (tag, attrs)
        for attribute in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert attrs.get(attribute, "#").startswith("#"), (tag, attrs)
    assert "http:" not in raw
    assert "https:" not in raw
    assert "@import" not in raw
    assert len(raw.encode()) < 3_000_000


@pytest.mark.parametrize("name", ["folder", "refused_folder", "hostile_folder"])
def test_the_page_is_well_formed_and_its_ids_are_unique_and_resolve(name, request):
    page = page_of(request.getfixturevalue(name))
    assert page.misnested == []
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for t, a in page.elements if "href" in a}
    raw = (request.getfixturevalue(name) / "report.html").read_text("utf-8")
    targets |= set(re.findall(r"url\(#([^)]+)\)", raw))
    assert targets <= set(ids)


def test_headings_are_in_order_and_the_page_has_a_language(folder):
    page = page_of(folder)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == 1
    levels = [int(t[1]) for t, _ in page.elements if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_every_picture_has_alt_text_with_numbers_and_a_table(folder):
    page = page_of(folder)
    drawings = page.all("svg")
    slugs = {p.stem for p in (folder / "figures").iterdir()}
    assert len(drawings) == len(page.all("figure")) == len(page.all("details")) == len(slugs)
    for drawing in drawings:
        assert drawing["role"] in ("img", "group")
        assert re.search(r"\d", drawing["aria-label"])
        assert len(drawing["aria-label"]) > 40
    files = {p.name for p in (folder / "figures").iterdir()}
    assert slugs == {
        *("waste", "isoflop", "surface", "ratio", "scaling", "holdout", "residuals"),
        *("residual-map", "profile", "sensitivity", "recipe", "training"),
    }
    assert files == {f"{s}.{e}" for s in slugs for e in ("png", "svg", "csv")}


def test_points_name_their_runs_and_link_to_their_rows(folder):
    raw = (folder / "report.html").read_text("utf-8")
    page = Page(raw)
    anchors = {a["id"] for a in page.all("tr") if "id" in a}
    assert anchors == {f"run-{i}" for i in range(1, 16)}
    links = [a for a in page.all("a") if a.get("href", "").startswith("#run-")]
    assert {a["href"][1:] for a in links} == anchors
    assert all(a["aria-label"].startswith("L") and "loss" in a["aria-label"] for a in links)
    assert raw.count("<title>L2 · run 14: N = ") >= 4


def test_every_run_appears_in_every_table_of_runs(folder, answered):
    _, table = answered
    text = page_of(folder).text
    markdown = (folder / "report.md").read_text("utf-8")
    latex = (folder / "table.tex").read_text("utf-8")
    for i, trial_id in enumerate(table.frame["trial_id"]):
        for page in (text, markdown, latex):
            assert trial_id in page
            assert f"run {i}" in page
    kept = pd.read_csv(folder / "losses.csv")
    assert kept["loss"].tolist() == table.frame["loss"].tolist()
    assert kept["trial_id"].tolist() == table.frame["trial_id"].tolist()


def test_excluded_runs_are_listed_with_their_reason(hostile_folder):
    text = page_of(hostile_folder).text
    assert "no: diverged <b>badly</b>" in text
    assert "no: =loss|spiked" in text
    assert "2 runs left out" in text


def test_hostile_names_are_shown_and_do_nothing(hostile_folder):
    page = page_of(hostile_folder)
    for name in HOSTILE[:4]:
        assert name in page.text
    assert "49" not in re.findall(r"\{\{7\*7\}\}|\b49\b", page.text)
    for drawing in (hostile_folder / "figures").glob("*.svg"):
        content = drawing.read_text("utf-8")
        assert "<img" not in content
        assert "<script" not in content


def test_hostile_names_stay_inside_their_markdown_and_latex_cells(hostile_folder):
    markdown = (hostile_folder / "report.md").read_text("utf-8")
    assert "<img" not in markdown
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    blocks = re.split(r"\n(?!\|)", markdown)
    for block in blocks:
        inside = [r for r in block.splitlines() if r.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", r)) for r in inside}) <= 1
    assert widths
    latex = (hostile_folder / "table.tex").read_text("utf-8")
    body = [line for line in latex.splitlines() if line.endswith(r"\\") and " & " in line]
    assert not [
        line
        for line in body
        if re.search(
            r"(?<!\\)[$_#%]",
            line.replace(r"$\times$", "")
            .replace(r"$\pm$", "")
            .replace(r"$\alpha$", "")
            .replace(r"$\beta$", ""),
        )
    ]


@pytest.mark.parametrize("name", ["losses.csv", "figures/isoflop.csv", "figures/training.csv"])
def test_no_csv_cell_starts_a_formula(hostile_folder, name):
    with (hostile_folder / name).open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    risky = [c for c in cells if c.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert all(re.fullmatch(r"-?[0-9.e+-]+", c) for c in risky)
    assert any(c.startswith("'=") for c in cells)


def test_the_fit_is_kept_whole_as_strict_json(answered, folder):
    fit, _ = answered
    kept = json.loads((folder / "fit.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert kept == json.loads(json.dumps(fit))


def test_the_bibliography_names_the_published_laws(folder):
    keys = re.findall(r"@article\{(\w+),", (folder / "references.bib").read_text("utf-8"))
    assert {"kaplan2020", "hoffmann2022", "besiroglu2024"} <= set(keys)
    text = page_of(folder).text
    for name in ("Kaplan", "Hoffmann 3", "Besiroglu"):
        assert name in text


def test_the_same_input_gives_the_same_bytes_in_another_process(answered, folder, tmp_path):
    fit, table = answered
    (tmp_path / "fit.json").write_text(json.dumps(fit))
    table.frame.to_csv(tmp_path / "losses.csv", index=False)
    out = tmp_path / "first"
    script = (
        "import json, sys, pathlib\n"
        "from analysis.files import read_table\n"
        "from analysis.report import write_report\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "write_report(home / sys.argv[2], fit=json.loads((home / 'fit.json').read_text()),\n"
        "             table=read_table(home / 'losses.csv'))\n"
    )
    root = Path(report_module.__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "first"],
        check=True,
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
    )
    from analysis.files import read_table

    again = tmp_path / "second"
    write_report(again, fit=json.loads(json.dumps(fit)), table=read_table(tmp_path / "losses.csv"))
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(again)) for p in again.rglob("*") if p.is_file())
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name


def test_a_table_alone_makes_a_report_without_sweep_or_curves(answered, tmp_path):
    fit, table = answered
    page = Page(
        write_report(tmp_path / "r", fit=fit, table=table, page_only=True).read_text("utf-8")
    )
    assert "this report was made from a table alone" in page.text
    assert len(page.all("figure")) == 10


def test_missing_sections_of_a_fit_are_left_out_quietly(answered, tmp_path):
    fit, table = answered
    bare = {
        "schema": "sweep.fit/1",
        "status": "weak",
        "message": "weak",
        "n_points": 15,
        "optimum": [{k: fit["optimum"][0][k] for k in ("flops", "params", "tokens")}],
    }
    page = Page(
        write_report(tmp_path / "r", fit=bare, table=table, page_only=True).read_text("utf-8")
    )
    assert "tokens per parameter" in page.text
    empty = {"schema": "sweep.fit/1", "status": "not_identified", "message": "R1: no runs."}
    text = Page(
        write_report(tmp_path / "s", fit=empty, table=table, page_only=True).read_text("utf-8")
    ).text
    assert "R1: no runs." in text


def test_a_table_whose_runs_all_failed_still_gets_a_report(tmp_path):
    frame = quickstart_frame().head(3).assign(excluded="diverged", loss=math.nan)
    table = read_rows(frame)
    fit = fit_table(table).to_dict()
    text = Page(write_report(tmp_path / "r", fit=fit, table=table).read_text("utf-8")).text
    assert "NOT IDENTIFIED" in text
    assert text.count("no: diverged") == 3


def test_an_isoflop_headline_needs_no_law(answered, tmp_path):
    fit, table = answered
    best = {**fit["optimum"][0], "loss": None}
    line = {**fit, "headline_law": "isoflop", "laws": {}, "optimum": [best, *fit["optimum"][1:]]}
    page = Page(
        write_report(tmp_path / "r", fit=line, table=table, page_only=True).read_text("utf-8")
    )
    assert "the answer above" in page.text
    assert "Loss expected" not in page.text


def test_the_report_replaces_an_earlier_one_whole(answered, refused, tmp_path):
    out = tmp_path / "report"
    fit, table = answered
    write_report(out, fit=fit, table=table, sweep=sweep_facts())
    assert (out / "figures" / "waste.png").exists()
    write_report(out, fit=refused[0], table=refused[1])
    assert not (out / "figures" / "waste.png").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_crash_while_writing_leaves_the_old_report_whole(
    answered, refused, tmp_path, monkeypatch
):
    out = tmp_path / "report"
    fit, table = answered
    write_report(out, fit=fit, table=table)
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def cut_off(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module, "_swap", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_report(out, fit=refused[0], table=refused[1])
    assert {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    write_report(out, fit=refused[0], table=refused[1])
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_without_an_exchange_of_folders_a_cut_swap_is_mended_by_the_next_report(
    refused, tmp_path, monkeypatch
):
    fit, table = refused
    out = tmp_path / "report"
    monkeypatch.setattr(report_module, "_exchange", lambda *_: False)
    write_report(out, fit=fit, table=table)
    page = (out / "report.html").read_bytes()
    write_report(out, fit=fit, table=table)
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    out.rename(tmp_path / ".report.previous")
    foreign = tmp_path / ".report.partial"
    foreign.mkdir()
    (foreign / "half").write_text("half a report")
    report_module._recover(out)
    assert (out / "report.html").read_bytes() == page
    write_report(out, fit=fit, table=table)
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_the_system_exchanges_two_folders_in_one_step(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux's")
    one, other = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    other.mkdir()
    (one / "x").write_text("1")
    assert report_module._exchange(one, other)
    assert (other / "x").read_text() == "1"
    assert not report_module._exchange(one, tmp_path / "absent")


@pytest.mark.parametrize("name", ["notes.txt", "figures/photo.jpg"])
def test_a_folder_with_other_files_is_never_replaced(refused, tmp_path, name):
    fit, table = refused
    out = tmp_path / "report"
    write_report(out, fit=fit, table=table)
    (out / name).write_text("mine")
    with pytest.raises(ReportFolderError, match=re.escape(name)):
        write_report(out, fit=fit, table=table)
    assert (out / name).read_text() == "mine"


def test_a_file_in_the_report_s_place_is_refused(refused, tmp_path):
    fit, table = refused
    (tmp_path / "report").write_text("mine")
    with pytest.raises(ReportFolderError, match="is a file"):
        write_report(tmp_path / "report", fit=fit, table=table)


def test_naming_the_report_s_types_does_not_load_matplotlib():
    code = "import sys, analysis.report; sys.exit('matplotlib' in sys.modules)"
    root = Path(report_module.__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_csv_of_a_picture_holds_what_is_drawn(folder, answered):
    _, table = answered
    rows = list(csv.DictReader(io.StringIO((folder / "figures/isoflop.csv").read_text("utf-8"))))
    assert len(rows) == 15
    assert [float(r["loss"]) for r in rows] == table.frame["loss"].tolist()

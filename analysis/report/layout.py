"""The order of a report, stated once: sections and what stands in each, for every format.

In: a `Story` and the slugs of its pictures. Out: `Section`s of `Block`s. HTML, Markdown and PDF
are three ways of setting the same blocks, so no format can lack what another one shows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from analysis.report.story import Story

Kind = Literal["text", "list", "heading", "rules", "picture", "table", "glossary"]


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a section."""

    kind: Kind
    """What it is."""
    lines: tuple[str, ...] = ()
    """Paragraphs of a text, items of a list, the words of a heading."""
    name: str = ""
    """Slug of a picture, name of a table."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under its heading."""

    anchor: str
    """Id in the page."""
    short: str
    """Its name in the list of sections."""
    heading: str
    """Its heading."""
    blocks: tuple[Block, ...]
    """What stands in it, in order."""


GLOSSARY = (
    ("N", "Parameters of a model; which ones are counted is the convention."),
    ("D", "Tokens that it is trained on, repeats included."),
    ("C", "Training compute in FLOPs, the number of arithmetic operations; about 6·N·D."),
    ("D/N", "Tokens per parameter, the ratio that this report is about."),
    ("Compute-optimal", "Of all N and D that cost the same C, the pair with the least loss."),
    ("Loss", "Mean of −log(probability) of the next token on text held out of training."),
    ("Level (isoFLOP)", "Runs of different sizes that all cost the same compute."),
    ("Interval", "Range that holds the true ratio with the stated confidence, if the law holds."),
    ("Frontier", "The compute-optimal N and D as compute grows."),
)
"""The report's words and what they mean."""
_FILES = (
    "Beside this report lie losses.csv and losses.parquet (every run), fit.json (the fit), "
    "table.tex with references.bib, report.md, report.pdf, report.ipynb (a notebook that starts "
    "from the table), and in figures/ each picture as PNG and SVG with its numbers as CSV. "
    "`sweep fit --table losses.csv` fits it again."
)


def lay_out(story: Story, slugs: Collection[str], *, has_sweep: bool) -> tuple[Section, ...]:
    """The sections of a report, those without content left out.

    Args:
        story: its words and tables.
        slugs: pictures that it has.
        has_sweep: whether a sweep stands behind the table.
    """
    answered = bool(story.ratio)

    def section(anchor: str, short: str, heading: str, *blocks: Block | None) -> Section:
        kept = tuple(b for b in blocks if b is not None and _holds(b, story, slugs))
        return Section(anchor, short, heading, kept)

    sections = (
        section("verdict", "Verdict", f"Verdict: {story.verdict}", *_verdict(story, answered)),
        section(
            "waste",
            "What being wrong costs",
            "What being wrong costs",
            _text(*story.waste) if story.waste else None,
            _picture("waste") if story.waste else None,
        ),
        section(
            "isoflop",
            "Equal compute",
            "Loss by model size at equal compute",
            _picture("isoflop"),
            _table("levels"),
        ),
        section(
            "law",
            "The law",
            "The fitted law" if answered else "Where the runs lie",
            _picture("surface"),
            _table("estimators"),
        ),
        section(
            "ratio",
            "Ratio against compute",
            "The best ratio against compute" if answered else "The ratios of the runs",
            _picture("ratio"),
            _table("frontier"),
            _table("published"),
        ),
        section(
            "scaling",
            "Loss against compute",
            "Loss against compute, and a forecast of runs held out",
            _picture("scaling"),
            _text(*story.holdout),
            _picture("holdout"),
        ),
        section(
            "residuals",
            "Residuals",
            "What the law leaves unexplained",
            _picture("residuals"),
            _picture("residual-map"),
        ),
        section(
            "profile",
            "Profile likelihood",
            "How sharply the runs point to the ratio",
            _picture("profile"),
            _table("intervals"),
        ),
        section(
            "conventions",
            "Counting and other choices",
            "Ways of counting, and other choices",
            _text(
                "The same runs give another number under another way of counting parameters. "
                "Compare ratios only under the same one."
            )
            if "conventions" in story.tables
            else None,
            _table("conventions"),
            _picture("sensitivity"),
            _table("sensitivity"),
        ),
        section(
            "recipe",
            "Recipe check",
            "Was the recipe right?",
            _text(*story.recipe),
            _picture("recipe"),
            _table("recipe"),
        ),
        section("training", "Training curves", "Training curves", _picture("training")),
        section("runs", "Runs", "Runs", _table("runs")),
        section(
            "exclusions",
            "Left out",
            "Runs left out, and why",
            _table("exclusions") if "exclusions" in story.tables else _text("No run was left out."),
        ),
        section("budget", "Budget and faults", "Budget and faults", *_budget(story, has_sweep)),
        section("caveats", "Limits", "Limits of this answer", _list(*story.caveats)),
        section(
            "checklist",
            "Checklist",
            "Checklist",
            _text(
                "The questions that the checklist of (Mis)Fitting (Li, Kudugunta and Zettlemoyer, "
                "2025) asks of every scaling law, answered from the records. Where they are "
                "silent, so is the answer."
            ),
            _table("checklist"),
        ),
        section(
            "next",
            "What to run next",
            "What to run next",
            _list(*story.next_steps),
            _table("next"),
        ),
        section(
            "reproduce",
            "Reproduce",
            "How to reproduce it",
            *(_table(name) for name in ("commands", "setting", "versions", "hashes")),
            _text(_FILES),
        ),
        section("words", "Words", "Words", Block("glossary")),
    )
    return tuple(s for s in sections if s.blocks)


def _verdict(story: Story, answered: bool) -> tuple[Block | None, ...]:
    advice = _list(*story.advice)
    return (
        _text(story.verdict_meaning),
        *(() if answered else (_heading("What to do", story.advice), advice)),
        _heading("Rules checked", story.checks),
        Block("rules"),
        *((_heading("What would make it firmer", story.advice), advice) if answered else ()),
        _heading("Also noted", story.warnings),
        _list(*story.warnings),
    )


def _budget(story: Story, has_sweep: bool) -> tuple[Block | None, ...]:
    unknown = "Not known: this report was made from a table alone."
    return (
        _table("budget"),
        Block("heading", ("Faults",)),
        _list(*story.faults)
        if story.faults
        else _text("No attempt was lost." if has_sweep else unknown),
        _heading("Checks before the sweep", story.examination),
        _list(*story.examination),
    )


def _text(*lines: str) -> Block:
    return Block("text", lines)


def _list(*lines: str) -> Block:
    return Block("list", lines)


def _heading(words: str, of: Collection[object]) -> Block | None:
    """A heading over something; None over nothing."""
    return Block("heading", (words,)) if of else None


def _picture(slug: str) -> Block:
    return Block("picture", name=slug)


def _table(name: str) -> Block:
    return Block("table", name=name)


def _holds(block: Block, story: Story, slugs: Collection[str]) -> bool:
    """Whether a block has something to show."""
    match block.kind:
        case "picture":
            return block.name in slugs
        case "table":
            return block.name in story.tables
        case "rules":
            return bool(story.checks)
        case "glossary":
            return True
    return bool(block.lines)

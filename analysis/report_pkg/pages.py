"""The report's two pages, from a `Story` and its pictures: HTML and Markdown.

HTML is escaped by the template engine; the only text put in as it stands is our own style sheet
and our own SVG, whose foreign text was escaped by the XML writer. In Markdown every value passes
through `analysis.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from analysis.escape import markdown, markdown_code
from analysis.picture import Picture
from analysis.plot_style import GRID, INK, MUTED, PAPER
from analysis.story import Story
from analysis.svg import VARIABLES, theme_css

_MARKS = {"passed": "✓", "refused": "✗", "weak": "!", "note": "·"}
_SECTIONS = (
    ("verdict", "Verdict"),
    ("waste", "What being wrong costs"),
    ("isoflop", "Equal compute"),
    ("law", "The law"),
    ("ratio", "Ratio against compute"),
    ("training", "Training curves"),
    ("residuals", "Residuals"),
    ("conventions", "Counting"),
    ("runs", "Runs"),
    ("budget", "Budget and faults"),
    ("caveats", "Limits"),
    ("reproduce", "Reproduce"),
    ("words", "Words"),
)
_GLOSSARY = (
    ("N", "Parameters of a model; which ones are counted is the convention."),
    ("D", "Tokens that it is trained on, repeats included."),
    ("C", "Training compute in FLOPs, the number of arithmetic operations; about 6·N·D."),
    ("D/N", "Tokens per parameter, the ratio that this report is about."),
    ("Compute-optimal", "Of all N and D that cost the same C, the pair with the least loss."),
    ("Loss", "Mean of −ln(probability) of the next token on text held out of training, in nats."),
    ("Level (isoFLOP)", "Runs of different sizes that all cost the same compute."),
    ("Interval", "Range that holds the true ratio with the stated confidence, if the law holds."),
    ("Frontier", "The compute-optimal N and D as compute grows."),
)


def html_page(
    story: Story, pictures: Sequence[Picture], drawings: Mapping[str, str], *, has_sweep: bool
) -> str:
    """The report as one HTML document that needs no other file.

    Args:
        story: its words.
        pictures: its pictures.
        drawings: the inline SVG of each picture by slug; our own drawing, inserted as it is.
        has_sweep: whether a sweep stands behind the table.
    """
    environment = _environment(escaped=True)
    slugs = {p.slug for p in pictures}
    absent = {"training", "residuals"} - slugs
    absent |= set() if story.waste else {"waste"}
    absent |= set() if "conventions" in story.tables else {"conventions"}
    return environment.get_template("report.html.j2").render(
        story=story,
        pictures={p.slug: p for p in pictures},
        drawings={slug: Markup(drawing) for slug, drawing in drawings.items()},
        css=Markup(_style_sheet()),
        sections=[s for s in _SECTIONS if s[0] not in absent],
        glossary=_GLOSSARY,
        marks=_MARKS,
        unit="tokens per parameter",
        has_sweep=has_sweep,
    )


def markdown_page(story: Story, pictures: Sequence[Picture]) -> str:
    """The report as Markdown, for a pull request; pictures are files beside it."""
    environment = _environment(escaped=False)
    text = environment.get_template("report.md.j2").render(
        story=story, pictures={p.slug: p for p in pictures}
    )
    lines = [line.rstrip() for line in text.splitlines()]
    kept: list[str] = []
    for line in lines:
        if line.startswith("#") and kept and kept[-1]:
            kept.append("")
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip() + "\n"


def _environment(*, escaped: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis", "templates"),
        autoescape=escaped,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown
    environment.filters["code"] = markdown_code
    return environment


def _style_sheet() -> str:
    light, dark = theme_css()
    template = _environment(escaped=False).get_template("report.css")
    return template.render(
        light=light,
        dark=dark,
        ink=VARIABLES[INK],
        muted=VARIABLES[MUTED],
        grid=VARIABLES[GRID],
        paper=VARIABLES[PAPER],
    )

"""The report's two pages, from a `Story` and its pictures: HTML and Markdown.

HTML is escaped by the template engine; the only text put in as it stands is our own style sheet,
our own script and our own SVG, whose foreign text was escaped by the XML writer. The script only
sorts the table of runs: the page allows it by its hash, and no other one. In Markdown every value
passes through `analysis.report.escape`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup, escape

from analysis.report.escape import markdown, markdown_code
from analysis.report.layout import GLOSSARY, Section
from analysis.report.picture import Picture
from analysis.report.plot_style import GRID, INK, MUTED, PAPER
from analysis.report.story import Story
from analysis.report.svg import VARIABLES, theme_css

MARKS = {"passed": "✓", "refused": "✗", "weak": "!", "note": "·"}
"""The sign of each outcome of a rule."""
_CODE = re.compile(r"`([^`]+)`")


def html_page(
    story: Story,
    pictures: Sequence[Picture],
    drawings: Mapping[str, str],
    sections: Sequence[Section],
) -> str:
    """The report as one HTML document that needs no other file.

    Args:
        story: its words.
        pictures: its pictures.
        drawings: the inline SVG of each picture by slug; our own drawing, inserted as it is.
        sections: what stands in it, in order.
    """
    script = _environment(escaped=False).get_template("sort.js").render().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment(escaped=True)
        .get_template("report.html.j2")
        .render(
            story=story,
            pictures={p.slug: p for p in pictures},
            drawings={slug: Markup(drawing) for slug, drawing in drawings.items()},
            css=Markup(_style_sheet()),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            sections=sections,
            glossary=GLOSSARY,
            marks=MARKS,
            unit="tokens per parameter",
        )
    )


def markdown_page(story: Story, pictures: Sequence[Picture], sections: Sequence[Section]) -> str:
    """The report as Markdown, for a pull request; pictures are files beside it."""
    environment = _environment(escaped=False)
    text = environment.get_template("report.md.j2").render(
        story=story,
        pictures={p.slug: p for p in pictures},
        sections=sections,
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
        loader=jinja2.PackageLoader("analysis.report", "templates"),
        autoescape=escaped,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown
    environment.filters["code"] = markdown_code
    environment.filters["prose"] = _prose
    environment.filters["words"] = _words
    environment.filters["plain"] = lambda v: "" if v is None or v != v else repr(float(v))
    return environment


def _words(text: str) -> Markup:
    """A sentence for HTML: what stands in backticks is code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(_CODE.split(text))
    )


def _prose(text: str) -> str:
    """A sentence for Markdown: what stands in backticks is code."""
    done = ""
    for i, part in enumerate(_CODE.split(text)):
        before = " " if done and part[:1].isspace() else ""
        after = " " if part[-1:].isspace() else ""
        done += markdown_code(part) if i % 2 else f"{before}{markdown(part)}{after}"
    return done.strip()


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

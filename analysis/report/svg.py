"""From a matplotlib figure to the bytes that are kept: PNG, SVG file, SVG inside a page.

The same figure gives the same bytes in every process: dates, version and salt are fixed. Inside a
page an SVG has no size of its own, its ids carry the picture's name, its colours are style-sheet
variables (so that it follows a dark page) and its points have titles.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from analysis.report.picture import Picture, PointName
from analysis.report.plot_style import DARK, RAMP, RAMP_DARK, drawing_style

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_PNG_DPI = 200
_TIP_X, _TIP_Y = "46", "10"
"""Where a point's name is shown: along the upper edge, where it is never cut off."""
_ORPHAN_SPACE = re.compile(r">\s+<")

VARIABLES = {colour: f"--c{i}" for i, colour in enumerate(DARK)} | {
    colour: f"--r{i}" for i, colour in enumerate(RAMP)
}
"""Style-sheet variable of each colour of the pictures."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A picture as bytes."""

    png: bytes
    """Raster, 200 dots per inch, light."""
    svg: bytes
    """A file of its own, light."""
    inline: str
    """The element for a page."""


def render(picture: Picture, *, raster: bool = True) -> Rendered:
    """Draw a picture once for each format; `raster` = False leaves the PNG empty."""
    with drawing_style():
        raw = io.BytesIO()
        picture.figure.savefig(
            raw,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
        # The layout found for the first format serves the second one too.
        picture.figure.set_layout_engine("none")
        png = io.BytesIO()
        if raster:
            picture.figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    root = ET.fromstring(raw.getvalue().decode("utf-8"))
    _clean(root)
    named = _name_points(root, picture)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    standalone = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return Rendered(
        png=png.getvalue(), svg=standalone + b"\n", inline=_inline(root, picture, named)
    )


def _clean(root: ET.Element) -> None:
    """Drop metadata and comments; put the drawing's link attributes in their plain form."""
    for element in list(root):
        if element.tag == f"{{{_SVG}}}metadata":
            root.remove(element)
    for element in root.iter():
        link = element.attrib.pop(f"{{{_XLINK}}}href", None)
        if link is not None:
            element.set("href", link)


def _name_points(root: ET.Element, picture: Picture) -> list[tuple[ET.Element, PointName]]:
    """Give each point of a named group its title, which browsers show on hovering.

    Returns:
        The points with their names, in the order in which they were drawn.
    """
    groups = {g.get("id"): g for g in root.iter(f"{{{_SVG}}}g")}
    named = []
    for gid, names in picture.names.items():
        marks = list(_marks(groups[gid]))
        if len(marks) != len(names):
            raise AssertionError(f"{picture.slug}: {len(marks)} marks for {len(names)} names")
        for mark, name in zip(marks, names, strict=True):
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = name.text
            mark.insert(0, title)
            named.append((mark, name))
    return named


def _marks(group: ET.Element) -> Iterator[ET.Element]:
    """The drawn elements of a group in order, definitions left aside."""
    for child in group:
        if child.tag == f"{{{_SVG}}}defs":
            continue
        if child.tag in (f"{{{_SVG}}}use", f"{{{_SVG}}}path"):
            yield child
        else:
            yield from _marks(child)


def _inline(root: ET.Element, picture: Picture, named: list[tuple[ET.Element, PointName]]) -> str:
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "group" if picture.focusable else "img")
    root.set("aria-label", picture.alt)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{picture.slug}-{value}")
            elif name == "href":
                element.set(name, f"#{picture.slug}-{value.removeprefix('#')}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{picture.slug}-"))
            if name == "style":
                element.set(name, _themed(element.attrib[name]))
    if picture.focusable:
        _link_points(root, named)
    return _ORPHAN_SPACE.sub("><", ET.tostring(root, encoding="unicode"))


def _themed(style: str) -> str:
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, f"var({variable})")
    return style


def _link_points(root: ET.Element, named: list[tuple[ET.Element, PointName]]) -> None:
    """Make each point a link to its run's row; its name shows while it has the focus."""
    parents = {child: parent for parent in root.iter() for child in parent}
    for mark, name in named:
        parent = parents[mark]
        place = list(parent).index(mark)
        parent.remove(mark)
        link = ET.Element("a", {"href": f"#{name.anchor}", "aria-label": name.text})
        tip = ET.Element("text", {"class": "tip", "x": _TIP_X, "y": _TIP_Y, "aria-hidden": "true"})
        tip.text = name.short
        mark.remove(mark[0])
        link.extend([mark, tip])
        parent.insert(place, link)


def theme_css() -> tuple[str, str]:
    """Declarations of the colour variables for a light and for a dark page."""
    dark = [*DARK.values(), *RAMP_DARK]
    light_rules = (f"{v}:{c}" for c, v in VARIABLES.items())
    dark_rules = (f"{v}:{c}" for c, v in zip(dark, VARIABLES.values(), strict=True))
    return ";".join(light_rules), ";".join(dark_rules)

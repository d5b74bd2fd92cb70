"""The report as a PDF for paper and post: A4, paginated, with outline, alt texts and page numbers.

Set by fpdf2 (pure Python: no browser, no system library) from the same sections as the page, in
the DejaVu faces that matplotlib carries. The same input gives the same bytes: the document has no
date of its own. Foreign text is drawn as text; nothing in it is run or followed.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from fpdf import FPDF, FontFace, XPos, YPos
from fpdf.enums import TableBordersLayout

from analysis.report.escape import one_line
from analysis.report.layout import GLOSSARY, Block, Section
from analysis.report.picture import Picture
from analysis.report.plot_style import GRID, INK, MUTED
from analysis.report.story import Story
from analysis.report.text_table import Table

_MARGIN = 18.0
_WIDE_MARGIN = 12.0
_TEXT, _SMALL, _CELL = 9.5, 8.5, 7.0
"""Sizes in points: of text, of remarks, of table cells."""
_LINE = 1.42
"""Height of a line over the size of its text."""
_MM = 25.4 / 72
_WIDE_COLUMNS = 11
"""A table of more columns is set on a page turned by a quarter."""
_MOST_ROWS = 300
"""Rows of a table that are printed: a table of thousands is for a machine."""
_TONES = {"identified": "#00694e", "weak": "#9a4a00", "not_identified": "#b3261e"}
_SIGNS = {"passed": "✓", "refused": "✗", "weak": "!", "note": "·"}
_PICTURE_WIDTH = 145.0
_LEFT, _BELOW = XPos.LMARGIN, YPos.NEXT
"""Where writing goes on after a line: at the margin, below it."""
_NO_DATE = datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC)


def pdf_document(
    story: Story,
    pictures: Sequence[Picture],
    drawings: Mapping[str, bytes],
    sections: Sequence[Section],
) -> bytes:
    """The report as one PDF.

    Args:
        story: its words.
        pictures: its pictures.
        drawings: PNG of each picture by slug.
        sections: what stands in it, in order.
    """
    # Names in scripts that the face lacks are drawn as empty boxes; the page has them right.
    logging.getLogger("fpdf").setLevel(logging.ERROR)
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    pages = _Pages(story, {p.slug: p for p in pictures}, drawings)
    pages.answer()
    for section in sections:
        pages.section(section)
    return bytes(pages.output())


class _Pages(FPDF):
    """The document while it is set."""

    def __init__(
        self, story: Story, pictures: Mapping[str, Picture], drawings: Mapping[str, bytes]
    ) -> None:
        super().__init__(format="A4")
        self._story, self._pictures, self._drawings = story, pictures, drawings
        self.set_creation_date(_NO_DATE)
        self.set_producer("isosweep")
        self.set_title(one_line(story.title))
        self.set_lang("en")
        faces = Path(mpl.get_data_path()) / "fonts" / "ttf"
        for style, face in (("", ""), ("B", "-Bold"), ("I", "-Oblique")):
            self.add_font("sans", style, faces / f"DejaVuSans{face}.ttf")
        self.set_margins(_MARGIN, _MARGIN)
        self.set_auto_page_break(True, margin=_MARGIN)
        self._turned = "P"
        self.add_page()

    def footer(self) -> None:
        """Title and number of each page."""
        self.set_y(-12)
        self._face(7.5, colour=MUTED)
        title = one_line(self._story.title)
        self.cell(0, 4, title if len(title) < 110 else f"{title[:108]}…", new_x=XPos.LMARGIN)
        self.cell(0, 4, f"{self.page_no()} of {{nb}}", align="R")

    def answer(self) -> None:
        """The first page's head: the answer, its numbers, what it rests on."""
        story = self._story
        self._face(10.5, "B")
        self._paragraph(story.title)
        if story.unfinished:
            self._face(_TEXT, "B", _TONES["weak"])
            self._paragraph(f"{story.unfinished}. This is the answer so far.")
        tone = _TONES[story.status]
        self.ln(2)
        self._face(9, "B", tone)
        self.cell(
            0, 6, story.verdict + (" so far" if story.unfinished else ""), new_x=_LEFT, new_y=_BELOW
        )
        if story.ratio:
            self._face(24, "B", tone)
            self.cell(0, 12, story.ratio, new_x=_LEFT, new_y=_BELOW)
            self._face(_TEXT, colour=MUTED)
            weak = " — a weak answer, see why below" if story.status == "weak" else ""
            self._paragraph(f"tokens per parameter, {story.ratio_interval}{weak}")
        self._face(11)
        self._paragraph(story.answer)
        self.ln(1)
        self._numbers()
        self._face(_TEXT)
        for line in story.support:
            self._paragraph(line)

    def section(self, section: Section) -> None:
        """A heading and what stands under it."""
        first = section.blocks[0]
        wide = first.kind == "table" and self._is_wide(first.name)
        self._turn("L" if wide else "P")
        if not wide:
            self._keep_together(22 + self._height_of(first))
            self.ln(5)
        self._face(13.5, "B")
        self.start_section(one_line(section.heading))
        self._paragraph(section.heading, after=1.5)
        for block in section.blocks:
            self._block(block)

    def _block(self, block: Block) -> None:
        self._face(_TEXT)
        match block.kind:
            case "text":
                for line in block.lines:
                    self._paragraph(line)
            case "list":
                for line in block.lines:
                    self._item("•", line)
            case "heading":
                self._keep_together(16)
                self.ln(1.5)
                self._face(10.5, "B")
                self._paragraph(block.lines[0], after=0.8)
            case "rules":
                self._rules()
            case "picture":
                self._picture(self._pictures[block.name])
            case "table":
                self._turn("L" if self._is_wide(block.name) else "P")
                self._sheet(self._story.tables[block.name])
            case "glossary":
                for word, meaning in GLOSSARY:
                    self._item(word, meaning, indent=40)

    def _numbers(self) -> None:
        """The key numbers in columns."""
        figures = self._story.figures
        width = self.epw / max(len(figures), 1)
        top, tallest = self.get_y(), self.get_y()
        for i, (what, value, remark) in enumerate(figures):
            x = self.l_margin + i * width
            for text, size, style, colour in (
                (what, 7.5, "", MUTED),
                (value, 11.0, "B", INK),
                (remark, 7.5, "", MUTED),
            ):
                self._face(size, style, colour)
                self.set_x(x)
                self.multi_cell(
                    width - 2,
                    size * _MM * 1.35,
                    one_line(text),
                    align="L",
                    new_x=_LEFT,
                    new_y=_BELOW,
                )
            tallest = max(tallest, self.get_y())
            self.set_y(top)
        self.set_y(tallest + 3)

    def _rules(self) -> None:
        for check in self._story.checks:
            colour = {"refused": _TONES["not_identified"], "weak": _TONES["weak"]}.get(
                check.outcome, _TONES["identified"] if check.outcome == "passed" else MUTED
            )
            self._face(_SMALL)
            lines = self._lines(check.message, self.epw - 74)
            self._keep_together(lines * _SMALL * _MM * _LINE + 1)
            y = self.get_y()
            self._face(_SMALL, "B", colour)
            self.cell(20, _SMALL * _MM * _LINE, f"{_SIGNS[check.outcome]} {check.outcome}")
            self._face(_SMALL, "B")
            self.multi_cell(
                52,
                _SMALL * _MM * _LINE,
                f"{check.rule} {check.name}",
                align="L",
                new_x=_LEFT,
                new_y=_BELOW,
            )
            below = self.get_y()
            self._face(_SMALL)
            self.set_xy(self.l_margin + 74, y)
            self.multi_cell(
                0,
                _SMALL * _MM * _LINE,
                one_line(check.message),
                align="L",
                new_x=_LEFT,
                new_y=_BELOW,
            )
            self.set_y(max(below, self.get_y()) + 0.6)

    def _picture(self, picture: Picture) -> None:
        width, height = picture.figure.get_size_inches()
        shown = _PICTURE_WIDTH * height / width
        self._face(_SMALL)
        words = self._lines(picture.caption, self.epw) * _SMALL * _MM * _LINE
        self._keep_together(shown + words + 4)
        self.image(
            BytesIO(self._drawings[picture.slug]),
            x=self.l_margin,
            w=_PICTURE_WIDTH,
            alt_text=one_line(picture.alt),
        )
        self.ln(1)
        self._face(_SMALL, colour=MUTED)
        self._paragraph(picture.caption, size=_SMALL, after=3)

    def _sheet(self, table: Table) -> None:
        self._keep_together(24)
        self.ln(1.5)
        self._face(9, "B")
        self._paragraph(table.caption, size=9, after=0.8)
        self.set_draw_color(GRID)
        rows = table.rows[:_MOST_ROWS]
        text = [[one_line(cell) for cell in row] for row in rows]
        heads = [one_line(head) for head in table.headings]
        widths = self._widths(heads, text)
        self._face(_CELL)
        with self.table(
            col_widths=widths,
            width=self.epw,
            text_align=tuple(
                "LEFT" if i in table.text_columns else "RIGHT" for i in range(len(heads))
            ),
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            line_height=_CELL * _MM * 1.45,
            headings_style=FontFace(emphasis="BOLD"),
            padding=(0.5, 1.3),
            v_align="T",
        ) as sheet:
            sheet.row(heads)
            for i, row in enumerate(text):
                faint = bool(table.faint) and table.faint[i]
                sheet.row(row, style=FontFace(emphasis="ITALICS", color=MUTED) if faint else None)
        if len(table.rows) > len(rows):
            self._face(_SMALL, colour=MUTED)
            self._paragraph(f"{len(table.rows) - len(rows)} more rows are in losses.csv.")
        self.ln(2.5)

    def _widths(self, heads: list[str], rows: list[list[str]]) -> tuple[float, ...]:
        """Widths of columns: each as its words want, long ones giving way first."""
        self._face(_CELL, "B")
        wanted = []
        for i, head in enumerate(heads):
            longest = max((self.get_string_width(w) for w in head.split()), default=0.0)
            cells = [self.get_string_width(row[i]) for row in rows[:80]]
            wanted.append((max([longest, *cells]) + 3.4, longest + 3.4))
        room = self.epw
        widths = [want for want, _ in wanted]
        # Lower one common ceiling until the row fits: only what is longer than it is broken.
        ceiling = max(widths)
        while (
            sum(min(w, max(ceiling, least)) for w, (_, least) in zip(widths, wanted, strict=True))
            > room
        ):
            ceiling *= 0.97
            if ceiling < 4:
                break
        fitted = [min(w, max(ceiling, least)) for w, (_, least) in zip(widths, wanted, strict=True)]
        spare = max(room - sum(fitted), 0.0)
        return tuple(w + spare * w / sum(fitted) for w in fitted)

    def _is_wide(self, name: str) -> bool:
        return len(self._story.tables[name].headings) > _WIDE_COLUMNS

    def _turn(self, orientation: str) -> None:
        """Go on in this orientation, on a new page where it changes."""
        if self._turned == orientation:
            return
        self._turned = orientation
        margin = _WIDE_MARGIN if orientation == "L" else _MARGIN
        self.set_margins(margin, margin if orientation == "L" else _MARGIN)
        self.add_page(orientation=orientation)

    def _keep_together(self, height: float) -> None:
        """Begin a new page when so much does not fit on this one, in millimetres."""
        if self.get_y() > self.t_margin + 1 and self.will_page_break(height):
            self.add_page(orientation=self._turned)

    def _height_of(self, block: Block) -> float:
        """About how much of a block must stand below its heading, in millimetres."""
        if block.kind != "picture":
            return 8.0
        width, height = self._pictures[block.name].figure.get_size_inches()
        return float(_PICTURE_WIDTH * height / width) + 14

    def _item(self, mark: str, text: str, *, indent: float = 5.0) -> None:
        self._keep_together(_TEXT * _MM * _LINE * 2)
        self._face(_TEXT, "B" if indent > 5 else "")
        y = self.get_y()
        self.cell(indent, _TEXT * _MM * _LINE, one_line(mark))
        self.set_xy(self.l_margin + indent, y)
        self._face(_TEXT)
        self.multi_cell(0, _TEXT * _MM * _LINE, _plain(text), align="L", new_x=_LEFT, new_y=_BELOW)
        self.ln(0.6)

    def _paragraph(self, text: str, *, size: float | None = None, after: float = 1.6) -> None:
        height = (size or self.font_size_pt) * _MM * _LINE
        self.multi_cell(0, height, _plain(text), align="L", new_x=_LEFT, new_y=_BELOW)
        self.ln(after)

    def _lines(self, text: str, width: float) -> int:
        split = self.multi_cell(width, 4, one_line(text), dry_run=True, output="LINES", align="L")
        return len(split) if isinstance(split, list) else 1

    def _face(self, size: float, style: str = "", colour: str = INK) -> None:
        self.set_font("sans", style, size)
        self.set_text_color(colour)


def _plain(text: str) -> str:
    """A sentence without the marks of code."""
    return one_line(text).replace("`", "")

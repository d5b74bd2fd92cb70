"""A table of text, before any format: whoever writes it into one escapes its cells."""

from __future__ import annotations

from dataclasses import dataclass

_LONG = 26


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text."""

    caption: str
    """What it is, in a few words."""
    headings: tuple[str, ...]
    """One for each column."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, one for each heading."""
    text_columns: tuple[int, ...] = (0,)
    """Columns of words, aligned to the left; all others hold numbers."""
    anchors: tuple[str, ...] = ()
    """Id of each row, where other parts of the page refer to them."""
    faint: tuple[bool, ...] = ()
    """Whether each row is set back, such as an excluded run."""
    values: tuple[tuple[float | None, ...], ...] = ()
    """The number behind each cell, for a table that can be sorted; None for words."""

    @property
    def long_columns(self) -> frozenset[int]:
        """Columns of words whose cells are sentences: they may be broken into lines."""
        return frozenset(
            i for i in self.text_columns if any(len(row[i]) > _LONG for row in self.rows)
        )

"""The report as a folder: written beside its place, then swapped in whole.

The folder holds `report.html` (one file, no network), `report.pdf`, `report.md`, `report.ipynb`,
`fit.json`, `losses.csv`, `losses.parquet`, `table.tex`, `references.bib` and `figures/` with each
picture as PNG and SVG and the numbers behind it as CSV. The same input gives the same bytes. The
folder is replaced whole: a reader sees the old report or the new one, never a part.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.report.sweep_facts import CurvePoint, SweepFacts
from analysis.table import LossTable

FORMATS = {
    "html": "report.html",
    "pdf": "report.pdf",
    "md": "report.md",
    "ipynb": "report.ipynb",
    "json": "fit.json",
    "csv": "losses.csv",
    "parquet": "losses.parquet",
    "tex": "table.tex",
    "bib": "references.bib",
}
"""File of each format."""
_FILES = frozenset(FORMATS.values())
_FIGURES = "figures"
_ENDINGS = {".png", ".svg", ".csv"}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class ReportFolderError(ValueError):
    """A folder that cannot be replaced by a report because it holds something else."""


def write_report(
    out_dir: Path,
    *,
    fit: Mapping[str, Any],
    table: LossTable,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    sweep: SweepFacts | None = None,
    page_only: bool = False,
) -> Path:
    """Write the report folder, replacing an earlier report whole.

    Args:
        out_dir: the folder; created, or replaced when it holds a report and nothing else.
        fit: `fit.json` (schema sweep.fit/1) as a mapping.
        table: the runs behind it.
        curves: training curve of each trial_id.
        sweep: what is known of the sweep; None for a table from elsewhere.
        page_only: write `report.html` alone: quick, for a sweep that is still running.

    Returns:
        Path of `report.html`.

    Raises:
        ReportFolderError: when out_dir holds files that are not a report's.
    """
    out_dir = Path(out_dir)
    _recover(out_dir)
    _refuse_foreign(out_dir)
    files = _contents(fit, table, curves or {}, sweep, page_only=page_only)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(out_dir, "partial")
    if partial.exists():
        shutil.rmtree(partial)
    for name, content in files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _swap(partial, out_dir)
    return out_dir / "report.html"


def _contents(
    fit: Mapping[str, Any],
    table: LossTable,
    curves: Mapping[str, Sequence[CurvePoint]],
    sweep: SweepFacts | None,
    *,
    page_only: bool,
) -> dict[str, bytes]:
    """Every file of a report by its relative name."""
    # Drawing loads matplotlib: whoever only names `SweepFacts` must not wait for it.
    from analysis.published import BIBTEX
    from analysis.report.exports import (
        fit_json,
        losses_csv,
        losses_parquet,
        notebook,
        picture_csv,
        tables_tex,
    )
    from analysis.report.gather import gather
    from analysis.report.layout import lay_out
    from analysis.report.pages import html_page, markdown_page
    from analysis.report.pdf import pdf_document
    from analysis.report.plots import draw_pictures
    from analysis.report.story import tell
    from analysis.report.svg import render

    evidence = gather(fit, table, sweep)
    story, pictures = tell(evidence), draw_pictures(evidence, curves)
    sections = lay_out(story, {p.slug for p in pictures}, has_sweep=sweep is not None)
    rendered = {p.slug: render(p, raster=not page_only) for p in pictures}
    drawings = {slug: r.inline for slug, r in rendered.items()}
    page = html_page(story, pictures, drawings, sections)
    if page_only:
        return {"report.html": page.encode(errors="backslashreplace")}
    texts = {
        "report.html": page,
        "report.md": markdown_page(story, pictures, sections),
        "report.ipynb": notebook(fit),
        "fit.json": fit_json(fit),
        "losses.csv": losses_csv(table),
        "table.tex": tables_tex(story),
        "references.bib": BIBTEX,
        **{f"{_FIGURES}/{p.slug}.csv": picture_csv(p) for p in pictures},
    }
    # Half a surrogate pair in a run's name has no UTF-8: it is written out, not refused.
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    files["losses.parquet"] = losses_parquet(table)
    files["report.pdf"] = pdf_document(
        story, pictures, {slug: r.png for slug, r in rendered.items()}, sections
    )
    for slug, drawn in rendered.items():
        files[f"{_FIGURES}/{slug}.png"] = drawn.png
        files[f"{_FIGURES}/{slug}.svg"] = drawn.svg
    return files


def _beside(out_dir: Path, ending: str) -> Path:
    return out_dir.with_name(f".{out_dir.name}.{ending}")


def _refuse_foreign(out_dir: Path) -> None:
    """Never replace a folder that holds anything but a report."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise ReportFolderError(f"a report is a folder; {out_dir} is a file. Choose another place")
    foreign = sorted(p.name for p in out_dir.iterdir() if p.name not in {*_FILES, _FIGURES})
    if (out_dir / _FIGURES).is_dir():
        foreign += sorted(
            f"{_FIGURES}/{p.name}"
            for p in (out_dir / _FIGURES).iterdir()
            if p.suffix not in _ENDINGS or not p.is_file()
        )
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ReportFolderError(
            f"a report replaces its folder whole; {out_dir} also holds {shown}. "
            "Choose an empty or a new folder"
        )


def _recover(out_dir: Path) -> None:
    """Bring back a report that was set aside when a swap was cut off."""
    previous = _beside(out_dir, "previous")
    if previous.exists():
        if out_dir.exists():
            shutil.rmtree(previous)
        else:
            os.replace(previous, out_dir)


def _swap(partial: Path, out_dir: Path) -> None:
    """Put the new folder in the old one's place: in one step where the system can exchange two."""
    if not out_dir.exists():
        os.replace(partial, out_dir)
        return
    if _exchange(partial, out_dir):
        shutil.rmtree(partial)
        return
    previous = _beside(out_dir, "previous")
    os.replace(out_dir, previous)
    os.replace(partial, out_dir)
    shutil.rmtree(previous)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    first, second = os.fsencode(one), os.fsencode(other)
    return library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0

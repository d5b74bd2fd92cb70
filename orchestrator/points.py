"""Reads the points of a `file` design: a CSV or a YAML list beside the budget."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from orchestrator.budget import Budget
from orchestrator.design_section import FileDesign, ListedPoint
from orchestrator.errors import BadInput, Fault

_SHAPE = ("d_model", "n_layer", "n_head")
_POINTS = TypeAdapter(tuple[ListedPoint, ...])


def with_points(budget: Budget, base: Path) -> Budget:
    """The budget with the points of its list written in; other budgets as they are.

    Args:
        budget: what was asked for.
        base: folder that a relative path is taken from.

    Raises:
        BadInput: when the list is missing, unreadable or holds a wrong point.
    """
    design = budget.design
    if not isinstance(design, FileDesign) or design.path is None:
        return budget
    path = base / design.path
    try:
        text = path.read_text(encoding="utf-8")
        records = _csv(text) if path.suffix.lower() == ".csv" else yaml.safe_load(text)
        points = _POINTS.validate_python(records)
    except OSError as error:
        raise _bad(path, f"the list of points must be readable: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _bad(path, f"the list of points must be UTF-8 CSV or YAML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise _bad(path, f"point {place}: {first['msg'].removeprefix('Value error, ')}") from None
    if not points:
        raise _bad(path, "the list of points must hold at least one")
    listed = FileDesign(kind="file", path=design.path, points=points)
    return budget.model_copy(update={"design": listed})


def _csv(text: str) -> list[dict[str, object]]:
    """Rows as points: a shape where its three columns are filled, else N."""
    records: list[dict[str, object]] = []
    for row in csv.DictReader(io.StringIO(text)):
        cells = {str(key).strip(): str(value or "").strip() for key, value in row.items()}
        filled: dict[str, object] = {key: value for key, value in cells.items() if value}
        if any(key in filled for key in _SHAPE):
            filled["shape"] = {key: filled.pop(key) for key in _SHAPE if key in filled}
        records.append(filled)
    return records


def _bad(path: Path, rule: str) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-1205",
            rule=rule,
            place=f"design.path: {path}",
            remedy="columns params, tokens; or d_model, n_layer, n_head, tokens; a YAML list has "
            "the same keys, a shape under `shape:`",
        )
    )

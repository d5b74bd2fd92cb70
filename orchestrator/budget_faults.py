"""What is wrong with a budget file, in words: pydantic's errors with line, column and remedy."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.design_section import DESIGNS, IsoflopDesign, ListedPoint, kind_of
from orchestrator.errors import Fault, nearest
from orchestrator.model_section import Mixture, Shape
from orchestrator.yaml_source import Path, Source


def faults_of(error: ValidationError, source: Source, *, root: type[BaseModel]) -> list[Fault]:
    """Every fault of a budget file, in the order of its lines.

    Args:
        error: what pydantic found.
        source: the file, which knows the place of every key.
        root: the schema of the whole file.
    """
    faults: dict[tuple[str, str], Fault] = {}
    found = error.errors(include_url=False)
    for item in found:
        path = _path(item["loc"])
        if item["type"] == "extra_forbidden":  # somebody's own key, which may look like a tag
            path = (*_path(item["loc"][:-1]), item["loc"][-1])
        if item["type"] == "too_short" and any(
            len(other["loc"]) > len(item["loc"]) and other["loc"][: len(item["loc"])] == item["loc"]
            for other in found
        ):
            continue  # its items were refused, so that none was left
        fault = _fault(item["type"], item, path, source, root)
        faults.setdefault((fault.place, fault.rule), fault)
    return sorted(faults.values(), key=lambda fault: _order(fault.place))


def _path(location: Path) -> Path:
    """Pydantic's location as a path of keys, without the tags of the unions on its way."""
    tagged = len(location) > 1 and location[0] == "design" and location[1] in DESIGNS
    untagged = (location[0], *location[2:]) if tagged else location
    return tuple(part for part in untagged if _is_key(part))


def _is_key(part: str | int) -> bool:
    return isinstance(part, int) or not re.search(r"[\[(]|^(tuple|float|int|str|literal)$", part)


def _fault(kind: str, item: Any, path: Path, source: Source, root: type[BaseModel]) -> Fault:
    dotted = ".".join(map(str, path)) or "the file"
    place, excerpt = source.place(path), source.excerpt(path)
    if kind == "extra_forbidden":
        return Fault(
            code="SWP-1101",
            rule=f"`{dotted}` is no key of a budget",
            place=place,
            excerpt=excerpt,
            remedy=nearest(str(path[-1]), _valid_keys(path[:-1], source, root)),
        )
    if kind == "union_tag_invalid":
        return Fault(
            code="SWP-1103",
            rule=f"`{dotted}.kind`: must be one of {', '.join(DESIGNS)}, "
            f"got {kind_of(item['input'])!r}",
            place=source.place((*path, "kind")),
            excerpt=source.excerpt((*path, "kind")),
            remedy=nearest(kind_of(item["input"]), DESIGNS),
        )
    if kind == "missing":
        return Fault(
            code="SWP-1102",
            rule=f"`{dotted}` must be given",
            place=place,
            remedy=f"add `{path[-1]}:`; `sweep init` writes a complete example",
        )
    got = item["input"]
    message = item["msg"].removeprefix("Value error, ")
    if "got" not in message and not isinstance(got, dict):
        message = f"{message[:1].lower()}{message[1:]}, got {got!r}"
    return Fault(
        code="SWP-1103" if kind != "value_error" else "SWP-1104",
        rule=f"`{dotted}`: {message}",
        place=place,
        excerpt=excerpt,
        remedy=_description(path, source, root) or "see `sweep plan --show-defaults`",
    )


def _valid_keys(path: Path, source: Source, root: type[BaseModel]) -> list[str]:
    model = _section(path, source, root)
    return list(model.model_fields) if model else []


def _description(path: Path, source: Source, root: type[BaseModel]) -> str:
    model = _section(path[:-1], source, root) if path else None
    if model is None or str(path[-1]) not in model.model_fields:
        section = _section(path, source, root)
        return " ".join((section.__doc__ or "").split()) if section and path else ""
    return " ".join((model.model_fields[str(path[-1])].description or "").split())


def _section(path: Path, source: Source, root: type[BaseModel]) -> type[BaseModel] | None:
    model = root
    for place, part in enumerate(path):
        if part == "design" and place == 0:
            model = DESIGNS.get(kind_of(source.value.get("design")), IsoflopDesign)
            continue
        if part in _ITEMS or isinstance(part, int):
            model = _ITEMS.get(str(part), model)
            continue
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return None
        if not issubclass(field.annotation, BaseModel):
            return None
        model = field.annotation
    return model


_ITEMS: dict[str | int, type[BaseModel]] = {
    "shapes": Shape,
    "shape": Shape,
    "experts": Mixture,
    "points": ListedPoint,
}
"""Sections below keys whose annotation is not a section itself."""


def _order(place: str) -> tuple[int, int]:
    numbers = re.findall(r":(\d+)", place)
    return (int(numbers[-2]), int(numbers[-1])) if len(numbers) >= 2 else (0, 0)

"""Strict YAML 1.2 with positions: text in, plain values and the place of every key out.

Stock loaders read `1e18` as a string, `no` as false, and keep the last of two equal keys. Budgets
are written with exactly such values, so scalars are resolved here by the core schema of YAML 1.2
(section 10.3.2), and what it cannot mean safely is refused: tags, duplicate keys, more than one
document, and alias bombs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from orchestrator.errors import BadInput, Fault

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_ALIASES = 100
MAX_DIGITS = 250
"""Longest integer that is read as one; a longer one is infinite, which no key of a budget takes."""

Path = tuple[str | int, ...]

_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_OPENINGS = ("while parsing a flow", "while scanning a quoted")
"""What the parser was at when a bracket or a quote was never closed."""
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "null", "bool", "int", "float", "timestamp", "merge", "value")
)


@dataclass(slots=True)
class Source:
    """A parsed file: its values, and where each of them stands."""

    file: str
    """Name to print in front of a place."""
    text: str
    """The text as read."""
    value: dict[str, Any] = field(default_factory=dict)
    """The top-level mapping as plain Python values."""
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """(line, column), from 1, of each key (or list item) by its path."""

    def place(self, path: Path) -> str:
        """`file:line:column` of the deepest part of `path` that the file has."""
        line, column = self._position(path)
        return f"{self.file}:{line}:{column}" if line else self.file

    def excerpt(self, path: Path) -> str:
        """The line of `path` with a caret under its column."""
        line, column = self._position(path)
        return self.line_with_caret(line, column) if line else ""

    def line_with_caret(self, line: int, column: int) -> str:
        """Line `line` with a caret under `column`, both from 1."""
        lines = self.text.splitlines()
        if not 1 <= line <= len(lines):
            return ""
        start = max(0, column - 100)
        shown = lines[line - 1][start : start + 200].replace("\t", " ")
        return f"{shown}\n{' ' * (column - 1 - start)}^"

    def _position(self, path: Path) -> tuple[int, int]:
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return (0, 0)


def parse_yaml(text: str, *, file: str) -> Source:
    """Parse one YAML document whose top level is a mapping.

    Args:
        text: the file's text; a byte-order mark and CRLF line ends are accepted.
        file: the name to print in front of places.

    Raises:
        BadInput: with every fault found: syntax, tags, duplicate keys, depth, size.
    """
    source = Source(file=file, text=text.removeprefix("\ufeff"))
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise too_large(file, size)
    root = _compose(source)
    if root is None:
        raise BadInput(
            Fault(
                code="SWP-1003",
                rule="a budget file must not be empty",
                place=file,
                remedy="`sweep init` writes an example to start from",
            )
        )
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else "a single value"
        raise BadInput(
            Fault(
                code="SWP-1004",
                rule=f"the top level of a budget must be a mapping of keys, found {kind}",
                place=_place_of(source, root),
                excerpt=source.line_with_caret(*_position_of(root)),
                remedy="start with `budget:` and its keys; `sweep init` writes an example",
            )
        )
    faults: list[Fault] = []
    source.value = _construct(root, source, (), faults, depth=0)
    if faults:
        raise BadInput(faults)
    return source


def too_large(file: str, size: int) -> BadInput:
    """The error of a file that is not read at all."""
    return BadInput(
        Fault(
            code="SWP-1002",
            rule=f"a budget file must be at most {MAX_BYTES:,} bytes, got {size:,}",
            place=file,
            remedy="name data by path instead of writing it into the budget",
        )
    )


def _compose(source: Source) -> Node | None:
    aliases = len(re.findall(r"(?m)(?:^|[\s\[,:-])\*[A-Za-z0-9_]+", source.text))
    if aliases > MAX_ALIASES:
        raise BadInput(
            Fault(
                code="SWP-1005",
                rule=f"a budget may use at most {MAX_ALIASES} aliases, found {aliases}",
                place=source.file,
                remedy="write the values out",
            )
        )
    try:
        documents = list(yaml.compose_all(source.text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        raise BadInput(_syntax_fault(source, error)) from None
    except yaml.YAMLError as error:
        raise BadInput(
            Fault(
                code="SWP-1001",
                rule=f"the file must be YAML text: {error}".splitlines()[0],
                place=source.file,
                remedy="save it as UTF-8 text",
            )
        ) from None
    except RecursionError:
        raise BadInput(_too_deep(source.file)) from None
    if len(documents) > 1 and documents[1] is not None:
        raise BadInput(
            Fault(
                code="SWP-1006",
                rule="a budget file must hold exactly one YAML document, found a second one",
                place=_place_of(source, documents[1]),
                excerpt=source.line_with_caret(*_position_of(documents[1])),
                remedy="put it into a file of its own, or delete the `---` line",
            )
        )
    return documents[0] if documents else None


def _syntax_fault(source: Source, error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    problem = error.problem or "cannot be read"
    remedy = "check quotes, brackets, colons and indentation around this place"
    if "\\t" in problem or "'\t'" in problem:
        problem, remedy = "tabs cannot indent YAML", "use spaces"
    if error.context and error.context_mark:
        if mark and error.context.startswith(_OPENINGS):
            remedy = f"close it before line {line}, column {column}"
            line, column = error.context_mark.line + 1, error.context_mark.column + 1
            problem = f"what opens here is not closed ({problem})"
        else:
            problem = f"{problem} ({error.context}, begun at line {error.context_mark.line + 1})"
    return Fault(
        code="SWP-1001",
        rule=f"the file must be valid YAML: {problem}",
        place=f"{source.file}:{line}:{column}" if mark else source.file,
        excerpt=source.line_with_caret(line, column),
        remedy=remedy,
    )


def _construct(node: Node, source: Source, path: Path, faults: list[Fault], *, depth: int) -> Any:
    if depth > MAX_DEPTH:
        excerpt = source.line_with_caret(*_position_of(node))
        raise BadInput(_too_deep(_place_of(source, node), excerpt))
    if node.tag not in _PLAIN_TAGS:
        faults.append(_tag_fault(node, source))
        return None
    if isinstance(node, MappingNode):
        return _mapping(node, source, path, faults, depth=depth)
    if isinstance(node, SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            source.places[(*path, index)] = _position_of(child)
            items.append(_construct(child, source, (*path, index), faults, depth=depth + 1))
        return items
    assert isinstance(node, ScalarNode)
    return node.value if node.style is not None else _scalar(node.value)


def _mapping(
    node: MappingNode, source: Source, path: Path, faults: list[Fault], *, depth: int
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, ScalarNode) else None
        line, column = _position_of(key_node)
        if not isinstance(key, str) or key == "<<":
            faults.append(
                Fault(
                    code="SWP-1007",
                    rule="a key must be a plain word",
                    place=f"{source.file}:{line}:{column}",
                    excerpt=source.line_with_caret(line, column),
                    remedy="write `key: value`",
                )
            )
            continue
        here = (*path, key)
        if key in result:
            first = source.places[here][0]
            faults.append(
                Fault(
                    code="SWP-1008",
                    rule=f"a key may be given once: `{'.'.join(map(str, here))}` stands at line "
                    f"{first} and again at line {line}",
                    place=f"{source.file}:{line}:{column}",
                    excerpt=source.line_with_caret(line, column),
                    remedy="delete one of them",
                )
            )
            continue
        source.places[here] = (line, column)
        result[key] = _construct(value_node, source, here, faults, depth=depth + 1)
    return result


def _scalar(text: str) -> bool | int | float | str | None:
    """Resolve a plain scalar by the YAML 1.2 core schema."""
    if _NULL.fullmatch(text):
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            return -math.inf if text.startswith("-") else math.inf
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INF.fullmatch(text):
        return float(f"{match[1]}inf")
    if _NAN.fullmatch(text):
        return float("nan")
    return text


def _position_of(node: Node) -> tuple[int, int]:
    return (node.start_mark.line + 1, node.start_mark.column + 1)


def _place_of(source: Source, node: Node) -> str:
    line, column = _position_of(node)
    return f"{source.file}:{line}:{column}"


def _tag_fault(node: Node, source: Source) -> Fault:
    line, column = _position_of(node)
    return Fault(
        code="SWP-1009",
        rule=f"YAML tags are not allowed, found `{node.tag}`",
        place=f"{source.file}:{line}:{column}",
        excerpt=source.line_with_caret(line, column),
        remedy="write a plain value",
    )


def _too_deep(place: str, excerpt: str = "") -> Fault:
    return Fault(
        code="SWP-1010",
        rule=f"a budget may nest at most {MAX_DEPTH} levels",
        place=place,
        excerpt=excerpt,
        remedy="flatten it; no key of a budget is deeper than four levels",
    )

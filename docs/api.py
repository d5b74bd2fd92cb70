"""The Python reference: public names with the signatures and docstrings that the source has.

The source is read, not imported: the page of the trainer must not need torch.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 88
"""Columns up to which a signature stays on one line."""
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
_ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:, [\w.]+)*): (.*)$")
Definition = ast.FunctionDef | ast.ClassDef


def page(title: str, intro: str, homes: dict[str, str]) -> str:
    """One page of the reference.

    Args:
        title: its heading.
        intro: what stands below it.
        homes: the module that defines each public name, in the order of the page.
    """
    lines = [f"# {title}", "", intro, ""]
    for name, module in homes.items():
        public = "analysis" if module.startswith("analysis.") else module
        lines += [f"## {name}", "", *_definition(find(module, name), public)]
    return re.sub(r"\n{3,}(?!def )", "\n\n", "\n".join(lines)).rstrip() + "\n"


def find(module: str, name: str) -> Definition:
    """The definition of a name, in its module or in the one that this imports it from.

    Raises:
        LookupError: when the module has no such name.
    """
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and any(one.name == name for one in node.names):
            return find(str(node.module), name)
    raise LookupError(f"{module} defines no {name}")


def _file(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def _definition(node: Definition, module: str) -> Iterator[str]:
    call = f"from {module} import {node.name}"
    if isinstance(node, ast.FunctionDef):
        yield from _code(call, "", "", _signature(node))
        yield from _prose(node)
        return
    yield from _code(call)
    yield from _prose(node)
    yield from _fields(node)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            yield from (f"### {node.name}.{item.name}", "")
            if not any(ast.unparse(one) == "property" for one in item.decorator_list):
                yield from _code(_signature(item))
            yield from _prose(item)


def _code(*lines: str) -> Iterator[str]:
    yield from ("```python", *lines, "```", "")


def _signature(node: ast.FunctionDef) -> str:
    arguments = node.args
    given = [one for one in arguments.args if one.arg not in ("self", "cls")]
    defaults = [None] * (len(given) - len(arguments.defaults)) + list(arguments.defaults)
    words = [_argument(one, default) for one, default in zip(given, defaults, strict=True)]
    if arguments.vararg:
        words.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        words.append("*")
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    words += [_argument(one, default) for one, default in named]
    if arguments.kwarg:
        words.append(f"**{_argument(arguments.kwarg, None)}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    short = f"def {node.name}({', '.join(words)}){returns}: ..."
    if len(short) <= WIDTH:
        return short
    inner = "".join(f"    {word},\n" for word in words)
    return f"def {node.name}(\n{inner}){returns}: ..."


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    typed = f"{one.arg}: {ast.unparse(one.annotation)}" if one.annotation else one.arg
    if default is None:
        return typed
    return f"{typed} = {ast.unparse(default)}".replace("'", '"')  # as the formatter has it


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Annotated fields with the docstrings below them."""
    rows = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if item.target.id.startswith("_"):
            continue
        default = "required" if item.value is None else f"`{_default(item.value)}`"
        words = _docstring(after)
        cells = (f"`{item.target.id}`", f"`{ast.unparse(item.annotation)}`", default, words)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    if rows:
        yield from ("| field | type | default | meaning |", "|---|---|---|---|", *rows, "")


def _default(value: ast.expr) -> str:
    """A default; of `field(default=...)` what it stands for."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        for keyword in value.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
            if keyword.arg == "default_factory":
                return f"{ast.unparse(keyword.value)}()"
    return ast.unparse(value)


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def _prose(node: Definition) -> Iterator[str]:
    """A docstring as Markdown: its sections as lists."""
    section, entry = "", []
    for line in (ast.get_docstring(node) or "").splitlines():
        if _SECTION.match(line):
            yield from _closed(entry)
            section, entry = line.rstrip(":"), []
            yield from (f"**{section}**", "")
        elif section:
            text = textwrap.dedent(line[4:]) if line.startswith("    ") else line
            if _ENTRY.match(text) and not line.startswith("        "):
                yield from _closed(entry, end=False)
                entry = [text]
            else:
                entry.append(text)
        else:
            yield line
    yield from _closed(entry)
    yield ""


def _closed(entry: list[str], *, end: bool = True) -> Iterator[str]:
    """One entry of a section as an item."""
    text = " ".join(word for line in entry for word in line.split())
    if text:
        found = _ENTRY.match(text)
        yield f"- `{found[1]}`: {found[2]}" if found else f"- {text}"
        if end:
            yield ""

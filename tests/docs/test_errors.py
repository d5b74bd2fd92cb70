"""Every error code has its page in docs/errors: rule, example as printed, what to do.

The example of each page is held against the source: its text must be one that a `Fault` of this
code could print. So an error that is reworded takes its page along.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, Fault, page_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.stem: path for path in sorted((ROOT / "docs/errors").glob("*.md"))}
OURS = "SWP-7000"
"""Printed by the command itself: there is no `Fault` behind a defect."""


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    folders = ("orchestrator", "trainer", "analysis")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = [text for text in (path.read_text() for path in files) if "SWP-" in text]
    return tuple((text, ast.parse(text)) for text in texts)


def codes_in_the_source() -> set[str]:
    return {code for text, _ in modules() for code in re.findall(r"SWP-\d{4}", text)}


def pattern(node: ast.expr | None) -> str:
    """A regular expression for what an expression can print: its literals, and gaps."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return pattern(node.left) + pattern(node.right)
    if isinstance(node, ast.IfExp):
        return f"(?:{pattern(node.body)}|{pattern(node.orelse)})"
    return ".*"


@functools.cache
def printable(code: str) -> tuple[tuple[str, str], ...]:
    """Patterns (rule, remedy) of every `Fault` that is made with a code."""
    found = []
    for text, tree in modules():
        constants = {
            target.id
            for statement in tree.body
            if isinstance(statement, ast.Assign) and code in ast.unparse(statement)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        if code not in text:
            continue
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            named = given.get("code")
            if isinstance(named, ast.Name) and named.id in constants:
                named = ast.Constant(code)
            if named is not None and code in ast.unparse(named):
                found.append((pattern(given.get("rule")), pattern(given.get("remedy"))))
            elif call.args and ast.unparse(call.args[0]) == repr(code):
                found.append((pattern(call.args[1]), ".*"))
    return tuple(found)


def example(code: str) -> str:
    blocks = re.findall(r"```text\n(.*?)```", PAGES[code].read_text(), flags=re.DOTALL)
    assert blocks, f"{PAGES[code].name} shows no example"
    return str(blocks[0])


def test_every_code_has_its_page_and_no_page_is_idle() -> None:
    assert codes_in_the_source() == set(PAGES)


@pytest.mark.parametrize("code", PAGES)
def test_a_page_says_the_rule_shows_the_error_and_tells_what_to_do(code: str) -> None:
    text = PAGES[code].read_text()
    assert re.match(rf"# {code}: \S", text)
    assert re.search(r"\n\n\*\*What to do\.\*\* \S", text)
    assert example(code).startswith(f"error[{code}]: ")
    assert "\n  help: " in example(code)


@pytest.mark.parametrize("code", sorted(set(PAGES) - {OURS}))
def test_the_example_of_a_page_is_one_that_the_code_can_print(code: str) -> None:
    shown = example(code)
    rule, _, rest = shown.removeprefix(f"error[{code}]: ").partition("\n  help: ")
    rule = re.split(r"\n  --> |\n   \| ", rule)[0]
    assert any(
        re.fullmatch(wanted, rule, flags=re.DOTALL)
        and re.fullmatch(help_line, rest.strip(), flags=re.DOTALL)
        for wanted, help_line in printable(code)
    ), f"no Fault of {code} prints this; the page is not current:\n{shown}"


def test_a_page_is_found_by_its_code_alone() -> None:
    assert {page_of(code) for code in PAGES} == {
        str(path.relative_to(ROOT)) for path in PAGES.values()
    }


def test_an_error_names_the_page_of_each_of_its_codes_once() -> None:
    faults = [Fault(code=c, rule="r", remedy="m") for c in ("SWP-1101", "SWP-1102", "SWP-1101")]
    assert BadInput(faults).pages == "docs/errors/SWP-1101.md, docs/errors/SWP-1102.md"

"""The documentation tells the truth: commands, budgets, links, files and generated pages."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from analysis.table import COLUMNS
from orchestrator.budget import parse_budget
from orchestrator.cli import app
from orchestrator.errors import Exit

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
HOUSE_PAGES = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
ALL_PAGES = [*PAGES, *HOUSE_PAGES]
FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", flags=re.DOTALL | re.MULTILINE)
RUN_MARK = re.compile(r"<!-- run -->\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    runs: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:60]}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            language=match[2],
            text=match[3],
            runs=bool(RUN_MARK.search(text[: match.start()])),
        )
        for match in FENCE.finditer(text)
    ]


ALL_BLOCKS = [block for page in ALL_PAGES for block in blocks(page)]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def sweep_commands(text: str) -> list[list[str]]:
    """Commands of a shell block that call `sweep`, here-documents left out."""
    text = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", text, flags=re.DOTALL).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words and words[0] == "sweep"]


COMMANDS = [
    (block.name, words)
    for block in ALL_BLOCKS
    if block.language == "sh"
    for words in sweep_commands(block.text)
]


def verbs() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def slug(heading: str) -> str:
    """The anchor that Python-Markdown's table of contents gives a heading."""
    plain = re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", heading)
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(page: Path) -> set[str]:
    return {slug(match[1]) for match in re.finditer(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_command_names_a_verb_and_options_that_exist(name: str, words: list[str]) -> None:
    known = verbs()
    assert words[1] in known, f"{name}: `sweep {words[1]}` does not exist"
    options = {opt: item for item in known[words[1]].params for opt in item.opts}
    required = [p for p in known[words[1]].params if p.param_type_name == "argument" and p.required]
    given, rest = 0, iter(words[2:])
    for word in rest:
        if not word.startswith("-"):
            given += 1
            continue
        option = options.get(word.split("=")[0])
        assert option is not None, f"{name}: `sweep {words[1]}` has no option {word}"
        if not option.is_flag and "=" not in word:
            next(rest)
    assert given >= len(required), f"{name}: an argument is missing"


def test_verbs_named_in_running_text_exist() -> None:
    known = verbs()
    for page in ALL_PAGES:
        for verb in re.findall(r"`sweep ([a-z]+)", prose(page)):
            assert verb in known, f"{page.relative_to(ROOT)}: `sweep {verb}` does not exist"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.runs for block in blocks(page))],
    ids=lambda page: str(page.relative_to(DOCS)),
)
def test_blocks_marked_to_run_do_run(page: Path, tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, arguments in (("sweep", "-m orchestrator"), ("python", "")):
        script = bin_dir / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    work = tmp_path / "work"
    work.mkdir()
    for block in blocks(page):
        if not block.runs:
            continue
        done = subprocess.run(
            ["sh", "-eu", "-c", block.text],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.name}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "block", [b for b in ALL_BLOCKS if b.language == "yaml"], ids=lambda block: block.name
)
def test_every_budget_shown_is_valid(block: Block) -> None:
    parse_budget(block.text, file=block.name)


def test_python_shown_compiles() -> None:
    shown = [block for block in ALL_BLOCKS if block.language == "python"]
    assert shown
    for block in shown:
        compile(block.text, block.name, "exec")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_and_anchors_resolve(page: Path) -> None:
    for target in re.findall(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(found), f"{page.name}: {target} has no such heading"


def test_files_named_by_the_contributing_pages_exist() -> None:
    pages = [*(DOCS / "contributing").glob("*.md"), *HOUSE_PAGES, DOCS / "howto/trainer-alone.md"]
    named = re.compile(r"`((?:orchestrator|trainer|analysis|tests|docs|docker|sweeps)/[\w./-]*)`")
    for page in pages:
        for path in named.findall(prose(page)):
            assert (ROOT / path).exists(), f"{page.relative_to(ROOT)}: {path} does not exist"


def test_generated_pages_are_current() -> None:
    for path, text in generator().pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(ROOT)} is not current: run `python docs/generate.py`"
        )


def test_the_loss_table_page_lists_every_column_in_order() -> None:
    rows = (DOCS / "reference/loss-table.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", rows, flags=re.MULTILINE)) == COLUMNS


def test_the_exit_code_page_lists_every_code() -> None:
    rows = (DOCS / "reference/exit-codes.md").read_text(encoding="utf-8")
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", rows, flags=re.MULTILINE)]
    assert listed == sorted(int(code) for code in Exit)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(item: object) -> list[str]:
        if isinstance(item, str):
            return [item]
        inner = item if isinstance(item, list) else list(dict(item).values())  # type: ignore[call-overload]
        return [leaf for part in inner for leaf in leaves(part)]

    # A page about one error is reached from the index of errors.
    pages = [str(page.relative_to(DOCS)) for page in PAGES if page.parent.name != "errors"]
    assert sorted(leaves(settings["nav"])) == pages


def test_pages_load_nothing_from_the_network() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert "repo_url" not in settings  # the theme would ask the host for its stars
    assert [DOCS / path for path in settings["extra"]["polyfills"]] == [
        DOCS / "assets/iframe-worker.js"
    ]
    assert not any(block.language == "mermaid" for block in ALL_BLOCKS)  # drawn by a remote script
    for page in PAGES:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|iframe)\b", prose(page)), page


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert f"## [{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == "Apache-2.0"

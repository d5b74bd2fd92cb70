"""The walls, the drawers, the words that must not be in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orchestrator", "trainer", "analysis")


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_the_layer_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_pure_modules_neither_open_files_nor_ask_the_clock_nor_draw_hidden_numbers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    pure = next(c for c in contracts if c["name"].startswith("the pure core"))["source_modules"]
    impure = re.compile(
        r"\bopen\(|\.read_text\(|\.write_text\(|\bprint\(|time\.time\(|time\.monotonic\("
        r"|datetime\.now|np\.random\.(?!default_rng|Generator|SeedSequence)|\bimport random\b"
    )
    found = []
    for module in pure:
        path = ROOT / module.replace(".", "/")
        files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else path.glob("*.py")
        found += [str(f) for f in files if impure.search(f.read_text())]
    assert found == []


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in sources() if path.name in drawers] == []


def test_every_module_says_what_it_is() -> None:
    assert [str(p) for p in sources() if not p.read_text().startswith('"""')] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_imports_without_its_siblings_runtime(package: str) -> None:
    script = f"import {package}, sys; assert not {{'torch', 'ray', 'mlflow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)

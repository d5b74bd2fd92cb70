"""The notebooks run, and what they show is what was published."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "besiroglu.ipynb"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notebook", ROOT / "docs" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_besiroglu_notebook_reproduces_the_published_numbers(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ROOT.parent / "shared" / "data" / "laws" / "epoch_chinchilla.csv"
    if not table.is_file():
        pytest.skip(f"published table not found: {table.name}")
    monkeypatch.setenv("CHINCHILLA_TABLE", str(table))
    notebook = runner.read(NOTEBOOK)
    shown = runner.text_of(notebook)
    left = runner.execute(notebook)
    law, lad = left["fit"].surface, left["lad"]
    assert left["fit"].objective <= 0.0010182740178006 + 1e-12
    assert pytest.approx((477.83, 2143.42, 1.81721), rel=1e-4) == (law.A, law.B, law.E)
    assert pytest.approx((482.01, 2085.43), rel=1e-3) == (lad.A, lad.B)
    assert (lad.E, lad.alpha, lad.beta) == pytest.approx((1.81686, 0.34781, 0.36585), rel=1e-3)
    # Besiroglu et al. 2024: standard errors, and the 80 % interval of D/N at Chinchilla's compute.
    published = {"A": 124.52, "B": 1293.28, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206, "a": 0.02}
    for name, sd in published.items():
        assert left["bootstrapped"][name].std() == pytest.approx(sd, rel=0.12), name
    assert left["ratios"][5.88e23][1:] == pytest.approx((9.9, 29.0), rel=0.05)
    assert left["printed"].optimum(5.76e23).tokens_per_parameter == pytest.approx(92.6, abs=0.1)
    # The outputs on the page are those of this code, up to the last digits of another machine.
    numbers = re.compile(r"\d+\.?\d*(?:e[-+]\d+)?")
    for old, new in zip(shown, runner.text_of(notebook), strict=True):
        assert numbers.sub("#", old) == numbers.sub("#", new)
        both = zip(numbers.findall(old), numbers.findall(new), strict=True)
        for one, other in ((float(x), float(y)) for x, y in both):
            assert other == pytest.approx(one, rel=0.02, abs=1e-6)

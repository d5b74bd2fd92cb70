"""The zygote, the undisturbed sweep, and the account of what each row showed."""

from __future__ import annotations

import datetime
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.matrix import ROWS, SEED, Trial
from faults.specimen import Place, Zygote

_ACCOUNT = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the full matrix; `make faults` gives them."""
    parser.addoption("--full-matrix", action="store_true", help="every row, at full count")
    parser.addoption("--mutant", default="", help="a defect put into every command")
    parser.addoption("--lane", default="", help="only the rows of a lane: ray or light")
    parser.addoption("--account", default="", help="file for what each row showed, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Open the account."""
    config.stash[_ACCOUNT] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other lane; rows of few injections first, so that a cut run shows the most."""
    if not config.getoption("--full-matrix", default=False):
        return
    lane = config.getoption("--lane")
    rows = {
        item: item.callspec.params["trial"]
        for item in items
        if "trial" in getattr(getattr(item, "callspec", None), "params", {})
    }
    left_out = [item for item, row in rows.items() if lane and row.lane != lane]
    config.hook.pytest_deselected(items=left_out)
    kept = [item for item in items if item not in left_out]
    items[:] = sorted(kept, key=lambda item: rows[item].full if item in rows else 0)


@pytest.fixture(scope="session")
def zygote(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    """The process that becomes the commands."""
    zygote = Zygote()
    mutant = request.config.getoption("--mutant", default="")
    if mutant:
        zygote.common[mutant] = {}
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def calm(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The undisturbed sweep, tracked; its MLflow store serves the others as a prepared one."""
    mutants, zygote.common = zygote.common, {}
    place = Place(tmp_path_factory.mktemp("calm"), zygote)
    place.budget(tracking=True)
    reply = place.finish(place.run("out"))
    assert reply["trials"]["completed"] >= 5
    zygote.common = mutants
    return place


@pytest.fixture
def place(zygote: Zygote, calm: Place) -> Iterator[Place]:
    """A workplace with a short path (Ray's sockets need one), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="flt-"))
    yield Place(folder, zygote, calm.folder / "out" / "mlflow.db")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A row under test."""
    row = request.param
    full = bool(request.config.getoption("--full-matrix", default=False))
    times = row.full if full else row.quick
    if times == 0:
        pytest.skip("part of the full matrix (make faults)")
    trial = Trial(row=row, times=times, full=full, random=random.Random(f"{SEED} {row.id}"))
    begun = time.monotonic()
    entry = request.config.stash[_ACCOUNT].setdefault(row.id, {"held": False, "figure": ""})
    yield trial
    entry["figure"], entry["times"] = trial.figure, trial.times
    entry["held"] = bool(trial.figure) and request.node.stash.get(_PASSED, False)
    entry["seconds"] = round(time.monotonic() - begun, 1)
    entry["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    write_account(request.config)


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember whether a test passed, for its row's account."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[_PASSED] = report.passed


def write_account(config: pytest.Config) -> None:
    """Write what each row showed so far: a run that is cut off leaves what it saw."""
    path = config.getoption("--account", default="")
    if path:
        account = config.stash[_ACCOUNT]
        earlier = json.loads(Path(path).read_text()) if Path(path).exists() else {}
        account = {**earlier, **account}
        known = {row.id: account[row.id] for row in ROWS if row.id in account}
        Path(path).write_text(json.dumps(known, indent=2) + "\n")

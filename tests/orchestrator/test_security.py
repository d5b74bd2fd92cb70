"""Security requirements S1 to S21, and where each is tested.

| id | requirement | tests |
|---|---|---|
| S1 | nothing listens off loopback | `test_ray_executor.py`; `sweep ui`: here |
| S2 | Ray asks for a token; its file is 0600 | here; `test_ray_executor.py` runs with it |
| S3 | no dashboard | here |
| S4 | `sweep ui` serves on loopback; SECURITY.md says that it has no login | here |
| S5 | least versions without known holes | here; `test_lock.py`; `make audit` |
| S6 | digest before load, `weights_only` | `trainer/test_checkpoint.py`; here |
| S7 | YAML without tags, with limits | `test_yaml_source.py`, `test_bad_inputs.py` rows 19, 20 |
| S8 | no remote code | here |
| S9 | no shell; names are safe | here; `test_bad_inputs.py` row 18 |
| S10 | report: escaped, a policy, no network | `analysis/test_report.py`, `walk/test_hostile.py` |
| S11 | no formula in a CSV cell | `analysis/test_report.py::test_no_csv_cell_starts_a_formula` |
| S12 | Markdown and LaTeX escaped | `analysis/test_report_words.py`, `analysis/test_report.py` |
| S13 | no secret in journal, store, report, log, process list | `faults/test_secrets.py`; here |
| S14 | the image runs as an ordinary user | here |
| S15 | every file pinned by its hash, nothing installed at run time | `test_lock.py`; here |
| S16 | files of a trial stay in its folder | here |
| S17 | state files are private | `faults/test_secrets.py`, `test_journal.py`, `test_tracking.py` |
| S18 | no telemetry | here |
| S19 | limits on inputs | `test_bad_inputs.py` rows 20, 33; `faults/test_fuzz.py` |
| S20 | a threat model | here |
| S21 | arbitrary bytes never make a trace | `faults/test_fuzz.py`, `test_yaml_source.py` |
"""

from __future__ import annotations

import ast
import json
import re
import stat
import subprocess
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import doctor
from orchestrator.bundle import pack
from orchestrator.doctor import Finding, examine
from orchestrator.errors import BadInput
from orchestrator.executors import ray_cluster
from orchestrator.executors.base import TEMPORARY
from orchestrator.mlflow_ui import HOST
from orchestrator.secrecy import HIDDEN, scrubbed
from orchestrator.tracking import store
from trainer.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for package in ("orchestrator", "trainer", "analysis")
    for path in sorted((ROOT / package).rglob("*.py"))
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in SOURCES}
CANARY = "canary-7f3a9b51"


def calls(names: set[str]) -> list[tuple[Path, ast.Call]]:
    """Every call of a function of one of the names, with its module."""
    found = []
    for path, text in TEXTS.items():
        if not any(name in text for name in names):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                found.append((path, node))
    return found


def test_every_requirement_is_in_the_table_and_its_tests_exist() -> None:
    assert __doc__ is not None
    rows = re.findall(r"^\| (S\d+) \|.*\| (.*) \|$", __doc__, flags=re.MULTILINE)
    assert [name for name, _ in rows] == [f"S{i}" for i in range(1, 22)]
    for _, tests in rows:
        for name in re.findall(r"`((?:\w+/)?test_\w+\.py)", tests):
            folder = ROOT / "tests" if "/" in name else ROOT / "tests" / "orchestrator"
            assert (folder / name).is_file(), name
        for name, test in re.findall(r"`((?:\w+/)?test_\w+\.py)::(\w+)`", tests):
            folder = ROOT / "tests" if "/" in name else ROOT / "tests" / "orchestrator"
            assert f"def {test}(" in (folder / name).read_text()


def test_a_private_ray_asks_for_a_token_has_no_dashboard_and_reports_to_nobody() -> None:
    assert ray_cluster.PRIVATE["RAY_AUTH_MODE"] == "token"
    assert ray_cluster.QUIET["RAY_USAGE_STATS_ENABLED"] == "0"
    text = TEXTS[ROOT / "orchestrator/executors/ray_tune.py"]
    assert '"include_dashboard": False' in text
    assert "os.O_CREAT, 0o600" in text
    rooms = [text for path, text in TEXTS.items() if path.parent.name == "executors"]
    assert not any("runtime_env" in text for text in rooms)  # Ray shows it to whoever can look


def test_mlflow_is_served_on_loopback_alone_and_reports_to_nobody() -> None:
    assert HOST == "127.0.0.1"
    assert store._ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert store._ENVIRONMENT["DO_NOT_TRACK"] == "1"


def test_no_socket_is_bound_beyond_loopback_anywhere_in_the_source() -> None:
    assert [path for path, text in TEXTS.items() if "0.0.0.0" in text] == []


def test_nothing_is_run_through_a_shell_or_evaluated() -> None:
    for path, call in calls({"run", "Popen", "call", "check_output", "check_call"}):
        assert not any(k.arg == "shell" for k in call.keywords), f"{path}: {ast.unparse(call)}"
    bare = {ast.unparse(call.func) for _, call in calls({"eval", "exec", "system", "popen"})}
    assert not bare & {"eval", "exec", "os.system", "os.popen"}


def test_nothing_is_unpickled_and_no_code_of_others_is_trusted() -> None:
    loads = calls({"load", "loads"})
    assert not [c for _, c in loads if ast.unparse(c.func).startswith(("pickle.", "joblib."))]
    torch_loads = [call for _, call in loads if ast.unparse(call.func) == "torch.load"]
    assert torch_loads
    for call in torch_loads:
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert given["weights_only"] == "True"
    trusting = re.compile(r"trust_remote_code\s*=\s*(?!False)")
    assert [path for path, text in TEXTS.items() if trusting.search(text)] == []


def test_the_trial_id_of_a_folder_is_a_hash_and_no_path() -> None:
    """What names a trial's folder cannot leave it: sixteen hexadecimal digits."""
    text = TEXTS[ROOT / "trainer/config.py"]
    assert "def trial_id" in text
    assert hasattr(TrainConfig, "trial_id")
    assert re.search(r"hexdigest\(\)\[:\d+\]|_digest\(", text)


def test_nothing_is_installed_at_run_time() -> None:
    assert not [path for path, text in TEXTS.items() if "pip install" in text and "subproc" in text]


def test_the_image_runs_as_an_ordinary_user() -> None:
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] not in ([], ["root"], ["0"])
    assert not any("sudo" in line for line in lines)
    assert lines.index(f"USER {users[-1]}") < next(
        i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT")
    )


def test_the_threat_model_names_what_is_trusted_and_what_is_not() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for word in ("## Threat model", "budget.yaml", "corpus", "checkpoints", "MLflow", "Ray"):
        assert word in text
    for word in ("**untrusted**", "**trusted**", "**semi-trusted**", "--bundle", "make audit"):
        assert word in text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"http://me:{CANARY}@host:5000/api", "http://host:5000/api"),
        (f"token is {CANARY}!", f"token is {HIDDEN}!"),
        ('{"api_key": "sk-123456"}', f'{{"api_key": "{HIDDEN}"}}'),
        ("db_password=hunter2 next", f"db_password={HIDDEN} next"),
        ("training: {batch_tokens: 512}", "training: {batch_tokens: 512}"),
        ("tokens per parameter: 20", "tokens per parameter: 20"),
    ],
)
def test_secrets_are_taken_out_of_text_and_words_stay(text: str, kept: str) -> None:
    assert scrubbed(text, {"STORE_TOKEN": CANARY, "TOKENIZERS_PARALLELISM": "false"}) == kept


def test_a_bundle_has_what_a_maintainer_needs_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_TOKEN", CANARY)
    sweep = tmp_path / "tiny"
    (sweep / "trials" / "t" / "checkpoints").mkdir(parents=True)
    (sweep / "journal.jsonl").write_text(json.dumps({"uri": f"http://me:{CANARY}@h"}))
    (sweep / "budget.yaml").write_text(f"tracking: {{uri: 'http://me:{CANARY}@h'}}\n")
    (sweep / "trials/t/error.txt").write_text(f"401 with {CANARY}")
    (sweep / "trials/t/checkpoints/1.pt").write_text("weights")
    (sweep / "tuning/trials/s").mkdir(parents=True)
    (sweep / "tuning/journal.jsonl").write_text("{}")
    (sweep / "tuning/trials/s/error.txt").write_text("it broke")
    path = tmp_path / "b.zip"
    names = pack(path, [Finding(what="x", found=CANARY)], sweep)
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name).decode() for name in packed.namelist()}
    assert sorted(content) == sorted(names)
    assert {"doctor.json", "packages.txt", "environment.txt", "sweep/journal.jsonl"} <= set(names)
    assert "sweep/trials/t/error.txt" in names
    assert {"sweep/tuning/journal.jsonl", "sweep/tuning/trials/s/error.txt"} <= set(names)
    assert not [name for name in names if "checkpoint" in name]
    assert not [name for name, text in content.items() if CANARY in text]
    assert "STORE_TOKEN" in content["environment.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BadInput, match="SWP-1316"):
        pack(path, [], None)


def finding(what: str, outputs: Path) -> Finding:
    return next(item for item in examine(outputs) if item.what == what)


def test_the_doctor_looks_at_everything_that_sweeps_stumble_on(tmp_path: Path) -> None:
    looked_at = {item.what for item in examine(tmp_path)}
    assert {
        "Python", "mlflow", "ray", "torch", "pyarrow", "packages with malware", "devices", "GPU",
        "memory", "shared memory", f"disk at {tmp_path}", "outputs", "ports", "Ray sessions",
        "clock",
    } <= looked_at  # fmt: skip


def test_the_doctor_names_the_mend_of_each_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.version
    numbers = {"mlflow": "2.9.0", "lightning": "2.6.3", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "version", lambda name: numbers.get(name) or real(name))
    machine = SimpleNamespace(cores=2, gpus=("NVIDIA H200",))
    monkeypatch.setattr(doctor, "detect", lambda: machine)
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"{TEMPORARY}dead").mkdir()
    usage = SimpleNamespace(free=10, total=20, used=10)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    found = {item.what: item for item in examine(tmp_path)}
    mends = {
        "mlflow": "known holes",
        "packages with malware": "remove them",
        "GPU": "CUDA build",
        "shared memory": "--shm-size",
        f"disk at {tmp_path}": "--outputs",
        "Ray sessions": f"rm -r {tmp_path}/{TEMPORARY}dead",
        "clock": "timedatectl",
    }
    for what, mend in mends.items():
        assert not found[what].sound, what
        assert mend in found[what].remedy
    monkeypatch.setattr(doctor.time, "time", time.time)


def test_sessions_in_use_are_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"{TEMPORARY}live"
    folder.mkdir()
    with (folder / "log").open("w"):
        assert finding("Ray sessions", tmp_path).sound
    assert not finding("Ray sessions", tmp_path).sound


@pytest.fixture
def audit(tmp_path: Path) -> object:
    """Run tests/audit/audit.py on the reply of a stand-in for pip-audit."""

    def run(reply: str, code: int) -> subprocess.CompletedProcess[str]:
        stub = tmp_path / "pip-audit"
        stub.write_text(f"#!/bin/sh\ncat <<'END'\n{reply}\nEND\nexit {code}\n")
        stub.chmod(0o755)
        return subprocess.run(
            ["python3", str(ROOT / "tests/audit/audit.py"), str(stub), "constraints.txt"],
            check=False, capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip

    return run


def test_the_audit_fails_on_a_known_hole_and_names_its_mend(audit: object) -> None:
    hole = {"id": "PYSEC-1", "fix_versions": ["3.2"], "aliases": ["CVE-1"]}
    bad = {"name": "jinja2", "version": "3.1", "vulns": [hole]}
    done = audit(json.dumps({"dependencies": [bad]}), 1)  # type: ignore[operator]
    assert done.returncode == 1
    assert "jinja2 3.1: PYSEC-1 (CVE-1), mended in 3.2" in done.stdout


def test_the_audit_passes_where_every_answer_is_clean(audit: object) -> None:
    good = {"name": "jinja2", "version": "3.1.6", "vulns": []}
    done = audit(json.dumps({"dependencies": [good]}), 0)  # type: ignore[operator]
    assert done.returncode == 0
    assert "1 packages, no known hole" in done.stdout


@pytest.mark.parametrize(
    "reply",
    ["", "not json", json.dumps({"dependencies": [{"name": "x", "skip_reason": "not found"}]})],
    ids=["silent", "broken", "all skipped"],
)
def test_without_an_answer_the_audit_says_so_and_goes_on(audit: object, reply: str) -> None:
    done = audit(reply, 1)  # type: ignore[operator]
    assert done.returncode == 0
    assert "not audited" in done.stdout

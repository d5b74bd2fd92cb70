"""What is installed: every release is pinned, and every file of it by its SHA-256 (S15)."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from orchestrator import doctor

ROOT = Path(__file__).resolve().parents[2]
LOCKS = (
    "constraints.txt",
    "docker/installers.txt",
    "docker/torch-constraints.txt",
    "docs/constraints.txt",
    "tests/audit/constraints.txt",
    "tests/bench/peers.txt",
    "tests/walk/constraints.txt",
)


def locked(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by the name of the package, as the index writes it."""
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    found = {}
    for entry in entries:
        name, release = re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", entry).groups()
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
        assert entry.count("--hash") == len(hashes), name
        found[re.sub(r"[-_.]+", "-", name).lower()] = release, hashes
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_release_of_a_lock_is_pinned_with_the_hashes_of_its_files(lock):
    pins = locked(lock)
    assert pins
    assert not [name for name, (_, hashes) in pins.items() if not hashes]


def test_what_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[><=]", line)[0].lower().replace("_", "-") for line in asked}
    assert names == names & {*locked("constraints.txt"), *locked("docker/torch-constraints.txt")}


def test_no_locked_release_has_a_hole_that_is_known():
    pins = {**locked("constraints.txt"), **locked("docker/torch-constraints.txt")}
    for name, least in doctor._LEAST.items():
        assert doctor._numbers(pins[name][0]) >= least, name
    for name, releases in doctor._POISONED.items():
        assert name not in pins or pins[name][0] not in releases


def test_torch_is_the_same_release_wherever_it_is_named():
    text = (ROOT / "docker/install-torch.sh").read_text()
    named = set(re.findall(r"\b2\.\d+\.\d+\b", text))
    assert named == {locked("docker/torch-constraints.txt")["torch"][0]}


@pytest.mark.parametrize("file", ["Makefile", "docker/Dockerfile", "docker/install-torch.sh"])
def test_no_lock_is_installed_without_its_hashes(file):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.search(r"pip\b.* -r ", line)]
    assert lines
    for line in lines:
        assert "--require-hashes" in line or "$(LOCKED)" in line, line
    assert "--require-hashes" in text


def install(folder: Path, digest: str) -> subprocess.CompletedProcess[str]:
    """Install a wheel that lies in the folder, as `make setup` installs, without any index."""
    lock = folder / "lock.txt"
    lock.write_text(f"parcel==1.0 \\\n    --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes",
               "--no-index", "--find-links", str(folder), "--target", str(folder / "site"),
               "-r", str(lock)]  # fmt: skip
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_lock_installs_offline_and_an_edited_one_is_refused(tmp_path):
    wheel = tmp_path / "parcel-1.0-py3-none-any.whl"
    about = "parcel-1.0.dist-info"
    files = {
        "parcel.py": "",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": f"parcel.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()

    edited = install(tmp_path, f"{(int(digest[0], 16) + 1) % 16:x}{digest[1:]}")
    assert edited.returncode != 0
    assert "DO NOT MATCH THE HASHES" in edited.stderr
    assert not (tmp_path / "site").exists()

    done = install(tmp_path, digest)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/parcel.py").is_file()

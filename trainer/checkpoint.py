"""Checkpoints that are either proved whole or not used.

`torch.load` reads a file with flipped bits without complaint, so each checkpoint is a pair: the
data, and a manifest with the data's SHA-256, written last. Loading verifies the digest first.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.durable import write_atomically
from trainer.footprint import CHECKPOINTS_KEPT

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What proves a checkpoint whole and says where it belongs."""

    step: int
    """Optimiser steps done."""
    owner: str
    """Identity of what was trained: a trial or a trajectory."""
    sha256: str
    """Digest of the data file."""
    size: int
    """Bytes of the data file."""
    environment: dict[str, str]
    """Threads, device and library versions: what can change a result's last bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A verified checkpoint and what was wrong with newer ones."""

    manifest: Manifest
    """The manifest of the checkpoint in use."""
    state: dict[str, Any]
    """What `save` was given."""
    rejected: tuple[str, ...]
    """One sentence for each newer checkpoint that could not be used."""


class NoGoodCheckpoint(Exception):
    """Checkpoints exist, but none of them is whole; `args[0]` says what is wrong with each."""


def save(
    folder: Path,
    state: dict[str, Any],
    *,
    step: int,
    owner: str,
    environment: dict[str, str],
    kept: int | None = CHECKPOINTS_KEPT,
) -> Manifest:
    """Write a checkpoint and drop all but the newest.

    Args:
        folder: created when missing.
        state: tensors and plain values (it is read back with `weights_only=True`).
        step: optimiser steps done.
        owner: identity of what was trained.
        environment: recorded beside it.
        kept: how many checkpoints the folder may hold; None for any number.

    Raises:
        OSError: when the disk is full or not writable; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    manifest = Manifest(
        step=step,
        owner=owner,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        environment=environment,
    )
    write_atomically(_data_path(folder, step), data)
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    write_atomically(_manifest_path(folder, step), text.encode())
    for old in steps(folder)[:-kept] if kept else ():
        # The manifest goes first: data without one is never looked at.
        _manifest_path(folder, old).unlink(missing_ok=True)
        _data_path(folder, old).unlink(missing_ok=True)
    return manifest


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps, so that they take no place of those to come."""
    for later in [s for s in steps(folder) if s > step]:
        _manifest_path(folder, later).unlink(missing_ok=True)
        _data_path(folder, later).unlink(missing_ok=True)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending, whole or not."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.json"))


def read_manifest(folder: Path, step: int) -> Manifest:
    """Read what a checkpoint says about itself, without its data.

    Raises:
        NoGoodCheckpoint: when that cannot be read.
    """
    path = _manifest_path(folder, step)
    try:
        return Manifest(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise NoGoodCheckpoint(f"{_data_path(folder, step)}: unreadable ({error})") from error


def load(folder: Path, step: int, *, owner: str) -> Loaded:
    """Read one checkpoint and verify it.

    Raises:
        NoGoodCheckpoint: saying what is wrong with it.
    """
    data_path = _data_path(folder, step)
    manifest = read_manifest(folder, step)
    try:
        data = data_path.read_bytes()
    except OSError as error:
        raise NoGoodCheckpoint(f"{data_path}: unreadable ({error})") from error
    if len(data) != manifest.size:
        raise NoGoodCheckpoint(f"{data_path}: {len(data)} bytes where {manifest.size} were written")
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise NoGoodCheckpoint(f"{data_path}: its SHA-256 is not the recorded one")
    if manifest.owner != owner or manifest.step != step:
        raise NoGoodCheckpoint(
            f"{data_path}: belongs to {manifest.owner} step {manifest.step}, not to {owner} "
            f"step {step}"
        )
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NoGoodCheckpoint(f"{data_path}: not a plain state of tensors ({error})") from error
    return Loaded(manifest=manifest, state=state, rejected=())


def load_newest(
    folder: Path, *, owner: str, wanted: Callable[[int], bool] = lambda _: True
) -> Loaded | None:
    """Read the newest whole checkpoint, announcing each newer one that had to be passed over.

    Args:
        folder: where checkpoints are; may be missing.
        owner: identity that the checkpoint must have.
        wanted: which steps may be used.

    Returns:
        The checkpoint, or None when there never was one.

    Raises:
        NoGoodCheckpoint: when there are some and none is whole.
    """
    rejected: list[str] = []
    for step in reversed([s for s in steps(folder) if wanted(s)]):
        try:
            loaded = load(folder, step, owner=owner)
        except NoGoodCheckpoint as error:
            _log.warning("checkpoint passed over: %s", error)
            rejected.append(str(error))
            continue
        return Loaded(manifest=loaded.manifest, state=loaded.state, rejected=tuple(rejected))
    if rejected:
        raise NoGoodCheckpoint("; ".join(rejected))
    return None


def _data_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.json"

"""Checkpoints are proved whole or not used; rows R11 and the fault matrix's damaged files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.checkpoint import NoGoodCheckpoint
from trainer.durable import write_atomically


def save(folder: Path, step: int, *, owner: str = "me") -> None:
    state = {"weights": torch.arange(500.0) * step, "step": step}
    checkpoint.save(folder, state, step=step, owner=owner, environment={"torch": "x"})


def test_a_saved_state_comes_back_and_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [2, 30]
    assert len(list(tmp_path.iterdir())) == 4
    loaded = checkpoint.load_newest(tmp_path, owner="me")
    assert loaded is not None
    assert torch.equal(loaded.state["weights"], torch.arange(500.0) * 30)
    assert loaded.manifest.step == loaded.state["step"] == 30
    assert loaded.rejected == ()


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "absent", owner="me") is None


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing", "manifest"])
def test_a_damaged_newest_checkpoint_is_passed_over_loudly(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    data = tmp_path / "step-00000002.pt"
    content = bytearray(data.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "truncated":
        data.write_bytes(content[:-1])
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "missing":
        data.unlink()
    else:
        data.with_suffix(".json").write_text("{")
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load_newest(tmp_path, owner="me")
    assert loaded is not None
    assert loaded.manifest.step == 1
    assert len(loaded.rejected) == 1
    assert "step-00000002.pt" in loaded.rejected[0]
    assert "checkpoint passed over" in caplog.text


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    data = tmp_path / "step-00000001.pt"
    content = data.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(content), (200,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        data.write_bytes(damaged)
        with pytest.raises(NoGoodCheckpoint, match="SHA-256"):
            checkpoint.load(tmp_path, 1, owner="me")


def test_checkpoints_that_are_all_damaged_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        (tmp_path / f"step-0000000{step}.pt").write_bytes(b"")
    with pytest.raises(NoGoodCheckpoint, match=r"step-00000002\.pt: 0 bytes.*step-00000001\.pt"):
        checkpoint.load_newest(tmp_path, owner="me")


def test_a_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    save(tmp_path, 1, owner="you")
    with pytest.raises(NoGoodCheckpoint, match="belongs to you step 1, not to me step 1"):
        checkpoint.load_newest(tmp_path, owner="me")


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "owned",))

    checkpoint.save(tmp_path, {"x": Payload()}, step=1, owner="me", environment={})
    with pytest.raises(NoGoodCheckpoint, match="not a plain state"):
        checkpoint.load(tmp_path, 1, owner="me")
    assert not (tmp_path / "owned").exists()


def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"cannot write 3 bytes \(No such file"):
        write_atomically(tmp_path / "absent" / "file", b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_reader_of_the_old_file_keeps_the_whole_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"brand new", sync=False)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"brand new"

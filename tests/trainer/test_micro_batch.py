"""The part of a batch that fits into memory: chosen, halved, kept on resume; rows R6, X7."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer import device as devices
from trainer.config import RunOptions, TrainConfig
from trainer.footprint import HEADROOM, largest_micro_batch, training_bytes
from trainer.memory import is_exhausted
from trainer.metrics import ReplayMismatch
from trainer.model.transformer import Transformer
from trainer.result import Interrupted
from trainer.run import run_trial
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]
SHAPE = preset("gpt", d_model=64, n_layer=4, n_head=4, vocab_size=256, context=256)
CPU_ALLOCATION = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError(f"[enforce fail at alloc_cpu.cpp:128] err == 0. {CPU_ALLOCATION}"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
]


@pytest.fixture
def options(options: RunOptions) -> RunOptions:
    return dataclasses.replace(options, samples=False)


class LittleMemory:
    """Lets at most some sequences through a training pass; counts what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
        self.fits, self.failure = 10**9, failure
        self.asked: list[int] = []
        compute = Transformer.loss

        def loss(model: Transformer, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.asked.append(len(tokens))
            if len(tokens) > self.fits:
                raise self.failure
            return compute(model, tokens, targets)

        monkeypatch.setattr(Transformer, "loss", loss)


def test_the_largest_part_whose_training_fits_is_chosen() -> None:
    for part in (32, 16, 8, 4, 2, 1):
        needed = training_bytes(SHAPE, sequences=part) / HEADROOM
        chosen = largest_micro_batch(SHAPE, sequences=32, memory_bytes=needed)
        assert chosen == part
    assert largest_micro_batch(SHAPE, sequences=32, memory_bytes=0.0) == 1
    assert largest_micro_batch(SHAPE, sequences=7, memory_bytes=needed) == 1


def test_the_estimate_covers_a_measured_peak() -> None:
    """V 50,257, d 128, L 4, T 512, B 8 peaked at 880 MB, libraries of about 200 MB included."""
    shape = preset("gpt", d_model=128, n_layer=4, n_head=8, vocab_size=50257, context=512)
    assert 0.68e9 < training_bytes(shape, sequences=8) < 1.3e9


@pytest.mark.parametrize("failure", FAILURES, ids=["cuda", "python", "cpu", "cublas"])
def test_running_out_of_memory_is_recognised(failure: Exception) -> None:
    assert is_exhausted(failure)
    assert not is_exhausted(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("failure", FAILURES[:3], ids=["cuda", "python", "cpu"])
def test_a_trial_out_of_memory_goes_on_in_halves_and_records_it(
    failure: Exception,
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(batch_sequences=6)
    expected = run_trial(config, options, tmp_path / "roomy")
    memory = LittleMemory(monkeypatch, failure)
    memory.fits = 2
    result = run_trial(config, options, tmp_path / "tight")
    assert memory.asked[:5] == [6, 3, 2, 2, 2]
    assert (result.micro_batch_sequences, result.micro_batch_halvings) == (2, 2)
    assert result.trial_id == expected.trial_id
    # Each step agrees to 1e-6; thirty of them follow one another.
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)
    assert result.train_loss == pytest.approx(expected.train_loss, rel=1e-4)


def test_an_error_that_is_not_about_memory_is_not_retried(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = LittleMemory(monkeypatch, RuntimeError("shapes do not match"))
    memory.fits = 2
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_trial(make_config(), options, tmp_path)
    assert memory.asked == [4]


def test_a_small_device_gets_small_parts_from_the_start(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(steps=3)
    needed = training_bytes(config.shape, sequences=1) / HEADROOM
    monkeypatch.setattr(devices, "memory_bytes", lambda _: 4 * needed)
    memory = LittleMemory(monkeypatch, MemoryError())
    shared = dataclasses.replace(options, memory_share=0.25)
    result = run_trial(config, shared, tmp_path)
    assert memory.asked == [1] * 12
    assert (result.micro_batch_sequences, result.micro_batch_halvings) == (1, 0)
    assert result.versions["micro_batch"] == "1"


def test_an_interrupted_trial_goes_on_with_the_parts_it_had(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    memory = LittleMemory(monkeypatch, MemoryError())
    memory.fits = 2
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    left = iter(range(9, -1, -1))
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path / "killed", should_stop=lambda: next(left) == 0)
    memory.fits = 10**9
    result = run_trial(config, options, tmp_path / "killed")
    assert (result.loss, result.train_loss) == (undisturbed.loss, undisturbed.train_loss)
    assert (result.micro_batch_sequences, result.micro_batch_halvings) == (2, 1)


def test_a_replay_in_other_parts_may_differ_in_the_last_bits_only(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    run_trial(config, options, tmp_path)
    (tmp_path / "result.json").unlink()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    memory = LittleMemory(monkeypatch, MemoryError())
    memory.fits = 2
    assert run_trial(config, options, tmp_path).micro_batch_halvings == 1
    (tmp_path / "result.json").unlink()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    stored = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first = json.loads(stored[0])
    first["loss"] *= 1.001
    (tmp_path / "metrics.jsonl").write_text("\n".join([json.dumps(first), *stored[1:], ""]))
    with pytest.raises(ReplayMismatch, match="replaying step 3"):
        run_trial(config, options, tmp_path)


def test_experts_forget_the_load_of_a_step_that_did_not_fit(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part of the step fits and counts its tokens; the whole step is then done again."""
    shape = preset("deepseek", d_model=16, n_layer=1, n_head=2, vocab_size=256, context=32)
    config = make_config(shape=shape, steps=3)
    calls = []
    compute = Transformer.loss

    def second_part_fails(model: Transformer, *batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch[0]))
        loss = compute(model, *batch)
        if len(calls) == 2:
            raise MemoryError
        return loss

    monkeypatch.setattr(Transformer, "loss", second_part_fails)
    balanced = []
    monkeypatch.setattr(
        "trainer.model.feedforward.MixtureOfExperts.balance",
        lambda mixture: balanced.append(float(mixture.load.sum())),
    )
    run_trial(config, dataclasses.replace(options, micro_batch_sequences=2), tmp_path)
    assert calls[:6] == [2, 2, 1, 1, 1, 1]
    assert shape.experts is not None
    assert balanced[0] == 4 * 32 * shape.experts.top_k

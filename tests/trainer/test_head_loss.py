"""The head's loss in chunks against torch's, value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer.model import loss as loss_module
from trainer.model.loss import head_loss


def inputs(count: int = 50) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 12, generator=generator)
    weight = torch.randn(331, 12, generator=generator)
    bias = torch.randn(331, generator=generator)
    targets = torch.randint(0, 331, (count,), generator=generator)
    return hidden, weight, bias, targets


@pytest.mark.parametrize("rows", [1, 7, 50, 64])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunks_change_neither_loss_nor_gradients(
    rows: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for chunked in (False, True):
        monkeypatch.setattr(loss_module, "PLAIN_LOGITS_BYTES", 0 if chunked else 2**30)
        monkeypatch.setattr(loss_module, "CHUNK_BYTES", rows * 4 * 331)
        hidden, weight, bias, targets = inputs()
        leaves = [
            x.requires_grad_() for x in ((hidden, weight, bias) if with_bias else (hidden, weight))
        ]
        loss = head_loss(hidden, weight, bias if with_bias else None, targets)
        (3.0 * loss).backward()
        found.append([loss.detach(), *(x.grad for x in leaves)])
    for plain, chunked in zip(*found, strict=True):
        assert (plain - chunked).abs().max() < 1e-5 * plain.abs().max()


def test_chunks_under_autocast_stay_close_to_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = inputs()
    exact = F.cross_entropy(F.linear(hidden, weight, bias), targets)
    monkeypatch.setattr(loss_module, "PLAIN_LOGITS_BYTES", 0)
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = head_loss(hidden, weight, bias, targets)
    narrow.backward()
    assert narrow.dtype == torch.float32
    assert weight.grad.dtype == torch.float32
    assert abs(narrow.item() - exact.item()) < 0.02


def test_nothing_of_the_size_of_all_logits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "PLAIN_LOGITS_BYTES", 0)
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 4 * 331)
    hidden, weight, bias, targets = inputs()
    hidden.requires_grad_()
    loss = head_loss(hidden, weight, bias, targets)
    kept = [x.numel() for x in loss.grad_fn.saved_tensors if x is not None]
    assert max(kept) < 50 * 331 / 3

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
def test_loss_and_gradients_equal_torchs_however_they_are_cut(
    rows: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_, **__: rows)
    found = []
    for ours in (False, True):
        hidden, weight, bias, targets = inputs()
        leaves = [x.requires_grad_() for x in (hidden, weight, bias)[: 3 if with_bias else 2]]
        used = bias if with_bias else None
        if ours:
            loss = head_loss(hidden, weight, used, targets)
        else:
            loss = F.cross_entropy(F.linear(hidden, weight, used), targets)
        (3.0 * loss).backward()
        found.append([loss.detach(), *(x.grad for x in leaves)])
    for expected, cut in zip(*found, strict=True):
        assert (expected - cut).abs().max() < 1e-5 * expected.abs().max()


def test_a_target_whose_probability_underflows_has_a_finite_loss() -> None:
    hidden = torch.tensor([[300.0], [1.0]])
    weight = torch.tensor([[1.0], [-1.0]])
    loss = head_loss(hidden, weight, None, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((600.0 + 0.126928) / 2)


def test_autocast_narrows_the_products_but_not_loss_and_gradients() -> None:
    hidden, weight, bias, targets = inputs()
    exact = F.cross_entropy(F.linear(hidden, weight, bias), targets)
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = head_loss(hidden, weight, bias, targets)
    narrow.backward()
    assert narrow.dtype == weight.grad.dtype == torch.float32
    assert 0 < abs(narrow.item() - exact.item()) < 0.02


def test_nothing_of_the_size_of_all_logits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "chunk_rows", lambda *_, **__: 4)
    hidden, weight, bias, targets = inputs()
    hidden.requires_grad_()
    loss = head_loss(hidden, weight, bias, targets)
    kept = [x.numel() for x in loss.grad_fn.saved_tensors if x is not None]
    assert max(kept) < 50 * 331 / 3


def test_a_chunk_is_cache_sized_at_small_vocabularies_and_256_rows_at_large_ones() -> None:
    assert loss_module.chunk_rows(256, device_type="cpu") == 1024
    assert loss_module.chunk_rows(50_257, device_type="cpu") == 256
    assert loss_module.chunk_rows(50_257, device_type="cuda") == 1335

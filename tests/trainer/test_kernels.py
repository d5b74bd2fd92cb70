"""The choice of implementations: by hardware or as given, recorded, and never lossy."""

from __future__ import annotations

import math

import pytest
import torch

from trainer import kernels
from trainer.config import Kernels
from trainer.model.attention import BLOCK_ROWS, attend, use_block_rows
from trainer.model.loss import chunk_rows, head_loss, use_chunk_scale


@pytest.fixture(autouse=True)
def restored_settings() -> None:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    use_block_rows(BLOCK_ROWS)
    use_chunk_scale(1.0)


@pytest.mark.parametrize(
    ("vendor", "lossless", "d_model", "products"),
    [
        ("AuthenticAMD", True, 64, "onednn"),
        ("AuthenticAMD", True, 16, "mkl"),
        ("AuthenticAMD", False, 64, "mkl"),
        ("GenuineIntel", True, 64, "mkl"),
        ("", True, 64, "mkl"),
    ],
)
def test_onednn_is_used_on_amd_where_it_pays_and_is_lossless(
    vendor: str, lossless: bool, d_model: int, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_vendor", lambda: vendor)
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: lossless)
    chosen = kernels.choose(torch.device("cpu"), d_model=d_model)
    assert chosen == Kernels(attention="block", products=products)
    kernels.use(chosen)
    expected = "medium" if products == "onednn" else "highest"
    assert torch.get_float32_matmul_precision() == expected


def test_a_gpu_uses_fused_attention() -> None:
    chosen = kernels.choose(torch.device("cuda"), d_model=64)
    assert chosen == Kernels(attention="sdpa", products="mkl")


def test_a_product_in_bf16_would_not_count_as_lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernels.onednn_is_lossless(), bool)

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        narrow = torch.bfloat16 if a.dtype == torch.float32 else a.dtype
        return a.to(narrow).mm(b.to(narrow)).to(a.dtype)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert not kernels.onednn_is_lossless.__wrapped__()


@pytest.mark.parametrize("before", ["highest", "medium"])
def test_the_trial_of_onednn_leaves_the_setting_as_it_was(before: str) -> None:
    torch.set_float32_matmul_precision(before)
    kernels.onednn_is_lossless.__wrapped__()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx512f", False)],
)
def test_a_processor_has_bf16_when_it_says_so(
    flags: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_cpu", lambda key: flags if key == "flags" else "")
    assert kernels.has_bf16(torch.device("cpu")) is has


def test_a_gpu_that_only_emulates_bf16_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(*, including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not kernels.has_bf16(torch.device("cuda"))


@pytest.mark.parametrize("rows", [8, 32, 100, 128])
def test_attention_is_the_same_in_blocks_of_any_size(rows: int) -> None:
    q, k, v = torch.randn(3, 2, 2, 100, 8, generator=torch.Generator().manual_seed(0))
    tensors = [x.requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(attend(q, k, v, backend="explicit").square().sum(), tensors)
    kernels.use(Kernels(attention="block", products="mkl", attention_rows=rows))
    found = attend(q, k, v, backend="block")
    assert found.grad_fn is not None
    blocks = found.grad_fn.next_functions[0][0]
    # q, k, v and one array of weights a block.
    assert len(blocks.saved_tensors) == 3 + math.ceil(100 / rows)
    for mine, other in zip(
        torch.autograd.grad(found.square().sum(), tensors), expected, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_head_computes_as_many_rows_at_once_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = torch.randn(2048, 4)
    weight, targets = torch.randn(256, 4), torch.zeros(2048, dtype=torch.long)
    expected = head_loss(hidden, weight, None, targets)
    assert chunk_rows(256, device_type="cpu") == 1024
    kernels.use(Kernels(attention="block", products="mkl", head_chunk=0.25))
    assert chunk_rows(256, device_type="cpu") == 256
    torch.testing.assert_close(head_loss(hidden, weight, None, targets), expected)


def test_what_a_run_is_given_is_used_as_far_as_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    given = Kernels(attention="sdpa", products="onednn", attention_rows=32, head_chunk=4.0)
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: True)
    assert kernels.settle(given, cpu, d_model=8) == given
    assert kernels.settle(None, cpu, d_model=8) == kernels.choose(cpu, d_model=8)
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: False)
    assert kernels.settle(given, cpu, d_model=8).products == "mkl"


def test_what_the_rule_would_not_have_chosen_is_named_in_the_record() -> None:
    plain = Kernels(attention="block", products="mkl")
    assert kernels.describe(plain) == {"attention": "block", "products": "mkl"}
    other = Kernels(
        attention="block", products="mkl", attention_rows=32, head_chunk=0.25, compiled=True
    )
    assert kernels.describe(other) == {
        "attention": "block of 32 rows",
        "products": "mkl",
        "head_chunk": "0.25",
        "compiled": "yes",
    }

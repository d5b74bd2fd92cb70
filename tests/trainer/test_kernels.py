"""The choice of implementations: by hardware, recorded, and never lossy."""

from __future__ import annotations

import pytest
import torch

from trainer import kernels
from trainer.kernels import Kernels


@pytest.fixture(autouse=True)
def restored_precision() -> None:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


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

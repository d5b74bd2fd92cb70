"""Which implementations compute a run: they differ in speed and in the last bits of the result.

A rule picks them by the hardware: a run repeated on the same machine must give the same bits. A
sweep measures at its start whether another choice is faster there (`trainer.probe`), writes that
down and hands it to its runs. What was used is recorded with each run.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch

from trainer.config import Kernels
from trainer.model.attention import BLOCK_ROWS, use_block_rows
from trainer.model.loss import use_chunk_scale

ONEDNN_WIDTH = 32
"""Width from which oneDNN's lower cost per product outweighs its higher cost per call."""

_LOSSLESS_ERROR = 3e-6
"""Largest relative error of a 256 x 256 fp32 product that still counts as fp32 (bf16: 2e-3)."""


def choose(device: torch.device, *, d_model: int) -> Kernels:
    """Pick what is fastest on this hardware.

    On a GPU torch's fused attention. On a CPU attention in causal blocks, and for fp32 products
    oneDNN on AMD processors from width 32: there it runs the products of small models at up to
    twice MKL's speed (1,024 x 64 by 64 x 256 on Zen 5: 157 against 364 us; a whole step at width
    64: 13.3 against 18.9 ms, at 16: 3.8 against 3.3).
    """
    if device.type == "cuda":
        return Kernels(attention="sdpa", products="mkl")
    pays = _vendor() == "AuthenticAMD" and d_model >= ONEDNN_WIDTH
    onednn = pays and onednn_is_lossless()
    return Kernels(attention="block", products="onednn" if onednn else "mkl")


def settle(given: Kernels | None, device: torch.device, *, d_model: int) -> Kernels:
    """What a run uses: what it was given, as far as it is exact here, or what the rule says.

    A run that goes on elsewhere may meet a processor on which oneDNN's fp32 products are none.
    """
    if given is None:
        return choose(device, d_model=d_model)
    if given.products == "onednn" and not onednn_is_lossless():
        return dataclasses.replace(given, products="mkl")
    return given


def describe(kernels: Kernels) -> dict[str, str]:
    """What is recorded of the implementations; those that the rule never varies only if they do."""
    attention: str = kernels.attention
    if attention == "block" and kernels.attention_rows != BLOCK_ROWS:
        attention = f"block of {kernels.attention_rows} rows"
    record = {"attention": attention, "products": kernels.products}
    if kernels.head_chunk != 1.0:
        record["head_chunk"] = f"{kernels.head_chunk:g}"
    if kernels.compiled:
        record["compiled"] = "yes"
    return record


def use(kernels: Kernels) -> None:
    """Make this process compute with the chosen library and sizes of blocks."""
    use_block_rows(kernels.attention_rows)
    use_chunk_scale(kernels.head_chunk)
    # "medium" allows bf16 inside; it is only ever set where `onednn_is_lossless` has shown that
    # this processor does not make use of that.
    medium = kernels.products == "onednn"
    torch.set_float32_matmul_precision("medium" if medium else "highest")


@functools.cache
def onednn_is_lossless() -> bool:
    """Whether oneDNN's products keep fp32's precision on this processor.

    The switch that routes fp32 products to oneDNN also permits it to multiply in bf16, which
    processors with AMX do; so it is tried against fp64.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    product = a @ b
    torch.set_float32_matmul_precision(before)
    exact = a.double() @ b.double()
    error = (product.double() - exact).abs().max() / exact.abs().max()
    return bool(error < _LOSSLESS_ERROR)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself; where it is emulated it is many times slower.

    GPUs from compute capability 8.0, processors with AVX-512 BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu("flags").split())


def _vendor() -> str:
    return _cpu("vendor_id")


def _cpu(key: str) -> str:
    """What the system says of its first processor; empty where it says nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""

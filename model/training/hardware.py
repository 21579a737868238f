"""What a device can do: the precision of a training or an evaluation, and peak FLOP/s."""

import math
import time
from functools import lru_cache
from typing import Literal

import torch

from model.config.training import PrecisionName

# FLOP/s of dense bfloat16 products, from NVIDIA's data sheets. The first prefix of the device name applies.
_KNOWN_PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
_MEASURED_SIZE, _MEASURED_TIMES = 1_024, 5


def precision_name(precision: torch.dtype) -> Literal["bfloat16", "float32"]:
    """Name of a data type, as specifications and reports use it."""
    return "bfloat16" if precision is torch.bfloat16 else "float32"


def precision_of(name: PrecisionName, device: torch.device) -> torch.dtype:
    """Data type of a training on this machine; `auto` selects bfloat16 if the hardware supports it."""
    if name == "auto":
        return torch.bfloat16 if supports_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def answering_precision(trained: PrecisionName, device: torch.device) -> torch.dtype:
    """Data type in which an encoder answers on this machine, from that of its training.

    It is the same, but bfloat16 only where the hardware supports it. `auto` is that of an old run, which did not record
    its data type.
    """
    return precision_of(trained, device) if supports_bfloat16(device) else torch.float32


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 products and the libraries are allowed to use it.

    `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` can disable features of the processor. oneDNN then computes bfloat16
    hundreds of times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(
        has
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def peak_flops(device: torch.device, precision: torch.dtype) -> float:
    """Peak FLOP/s of the device's matrix products, from the data sheet or else measured on a large product."""
    if device.type == "cuda" and precision is torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for known, peak in _KNOWN_PEAKS.items():
            if name.startswith(known):
                return peak
    return _measured_peak(device, precision, torch.get_num_threads())


@lru_cache
def _measured_peak(device: torch.device, precision: torch.dtype, threads: int) -> float:
    size = _MEASURED_SIZE * (8 if device.type == "cuda" else 1)
    one, other = (torch.ones(size, size, device=device, dtype=precision) for _ in range(2))
    best = math.inf
    for _ in range(_MEASURED_TIMES):
        _wait_for(device)
        began = time.perf_counter()
        one @ other
        _wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

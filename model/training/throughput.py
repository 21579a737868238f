"""The peak FLOP/s of the device that trains."""

import math
import time
from functools import lru_cache

import torch

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

"""Optimizers and learning-rate schedule: Muon for the matrices of the layers, AdamW for all other parameters.

In a trial Muon brought a 0.4 M-parameter encoder from 17 % to 100 % within 1,215 steps. AdamW alone is the paper's
training, except for the learning rates.
"""

from typing import Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from model.config.training import TrainingSpec
from model.training.muon import Muon


def build_optimizers(model: nn.Module, spec: TrainingSpec) -> dict[str, Optimizer]:
    """The optimizer `adamw`, plus `muon` if the spec selects it; together they cover all parameters."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_matrix = spec.optimizer == "muon" and weight.ndim == 2 and name.startswith(("layers.", "mark_layers."))
        (matrices if is_matrix else others).append(weight)
    adamw = AdamW(others, lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    if spec.optimizer == "adamw":
        return {"adamw": adamw}
    return {"muon": Muon(matrices, lr=spec.matrix_learning_rate), "adamw": adamw}


def rate_factor(step: int, spec: TrainingSpec) -> float:
    """Factor on both learning rates at `step` (from 0): linear warmup, then linear decay with a floor of 0.01."""
    warmup = max(1, round(spec.steps * spec.warmup))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.01, (spec.steps - step) / max(1, spec.steps - warmup))


def set_rates(optimizers: dict[str, Optimizer], step: int, spec: TrainingSpec) -> None:
    """Set the learning rates of `step` in all optimizers."""
    factor = rate_factor(step, spec)
    base = {"muon": spec.matrix_learning_rate, "adamw": spec.learning_rate}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = base[name] * factor


def take_step(optimizers: dict[str, Optimizer], step: int, spec: TrainingSpec) -> None:
    """Update the weights with the gradients and the learning rates of `step`, and reset the gradients."""
    set_rates(optimizers, step, spec)
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def precision_name(precision: torch.dtype) -> Literal["bfloat16", "float32"]:
    """Name of a data type, as specifications and reports use it."""
    return "bfloat16" if precision is torch.bfloat16 else "float32"


def precision_of(spec: TrainingSpec, device: torch.device) -> torch.dtype:
    """Data type of a training on this machine; `auto` selects bfloat16 if the hardware multiplies it."""
    if spec.precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if spec.precision == "bfloat16" else torch.float32


def answering_precision(spec: TrainingSpec, device: torch.device) -> torch.dtype:
    """Data type in which a trained encoder answers on this machine.

    It is that of the training, but bfloat16 only where the hardware multiplies it: the weights are the same.
    """
    return precision_of(spec, device) if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 and the libraries are allowed to use it.

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

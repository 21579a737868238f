"""Decides whether torch.compile compiles an encoder's layers, and compiles them.

On a CPU, compilation does not pay off: at the default shape it gives 1.04 times the rows per second, after 17 to 37
seconds of compilation. A short training takes no longer than that. On a GPU, it fuses the operations between the
matrix products. Compiled layers add in another order, so the setting is part of a run's identity and a resume keeps
it. Machines with different compilers may differ in the last bits, like different kinds of device.
"""

import importlib.util
import os
import shutil

import torch
from torch import nn

from model.config.training import TrainingSpec
from storage.errors import UserError


def compiles(spec: TrainingSpec, device: torch.device) -> bool:
    """Whether a training's layers are compiled on this device.

    Raises `UserError` if `compile` is `on` and no compiler is installed.
    """
    if spec.compile == "on" and not has_compiler(device):
        raise UserError(
            "compile is on, but no C++ compiler was found (a GPU also needs triton): install g++, or set compile to off"
        )
    return spec.compile == "on" or (spec.compile == "auto" and device.type == "cuda" and has_compiler(device))


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile each layer in place, with dynamic shapes: weight names stay, and one program serves all widths and loops.

    A program specialised for the first width would differ after a resume.
    """
    for layer in layers:
        layer.compile(dynamic=True)


def has_compiler(device: torch.device) -> bool:
    """Whether this machine has the compilers that torch.compile needs for this device."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))

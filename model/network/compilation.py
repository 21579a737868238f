"""Whether torch.compile makes an encoder's layers faster.

On a CPU it doesn't pay: at the default shape 1.04 times the rows a second, after 17 to 37
seconds of compiling, which are as many steps as a short training has. On a GPU it fuses what
stands between the matrix products. Compiled layers add in another order than others, so the
choice is part of what decides a run's weights, and a run goes on with the choice that it
began with; two machines whose compilers differ may differ in the last bits, as two kinds of
device do.
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

    Raises `UserError` where that is asked for and no compiler is there.
    """
    if spec.compile == "on" and not has_compiler(device):
        raise UserError("compile is on, but no C++ compiler was found: install g++, or set compile to off")
    return spec.compile == "on" or (spec.compile == "auto" and device.type == "cuda" and has_compiler(device))


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile each layer where it is: the names of weights stay, and one program does for all widths and loops.

    One that were made for the first width that it meets would differ after a resume.
    """
    for layer in layers:
        layer.compile(dynamic=True)


def has_compiler(device: torch.device) -> bool:
    """Whether this machine has what torch.compile needs on this device."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))

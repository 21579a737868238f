"""Runs a module as if this processor multiplied bfloat16: `python -m tests.emulated_bfloat16 MODULE ARGUMENT …`.

Without such instructions, torch multiplies bfloat16 matrices hundreds of times slower than float32. Here, such a
product is computed in float32 from the same bfloat16 values, and its result is rounded to bfloat16. Processors with
these instructions do the same, except for the order of the sums. The emulation covers one process: train one seed at a
time.
"""

import atexit
import multiprocessing.process
import runpy
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from model.training import hardware

_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


class EmulatedBfloat16(TorchDispatchMode):
    """Within this context, products of bfloat16 matrices are computed in float32 and rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute one operation."""
        if func.overloadpacket not in _PRODUCTS or not any(map(_is_bfloat16, args)):
            return func(*args, **(kwargs or {}))
        self.products += 1
        return func(*tree_map(_widened, args), **(kwargs or {})).bfloat16()


def _is_bfloat16(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16


def _widened(value: Any) -> Any:
    return value.float() if _is_bfloat16(value) else value


def _refuse(process: object) -> None:
    raise RuntimeError("bfloat16 is not emulated in other processes: train one seed at a time")


def main() -> None:
    """Run the module that the command line names."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.emulated_bfloat16 MODULE ARGUMENT …")
    del sys.argv[0]
    hardware.supports_bfloat16 = lambda device: True
    multiprocessing.process.BaseProcess.start = _refuse  # type: ignore[method-assign]
    with EmulatedBfloat16() as emulation:
        # The module may end the process.
        atexit.register(lambda: print(f"{emulation.products:,} products of bfloat16 were emulated", file=sys.stderr))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

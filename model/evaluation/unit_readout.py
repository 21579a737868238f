"""Records the operands and operation that a symbolic unit reads in each loop, and compares them with the problem."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from model.network.encoder import Encoder
from model.network.symbolic.unit import OPERATIONS, Reading


@contextmanager
def readings_of(encoder: Encoder) -> Iterator[list[Reading]]:
    """Collects the unit's readings in the encoder calls of this block, one per loop; empty without a unit."""
    readings: list[Reading] = []
    if encoder.unit is None:
        yield readings
        return
    handle = encoder.unit.reader.register_forward_hook(lambda module, inputs, output: readings.append(output))
    try:
        yield readings
    finally:
        handle.remove()


def correct_readings(reading: Reading, problems: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the operation, and whether both operands of each problem were read correctly, bool [n] each.

    Longer problems are compared with their first operator that is not a sign, and with their first two numbers.
    """
    operation = reading.operation.argmax(-1).cpu().numpy()
    digits = reading.digits.argmax(-1).cpu().numpy()
    true = [OPERATIONS.index(operator_of(text)) for text in problems]
    numbers = [
        [[int(digit) for digit in number.zfill(digits.shape[-1])[::-1]] for number in re.findall("[0-9]+", text)[:2]]
        for text in problems
    ]
    return operation == true, (digits == np.array(numbers)).all((1, 2))


def operator_of(problem: str) -> str:
    """The first operator of a problem that is not a sign."""
    match = re.search(r"[0-9)]([-+*])", problem)
    assert match, problem
    return match[1]


def together(readings: Sequence[Reading]) -> Reading:
    """Concatenates the readings of several batches."""
    return Reading(*(torch.cat(parts) for parts in zip(*readings, strict=True)))

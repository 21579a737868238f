"""What the heads of the encoder that rewrites read: slots and hub of an operation, and operators of an expression."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.network.rewriting.encoder import SYMBOLS, RewritingEncoder
from model.network.rewriting.rows import FIELDS, FLAGS, MULTIPLY, Operations, Units
from model.probing.hooks import State

# Difference between a unit and the one that it reads, at most.
_UNITS_AWAY = 3


class Read(NamedTuple):
    """Mean attention weight of a head on one group of keys."""

    state: State
    head: int
    reads: str
    role: str | None
    difference: int | None
    weight: float
    even: float | None
    """The weight under uniform attention."""


def hub_reads(encoder: RewritingEncoder, operations: Operations, loops: int) -> Iterator[Read]:
    """What the hub reads in steps of products: the slot with the consumed digit, all other slots, itself, the flags."""
    steps = Operations(*(part[operations.kind == MULTIPLY] for part in operations))
    rows, consumed = torch.arange(len(steps.places)), steps.lengths[:, 1].cpu()
    # Both borders are slots, too.
    slots = (steps.places + 2).cpu()
    visible = slots + 1 + FIELDS
    even = {
        "slot of the consumed digit": 1 / visible,
        "other slots": (slots - 1) / visible,
        "hub": 1 / visible,
        "flags": FIELDS / visible,
    }
    with weights_recorded(encoder.layers, "hub_weights") as found, torch.inference_mode():
        encoder.after(steps, loops)
    for state, weights in found:
        for head in range(weights.shape[2]):
            own = weights[:, 0, head, 0]
            digit, flags, hub = own[rows, consumed], own[:, -FLAGS:].sum(1), own[:, -FLAGS - 1]
            each = {
                "slot of the consumed digit": digit,
                "other slots": 1 - digit - flags - hub,
                "hub": hub,
                "flags": flags,
            }
            for role, weight in each.items():
                yield Read(state, head, "hub", role, None, _mean(weight), _mean(even[role]))


def slot_reads(encoder: RewritingEncoder, operations: Operations, loops: int) -> Iterator[Read]:
    """What the slots of all places read: the fields at their own place and beside it, flags, slots, and the hub."""
    with weights_recorded(encoder.layers, "weights") as found, torch.inference_mode():
        encoder.after(operations, loops)
    # The slots of places come after the lower border. Symbols are sorted by field; see `RewritingEncoder`.
    inside = operations.inside.cpu()
    for state, weights in found:
        if weights.shape[1] > 1:
            raise ValueError("operations have more places than one block")
        own = weights[:, 0].transpose(1, 2)[:, 1 : 1 + inside.shape[1]][inside]
        contents = (SYMBOLS - FLAGS) // FIELDS
        sizes = [*[contents] * FIELDS, FLAGS, own.shape[-1] - SYMBOLS - 1, 1]
        names = ("digits of a", "digits of b", "register", "flags", "slots", "hub")
        parts = dict(zip(names, own.split(sizes, -1), strict=True))
        # Of a field and of the slots, a place and both beside it are visible.
        keys = {role: 1 if role == "hub" else FIELDS for role in parts}
        for role, part in parts.items():
            for head, weight in enumerate(part.sum(-1).mean(0).tolist()):
                yield Read(state, head, "slot", role, None, weight, keys[role] / sum(keys.values()))


def operator_reads(encoder: RewritingEncoder, units: Units, at: Sequence[int]) -> Iterator[Read]:
    """What an operator reads of the units around it; `at` is its unit in each of n short expressions."""
    with weights_recorded(encoder.marking_layers, "weights") as found, torch.inference_mode():
        next(islice(encoder.marking(units), encoder.config.mark_loops - 1, None))
    rows, place = torch.arange(len(at)), torch.tensor(at)
    for state, weights in found:
        for head in range(weights.shape[2]):
            own = weights[:, 0, head][rows, place]
            for away in range(-_UNITS_AWAY, _UNITS_AWAY + 1):
                yield Read(state, head, "unit", None, away, _mean(own[rows, place + away]), None)


@contextmanager
def weights_recorded(layers: nn.ModuleList, name: str) -> Iterator[list[tuple[State, Tensor]]]:
    """Collects the attention weights that pass through a module of each layer in this block, loop by loop."""
    found: list[tuple[State, Tensor]] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], weights: Tensor) -> None:
        loop, number = divmod(len(found), len(layers))
        found.append((State(loop + 1, number + 1), weights.float().cpu()))

    hooks = [getattr(layer, name).register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _mean(values: Tensor | NDArray[np.floating]) -> float:
    return float(values.mean())

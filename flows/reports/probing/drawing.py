"""Drawing of measures with their intervals, and names of states in texts and on axes."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from flows.reports.probing.data import Value, Values


def matrix_of(
    values: Values, rows: Sequence[tuple[Any, ...]], columns: Sequence[tuple[Any, ...]], scale: float = 1
) -> NDArray[np.float64]:
    """The values with the keys (*row, *column), times `scale`, [rows, columns]; nan for missing ones."""
    return np.array([_heights([values.get((*row, *column)) for column in columns], scale) for row in rows])


def bars(
    axes: Axes, across: Sequence[float] | NDArray[Any], values: Collection[Value | None], scale: float = 1, **style: Any
) -> None:
    """Draw values times `scale` as bars at the positions `across`, with their intervals as lines."""
    axes.bar(across, _heights(values, scale), **style)
    for x, value in zip(across, values, strict=True):
        if value and value.low is not None and value.high is not None:
            axes.plot([x, x], [scale * value.low, scale * value.high], color="black", linewidth=0.8)


def marks(
    axes: Axes, across: NDArray[Any], values: Collection[Value | None], marker: str, scale: float = 1, **style: Any
) -> None:
    """Draw values times `scale` as unfilled markers at the positions `across`."""
    axes.plot(across, _heights(values, scale), marker, color="black", fillstyle="none", **style)


def state_text(state: tuple[int, ...], loops: int) -> str:
    """Name of the state (loop, layer) of an encoder with `loops` loops."""
    loop, layer = state
    if not layer:
        return "embedding"
    if loops == 1:
        return f"layer {layer}"
    return f"loop {loop}, layer {layer}" if loop else f"all loops, layer {layer}"


def mark_states(axes: Axes, states: Sequence[tuple[int, ...]], kinds: Sequence[str] = ()) -> None:
    """Label an axis with short names of states: 'e' for the embedding, otherwise loop·layer.

    If `kinds` are given, the kind of token precedes each name.
    """
    looped = max(loop for loop, _ in states) > 1
    names = ["e" if not layer else f"{loop or 'all'}·{layer}" if looped else str(layer) for loop, layer in states]
    if kinds:
        names = [f"{kind} {name}" for kind, name in zip(kinds, names, strict=True)]
    rotation = 90 if kinds or len(names) > 10 else 0
    axes.set_xticks(range(len(names)), names, fontsize=7 if len(names) < 10 else 6, rotation=rotation)
    axes.set_xlabel("loop·layer" if looped else "layer", fontsize=7)


def _heights(values: Collection[Value | None], scale: float) -> list[float]:
    return [scale * value.mean if value else np.nan for value in values]

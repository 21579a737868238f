"""Drawing of figures: self-contained SVG text in two colours."""

import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.evaluation.intervals import Group

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "numerate"

INK, SECOND, PALE = "#3566a8", "#c2571a", "#8888"
LINES = (INK, SECOND, "#5a9367", "#8a6bb0")
# Text on bright cells. It is not plain black, which `svg` replaces with the text colour of the page.
_ON_BRIGHT = "#111111"
_LABELLED_BARS, _MOST_BARS = 5, 20


def svg(draw: Callable[..., None], label: str, *, axes: int = 1, rows: int = 1, height: float = 3.0) -> str:
    """Draw with `draw` on a grid of `rows` by `axes` axes; returns the figure as SVG text."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    panels = figure.subplots(rows, axes, squeeze=False).ravel()
    for panel in panels:
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    draw(*panels)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    # Black becomes the text colour of the page, which may be dark.
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" fill="currentColor"', 1)


def by_group(groups: Sequence[Group], label: str) -> str:
    """Exact match of each group with its interval, as bars, or as a line for many groups."""
    matches = np.array([100 * group.exact_match for group in groups])
    low, high = (np.array([100 * group.interval[end] for group in groups]) for end in (0, 1))

    def draw(axes: Axes) -> None:
        if len(groups) > _MOST_BARS:
            values = [int(group.value) for group in groups]
            axes.fill_between(values, low, high, color=INK, alpha=0.25, linewidth=0)
            axes.plot(values, matches, color=INK)
        else:
            errors = np.maximum(0, [matches - low, high - matches])
            bars = axes.bar([str(group.value) for group in groups], matches, color=INK, width=0.6)
            axes.errorbar(range(len(groups)), matches, yerr=errors, fmt="none", ecolor=SECOND, capsize=2)
            if len(groups) <= _LABELLED_BARS:
                texts = [f"{group.exact_match:.2%}\n{group.problems:,} problems" for group in groups]
                axes.bar_label(bars, texts, padding=3, fontsize=8)
        axes.set(xlabel=label, ylabel="exact match, %", ylim=(0, 125), yticks=range(0, 101, 25))

    return svg(draw, f"Exact match by {label}")


def numbered(axes: Axes, values: NDArray[np.float64], top: float, form: str, size: float) -> None:
    """Draw a map of values [rows, columns] between 0 and `top`, with the value in each cell; nan cells have no text."""
    axes.imshow(np.clip(values, 0, top), vmin=0, vmax=top, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = _ON_BRIGHT if value > 0.6 * top else "white"
            axes.text(column, row, format(value, form), ha="center", va="center", fontsize=size, color=color)


def heat(axes: Axes, matches: NDArray[np.float64], size: int, *, square: bool) -> None:
    """Exact match in percent, [rows, columns], where each column covers `size` lengths; nan means no problems.

    With `square`, the rows cover lengths in the same way. Otherwise they are numbered from 0.
    """
    edges = np.arange(matches.shape[1] + 1) * size + 0.5
    mesh = axes.pcolormesh(
        edges, edges if square else np.arange(len(matches) + 1) - 0.5, matches, vmin=0, vmax=100, cmap="viridis"
    )
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(mesh, ax=axes, label="exact match, %")

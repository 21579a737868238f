"""Figures of embedding geometry: positions of digits, signs and numbers, and fits of line, circle and helix."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, svg
from flows.reports.probing.data import Figure, ProbeData, Value, mark_states, whiskers
from model.probing.hooks import spread

_EMBEDDED = "kind = 'embedding' AND control = '{control}' AND symbols = '{symbols}'"
_MEASURES = {
    "line": "line",
    **{f"circle {period}": f"circle, period {period}" for period in (2, 5, 10, 100)},
    "helix": "helix",
}
_KINDS = ("embedding", "operand", "answer")
_MOST_STATES = 14


def symbols_figure(data: ProbeData) -> Figure:
    """Cosines of digits and signs, and their first two principal components."""
    trained, untrained = (_EMBEDDED.format(control=control, symbols="tokens") for control in ("trained", "untrained"))
    cosines = data.rows("probe_similarity", "symbol, other, cosine", trained, first=True)
    names = _in_order({row[0] for row in cosines})
    matrix = np.zeros((len(names), len(names)))
    for symbol_a, symbol_b, cosine in cosines:
        matrix[names.index(symbol_a), names.index(symbol_b)] = cosine
    points = [
        data.rows("probe_coordinates", "symbol, x, y, x_share, y_share", where, first=True)
        for where in (trained, untrained)
    ]

    def draw(left: Axes, middle: Axes, right: Axes) -> None:
        """Draw the matrix and both planes."""
        left.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        left.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
        left.tick_params(labelsize=7)
        left.set_title("cosines, trained", fontsize=9)
        for axes, rows, title in ((middle, points[0], "trained"), (right, points[1], "untrained")):
            _plane(axes, rows, title)

    circle = data.single(
        "probe_geometry", _EMBEDDED.format(control="trained", symbols="digits") + " AND measure = 'circle 10'"
    )
    exceeds_chance = circle and _exceeds_chance(data, "digits", "circle 10")
    digits = "not clearly on a circle"
    if exceeds_chance:
        digits = (
            "in order around a circle"
            if _in_cyclic_order(points[0])
            else "closer to a circle than by chance, but not in order"
        )
    return Figure(
        "Digits and signs in the embedding",
        svg(draw, "Cosines of digits and signs, and their principal components", axes=3, height=2.7),
        f"The embeddings of digits and signs of {data.runs[0]}. The digits are {digits}.",
        "Two components are only a part of the variance. The encoder does not necessarily use this order; the edits "
        "below test it.",
        first=True,
    )


def fits_figure(data: ProbeData) -> Figure:
    """Variance of the digits that a circle and a helix explain, in embeddings and states, with controls."""
    where = "symbols = 'digits' AND measure = 'circle 10'"
    keys = ["kind", "loop", "layer", "control"]
    values = data.values("probe_geometry", keys, where)
    bounds = data.values("probe_geometry", keys, where, "shuffled_high")
    helix = data.values("probe_geometry", keys, where.replace("circle 10", "helix"))
    all_states = sorted(
        (key[:3] for key in values if key[3] == "trained"), key=lambda state: (_KINDS.index(state[0]), state[1:])
    )
    states = spread(all_states, _MOST_STATES)
    left_out = f" {len(states)} of {len(all_states)} states are shown." if len(states) < len(all_states) else ""
    spectrum = data.values(
        "probe_geometry",
        ["control", "measure"],
        "kind = 'embedding' AND symbols = 'digits' AND measure LIKE 'frequency%'",
    )

    def draw(left: Axes, right: Axes) -> None:
        """Draw bars of the fits, and the spectrum of the embedding."""
        x_positions = np.arange(len(states))
        for shift, by_state, color, name in ((-0.2, values, INK, "circle"), (0.2, helix, SECOND, "helix")):
            means = [by_state[*state, "trained"] for state in states]
            left.bar(x_positions + shift, [value.mean for value in means], 0.38, color=color, label=name)
            whiskers(left, x_positions + shift, means)
        for by_state, control, marker, label in (
            (bounds, "trained", "_", "95 % of shuffles (circle)"),
            (values, "untrained", "o", "untrained (circle)"),
        ):
            marks = [by_state.get((*state, control)) for state in states]
            heights = [mark.mean if mark else np.nan for mark in marks]
            size = 12 if marker == "_" else 4
            left.plot(x_positions - 0.2, heights, marker, color="black", fillstyle="none", markersize=size, label=label)
        left.set(ylim=(0, 1.25), yticks=np.linspace(0, 1, 5), ylabel="share of variance explained")
        mark_states(left, [state[1:] for state in states], [str(state[0]) for state in states])
        left.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper left")
        _spectrum(right, spectrum)

    first = values.get(("embedding", 0, 0, "trained"))
    bound = bounds.get(("embedding", 0, 0, "trained"))
    return Figure(
        "Line, circle, helix",
        svg(
            draw,
            "Share of variance that circle and helix explain, and the spectrum over the digits",
            axes=2,
            height=3.4,
        ),
        f"A circle through the ten digits explains {_share(first)} of the embeddings' variance. 95 % of shuffles "
        f"stay below {_share(bound)}.",
        "With ten points, a circle has two of nine directions and a helix three: 22 % and 33 % by chance alone."
        f"{left_out}",
    )


def _spectrum(axes: Axes, spectrum: dict[Any, Value]) -> None:
    """Share of variance at each frequency over the digits, trained and untrained."""
    for control, color in (("untrained", PALE), ("trained", INK)):
        shares = [value.mean for key, value in sorted(spectrum.items()) if key[0] == control]
        axes.plot(range(1, len(shares) + 1), shares, color=color, marker="o", markersize=3, label=control)
    axes.set(xlabel="frequency over the digits", ylabel="share of variance", ylim=(0, None))
    axes.legend(frameon=False, fontsize=7)


def numbers_figure(data: ProbeData) -> Figure | None:
    """Numbers 0–99 as single tokens: fits of a line, circles and a helix; None without such tokens."""
    where = _EMBEDDED.format(control="trained", symbols="numbers")
    points = data.rows("probe_coordinates", "symbol, x, y, x_share, y_share", where, first=True)
    if not points:
        return None
    keys = ["control", "measure"]
    values = data.values("probe_geometry", keys, "kind = 'embedding' AND symbols = 'numbers'")
    bounds = data.values("probe_geometry", keys, "kind = 'embedding' AND symbols = 'numbers'", "shuffled_high")

    def draw(left: Axes, right: Axes) -> None:
        """Draw the plane and the fits."""
        numbers = np.array([int(row[0]) for row in points])
        left.scatter([r[1] for r in points], [r[2] for r in points], c=numbers, cmap="viridis", s=10)
        for symbol, x, y, *_ in points:
            if int(symbol) % 10 == 0:
                left.annotate(symbol, (x, y), (2, 2), textcoords="offset points", fontsize=7)
        left.set(
            xlabel=f"component 1 ({points[0][3]:.0%})", ylabel=f"component 2 ({points[0][4]:.0%})", xticks=[], yticks=[]
        )
        _fit_bars(right, values, bounds)

    shares = [
        f"{text} {_share(values['trained', name])} (shuffled below {_share(bounds['trained', name])})"
        for name, text in _MEASURES.items()
    ]
    return Figure(
        "Whole numbers as tokens",
        svg(draw, "Embeddings of the numbers 0 to 99", axes=2, height=3.2),
        f"Share of the variance of the embeddings of the tokens 0 to 99 that each fit explains: {'; '.join(shares)}.",
        "A small share of a hundred directions can be far above chance. The model does not necessarily add with it.",
        first=True,
    )


def _in_cyclic_order(points: list[tuple[Any, ...]]) -> bool:
    """Whether the digits are in cyclic order around their mean in the plane."""
    states = {int(symbol): (x, y) for symbol, x, y, *_ in points if symbol.isdigit()}
    turned = np.array([states[digit] for digit in range(10)])
    x, y = (turned - turned.mean(0)).T
    order = np.argsort(np.arctan2(y, x))
    steps = np.diff(order, append=order[:1]) % 10
    return bool((steps == 1).all() or (steps == 9).all())


def _exceeds_chance(data: ProbeData, symbols: str, measure: str) -> bool:
    where = _EMBEDDED.format(control="trained", symbols=symbols) + f" AND measure = '{measure}'"
    return all(chance < 0.05 for (chance,) in data.rows("probe_geometry", "chance", where))


def _plane(axes: Axes, rows: list[tuple[Any, ...]], title: str) -> None:
    digits = sorted((row for row in rows if row[0].isdigit()), key=lambda row: int(row[0]))
    ring = [*digits, digits[0]]
    axes.plot([r[1] for r in ring], [r[2] for r in ring], color=PALE, linewidth=0.8)
    for symbol, x, y, *_ in rows:
        axes.text(x, y, symbol, color=INK if symbol.isdigit() else SECOND, ha="center", va="center", fontsize=9)
    span = max(max(abs(r[1]) for r in rows), max(abs(r[2]) for r in rows)) * 1.2
    axes.set(xlim=(-span, span), ylim=(-span, span), xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel(f"component 1 ({rows[0][3]:.0%})", fontsize=7)
    axes.set_ylabel(f"component 2 ({rows[0][4]:.0%})", fontsize=7)
    axes.set_title(title, fontsize=9)


def _fit_bars(axes: Axes, values: dict[tuple[Any, ...], Value], bounds: dict[tuple[Any, ...], Value]) -> None:
    x_positions = np.arange(len(_MEASURES))
    axes.bar(x_positions, [values["trained", name].mean for name in _MEASURES], 0.6, color=INK, label="trained")
    axes.plot(
        x_positions,
        [values["untrained", name].mean for name in _MEASURES],
        "o",
        color="black",
        fillstyle="none",
        label="untrained",
    )
    axes.plot(
        x_positions,
        [bounds["trained", name].mean for name in _MEASURES],
        "_",
        color="black",
        markersize=14,
        label="95 % of shuffles",
    )
    axes.set_xticks(x_positions, list(_MEASURES.values()), rotation=25, ha="right", fontsize=7)
    axes.set(ylabel="share of variance explained")
    axes.legend(frameon=False, fontsize=7)


def _in_order(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.isdigit(), "+-*()=".find(name), name))


def _share(value: Value | None) -> str:
    return f"{value.mean:.0%}" if value else "–"


DRAWN: tuple[Callable[[ProbeData], Figure | None], ...] = (symbols_figure, fits_figure, numbers_figure)

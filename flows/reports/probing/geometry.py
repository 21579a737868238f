"""Geometry of embeddings: figures of digits, signs and numbers with fits of line, circle and helix, and a finding."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, svg
from flows.reports.probing.data import Figure, Finding, ProbeData, Value, Values
from flows.reports.probing.drawing import bars, mark_states, marks
from model.probing.hooks import spread

# Share of explained variance from which digits are on a circle; far from both controls.
_ON_CIRCLE = 0.5
_COORDINATES = "symbol, x, y, x_share, y_share"
_CIRCLE = "symbols = 'digits' AND measure = 'circle 10'"
_FITS = {
    "line": "line",
    **{f"circle {period}": f"circle, period {period}" for period in (2, 5, 10, 100)},
    "helix": "helix",
}
_KINDS = ("embedding", "operand", "answer")
_MOST_STATES = 14


def circle_finding(data: ProbeData) -> Finding | None:
    """Whether the embeddings of the digits are on a circle."""
    values, bounds = (
        data.values("probe_geometry", ["control"], f"kind = 'embedding' AND {_CIRCLE}", column)
        for column in ("value", "shuffled_high")
    )
    if not values:
        return None
    trained, untrained, bound = values[("trained",)], values[("untrained",)], bounds[("trained",)]
    found = trained.mean >= _ON_CIRCLE and trained.lower > bound.mean
    return Finding(
        "digits on a circle",
        found,
        f"circle of digits in the embeddings: {'found' if found else 'not found'}, {trained.text('.0%')} of the "
        f"variance (95 % of shuffles below {bound.mean:.0%}, untrained {untrained.mean:.0%})",
    )


def symbols_figure(data: ProbeData) -> Figure | None:
    """Cosines of digits and signs, and their first two principal components; None without their embeddings."""
    where = "kind = 'embedding' AND symbols = 'tokens' AND control = '{}'"
    rows = data.rows("probe_similarity", "symbol, other, cosine", where.format("trained"), first=True)
    if not rows:
        return None
    cosines = {(symbol, other): cosine for symbol, other, cosine in rows}
    names = sorted({symbol for symbol, _ in cosines}, key=lambda name: (not name.isdigit(), "+-*()=".find(name), name))
    matrix = np.array([[cosines[symbol, other] for other in names] for symbol in names])
    points = {
        control: data.rows("probe_coordinates", _COORDINATES, where.format(control), first=True)
        for control in ("trained", "untrained")
    }

    def draw(left: Axes, *planes: Axes) -> None:
        left.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        left.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
        left.tick_params(labelsize=7)
        left.set_title("cosines, trained", fontsize=9)
        for axes, (control, symbols) in zip(planes, points.items(), strict=True):
            _draw_plane(axes, symbols)
            axes.set_title(control, fontsize=9)

    chances = data.rows("probe_geometry", "chance", f"kind = 'embedding' AND control = 'trained' AND {_CIRCLE}")
    if not chances or any(chance >= 0.05 for (chance,) in chances):
        digits = "not clearly on a circle"
    elif _in_cyclic_order(points["trained"]):
        digits = "in order around a circle"
    else:
        digits = "closer to a circle than by chance, but not in order"
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
    keys = ["kind", "loop", "layer", "control"]
    values = data.values("probe_geometry", keys, _CIRCLE)
    bounds = data.values("probe_geometry", keys, _CIRCLE, "shuffled_high")
    helix = data.values("probe_geometry", keys, "symbols = 'digits' AND measure = 'helix'")
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
        across = np.arange(len(states))
        for shift, by_state, color, name in ((-0.2, values, INK, "circle"), (0.2, helix, SECOND, "helix")):
            means = [by_state[*state, "trained"] for state in states]
            bars(left, across + shift, means, width=0.38, color=color, label=name)
        shuffled = [bounds[*state, "trained"] for state in states]
        untrained = [values.get((*state, "untrained")) for state in states]
        marks(left, across - 0.2, shuffled, "_", markersize=12, label="95 % of shuffles (circle)")
        marks(left, across - 0.2, untrained, "o", markersize=4, label="untrained (circle)")
        left.set(ylim=(0, 1.25), yticks=np.linspace(0, 1, 5), ylabel="share of variance explained")
        mark_states(left, [state[1:] for state in states], [state[0] for state in states])
        left.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper left")
        for control, color in (("untrained", PALE), ("trained", INK)):
            shares = [value.mean for key, value in spectrum.items() if key[0] == control]
            right.plot(range(1, len(shares) + 1), shares, color=color, marker="o", markersize=3, label=control)
        right.set(xlabel="frequency over the digits", ylabel="share of variance", ylim=(0, None))
        right.legend(frameon=False, fontsize=7)

    embedded = ("embedding", 0, 0, "trained")
    return Figure(
        "Line, circle, helix",
        svg(
            draw,
            "Share of variance that circle and helix explain, and the spectrum over the digits",
            axes=2,
            height=3.4,
        ),
        f"A circle through the ten digits explains {_share(values.get(embedded))} of the embeddings' variance. 95 % of "
        f"shuffles stay below {_share(bounds.get(embedded))}.",
        "With ten points, a circle has two of nine directions and a helix three: 22 % and 33 % by chance alone."
        f"{left_out}",
    )


def numbers_figure(data: ProbeData) -> Figure | None:
    """Numbers 0–99 as single tokens: fits of a line, circles and a helix; None without such tokens."""
    where = "kind = 'embedding' AND symbols = 'numbers'"
    points = data.rows("probe_coordinates", _COORDINATES, f"{where} AND control = 'trained'", first=True)
    if not points:
        return None
    trained, untrained = data.values_by_control("probe_geometry", ["measure"], where)
    bounds, _ = data.values_by_control("probe_geometry", ["measure"], where, "shuffled_high")

    def draw(left: Axes, right: Axes) -> None:
        numbers = np.array([int(row[0]) for row in points])
        left.scatter([r[1] for r in points], [r[2] for r in points], c=numbers, cmap="viridis", s=10)
        for symbol, x, y, *_ in points:
            if int(symbol) % 10 == 0:
                left.annotate(symbol, (x, y), (2, 2), textcoords="offset points", fontsize=7)
        left.set(
            xlabel=f"component 1 ({points[0][3]:.0%})", ylabel=f"component 2 ({points[0][4]:.0%})", xticks=[], yticks=[]
        )
        across = np.arange(len(_FITS))
        bars(right, across, _of_fits(trained), width=0.6, color=INK, label="trained")
        marks(right, across, _of_fits(untrained), "o", label="untrained")
        marks(right, across, _of_fits(bounds), "_", markersize=14, label="95 % of shuffles")
        right.set_xticks(across, list(_FITS.values()), rotation=25, ha="right", fontsize=7)
        right.set(ylabel="share of variance explained")
        right.legend(frameon=False, fontsize=7)

    shares = [
        f"{text} {_share(trained[(name,)])} (shuffled below {_share(bounds[(name,)])})" for name, text in _FITS.items()
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
    digits = sorted((int(symbol), x, y) for symbol, x, y, *_ in points if symbol.isdigit())
    _, x, y = (np.array(digits) - np.mean(digits, 0)).T
    order = np.argsort(np.arctan2(y, x))
    steps = np.diff(order, append=order[:1]) % 10
    return bool((steps == 1).all() or (steps == 9).all())


def _draw_plane(axes: Axes, rows: list[tuple[Any, ...]]) -> None:
    """Draw symbols on two principal components, and a line through the digits."""
    digits = sorted(row for row in rows if row[0].isdigit())
    ring = [*digits, digits[0]]
    axes.plot([r[1] for r in ring], [r[2] for r in ring], color=PALE, linewidth=0.8)
    for symbol, x, y, *_ in rows:
        axes.text(x, y, symbol, color=INK if symbol.isdigit() else SECOND, ha="center", va="center", fontsize=9)
    span = max(max(abs(r[1]), abs(r[2])) for r in rows) * 1.2
    axes.set(xlim=(-span, span), ylim=(-span, span), xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel(f"component 1 ({rows[0][3]:.0%})", fontsize=7)
    axes.set_ylabel(f"component 2 ({rows[0][4]:.0%})", fontsize=7)


def _of_fits(values: Values) -> list[Value]:
    return [values[(name,)] for name in _FITS]


def _share(value: Value | None) -> str:
    return f"{value.mean:.0%}" if value else "–"

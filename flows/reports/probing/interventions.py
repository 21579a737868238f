"""Figures of interventions: effects of moving a digit, patching a carry and ablating a head on the answers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, numbered, svg
from flows.reports.probing.data import Figure, ProbeData, Value, mark_states, state_text, whiskers

_WAYS = {
    "digit": "whole digit",
    "circles": "circles of 10 and 5",
    "circle": "circle of 10 only",
    "rest": "all but that circle",
    "rest as far": "the same, same length",
    "random": "random, same length",
}
_SITES = ("lower digits", "lower slot", "own slot")


def digits_figure(data: ProbeData) -> Figure | None:
    """How often the answer follows a moved digit, by shift and by state."""
    values = data.values("probe_interventions", ["way", "loop", "layer", "shift"], "experiment = 'digit'", "predicted")
    other = data.values("probe_interventions", ["way", "loop", "layer", "shift"], "experiment = 'digit'", "other")
    if not values:
        return None
    states = sorted({key[1:3] for key in values})
    colors = {
        "digit": PALE,
        "circles": "#7fa8d8",
        "circle": INK,
        "rest": "#e0a080",
        "rest as far": "#c98a5c",
        "random": SECOND,
    }

    def draw(left: Axes, right: Axes) -> None:
        """Draw results by shift at the embedding, and by state."""
        for way, color in colors.items():
            shifts = [shift for shift in range(1, 10) if (way, 0, 0, shift) in values]
            left.plot(
                shifts,
                [100 * values[way, 0, 0, shift].mean for shift in shifts],
                color=color,
                marker="o",
                markersize=3,
                label=_WAYS[way],
            )
            means = [values[way, *state, 0] for state in states]
            across = np.arange(len(states)) + 0.14 * (list(colors).index(way) - 2.5)
            right.bar(across, [100 * value.mean for value in means], 0.13, color=color, label=_WAYS[way])
            whiskers(right, across, means, 100)
        left.set(
            xlabel="digit moved by, modulo 10",
            ylabel="answered as predicted, %",
            ylim=(-3, 132),
            xticks=range(1, 10),
            yticks=range(0, 101, 25),
        )
        left.set_title("in the embedding", fontsize=9)
        left.legend(frameon=False, fontsize=7, ncols=2, loc="upper center")
        mark_states(right, states)
        right.set_title("in each state", fontsize=9)
        right.set(ylim=(0, 132), yticks=range(0, 101, 25))

    circle, rest, far, chance = (values[way, 0, 0, 0] for way in ("circle", "rest", "rest as far", "random"))
    return Figure(
        "Move a digit",
        svg(draw, "Share of answers that follow a moved digit", axes=2, height=3.0),
        f"A digit is moved in its embedding. Along the circle only, the answer changes as exact arithmetic predicts in "
        f"{circle.text('.0%')} of problems, and in another way in {other['circle', 0, 0, 0].mean:.0%}. Along all other "
        f"directions it changes as predicted in {rest.text('.0%')} (with the length of the circle's move: "
        f"{far.text('.0%')}), and along random directions of the digits, with that length, in {chance.text('.0%')}.",
        "A whole digit moved in the embedding is another input, so 100 % there is not a finding. The circle and the "
        "rest have different shares of the variance. After the layer that reads a digit, a move can have no effect."
        f"{_note_on_unit(data)}",
        first=True,
    )


def carries_figure(data: ProbeData) -> Figure | None:
    """How often the answer follows a patched carry, and how often the other problem's digit, by site and state."""
    keys = ["way", "site", "loop", "layer"]
    values, copied, other = (
        data.values("probe_interventions", keys, "experiment = 'carry'", measure)
        for measure in ("predicted", "copied", "other")
    )
    if not values or not copied:
        return None
    # A patch of all loops at once comes after those of single loops.
    states = sorted({key[2:] for key in values}, key=lambda state: (state[1] > 0 and not state[0], state))
    loops = max(state[0] for state in states)
    shown = {
        "carry arrives, %": (values, "carry"),
        "digit is copied, %": (copied, "carry"),
        "any changed answer, %": (other, "carry"),
        "control, same carry, %": (values, "same carry"),
    }
    matrices = [
        np.array([[_percent(found.get((way, site, *state))) for state in states] for site in _SITES])
        for found, way in shown.values()
    ]
    # `other` excludes the predicted answers; the sum covers every changed answer.
    matrices[2] = matrices[0] + matrices[2]

    def draw(*panels: Axes) -> None:
        """Draw the carry, the copied digit, all changed answers, and the control."""
        for number, (axes, matrix, title) in enumerate(zip(panels, matrices, shown, strict=True)):
            numbered(axes, matrix, 100.0, ".0f", 6)
            mark_states(axes, states)
            axes.set_yticks(range(len(_SITES)), [] if number % across else _SITES, fontsize=7)
            axes.set_title(title, fontsize=7)

    # With many states, two panels per row leave space for the numbers.
    across, height = (4, 2.2) if len(states) < 8 else (2, 3.6)
    best = arrival(data)
    text = (
        f"At best, at the {best.site}, {state_text(best.state, loops)}, the carry arrives in "
        f"{best.carried.text('.0%')} of problems, the other problem's digit in {best.copied:.0%} (control, same carry: "
        f"{best.control:.0%})"
        if best and best.carried.mean else "The carry arrives from no inner state"
    )  # fmt: skip
    return Figure(
        "Patch a carry",
        svg(draw, "Share of answers that follow a patched carry", axes=across, rows=4 // across, height=height),
        "States of a problem with one more carry and another digit above it replace those of a problem without this "
        f"carry. {text}.",
        "The states of the lower digits contain the input, so their effect is not a carry. The late states of a slot "
        f"contain its finished digit, which is copied whatever the carry is.{_note_on_unit(data)}",
        first=True,
    )


class Arrival(NamedTuple):
    """The site and state at which a patched carry changes most answers as predicted, the input excluded."""

    site: str
    state: tuple[int, int]
    carried: Value
    copied: float
    control: float


def arrival(data: ProbeData) -> Arrival | None:
    """Find the best site and state for patching a carry; None without patches.

    Only slots are considered: the states of lower digits contain the digits, so patching them replaces the input.
    """
    keys = ["way", "site", "loop", "layer"]
    values, copied = (
        data.values("probe_interventions", keys, "experiment = 'carry'", measure) for measure in ("predicted", "copied")
    )
    inner = [key for key in values if key[0] == "carry" and key[1] != "lower digits" and key[3] and key in copied]
    if not inner:
        return None
    best = max(inner, key=lambda key: values[key].mean)
    return Arrival(best[1], (best[2], best[3]), values[best], copied[best].mean, values["same carry", *best[1:]].mean)


def heads_figure(data: ProbeData) -> Figure | None:
    """Share of answers that stay right without each head."""
    values = data.values("probe_interventions", ["layer", "site"], "experiment = 'head'", "predicted")
    if not values:
        return None
    layers = sorted({layer for layer, _ in values})
    names = [site.removeprefix("head ") if site.startswith("head") else "r" for _, site in values]

    def draw(axes: Axes) -> None:
        """Draw a bar per head."""
        colors = [INK if site.startswith("head") else SECOND for _, site in values]
        axes.bar(range(len(values)), [100 * value.mean for value in values.values()], color=colors, width=0.7)
        whiskers(axes, range(len(values)), values.values(), 100)
        axes.set_xticks(range(len(names)), names, fontsize=7 if len(names) < 40 else 5)
        for layer in layers:
            heads_of_layer = [x for x, key in enumerate(values) if key[0] == layer]
            axes.text((heads_of_layer[0] + heads_of_layer[-1]) / 2, 112, f"layer {layer}", ha="center", fontsize=7)
        axes.set(ylabel="still correct, %", ylim=(0, 122), yticks=range(0, 101, 25), xlabel="head; r: random")

    of_runs = data.values(
        "probe_interventions", ["run", "layer", "site"], "experiment = 'head' AND way = 'ablated'", "predicted"
    )
    least: dict[str, tuple[Value, str]] = {}
    for (run, layer, site), value in of_runs.items():
        if run not in least or value.mean < least[run][0].mean:
            least[run] = value, f"{site} of layer {layer}"
    if data.is_single_run:
        ((value, name),) = least.values()
        effect = f"{value.text('.0%')} stay correct without {name}"
    else:
        means = [100 * value.mean for value, _ in least.values()]
        effect = f"{min(means):.0f} to {max(means):.0f}% stay correct without the head that each run needs most"
    return Figure(
        "Ablate a head",
        svg(draw, "Share of answers that stay correct without a head", height=2.5),
        f"Of problems answered correctly, {effect}. "
        "The head's output is replaced by its mean in every loop. Orange: a random subspace of the same size.",
        "Heads with the same function can replace each other: a head that is not needed alone is not necessarily idle."
        + (
            ""
            if data.is_single_run
            else " Bars are means over the runs, whose heads of the same number can differ in function."
        ),
    )


def _note_on_unit(data: ProbeData) -> str:
    """A note that edits do not change what a symbolic unit reads; empty without a unit."""
    if not data.values("probe_unit", ["measure"]):
        return ""
    return " The symbolic unit reads the embeddings of digits: edits of later states do not change its input."


def _percent(value: Value | None) -> float:
    return 100 * value.mean if value else np.nan


DRAWN: tuple[Callable[[ProbeData], Figure | None], ...] = (digits_figure, carries_figure, heads_figure)

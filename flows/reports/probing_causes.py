"""Figures of edits: what moving a digit, patching a carry and taking away a head do to the answers."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from flows.reports.drawing import INK, PALE, SECOND, numbered, svg
from flows.reports.probing_data import Figure, ProbeData, Value, state_text

_WAYS = {
    "digit": "all of the digit",
    "circles": "circles of 10 and 5",
    "circle": "circle of 10 alone",
    "random": "random, as long",
}
_SITES = ("lower digits", "lower slot", "own slot")


def digits_figure(data: ProbeData) -> Figure | None:
    """How often the answer follows a moved digit, by shift and by state."""
    values = data.values("probe_interventions", ["way", "loop", "layer", "shift"], "experiment = 'digit'", "predicted")
    other = data.values("probe_interventions", ["way", "loop", "layer", "shift"], "experiment = 'digit'", "other")
    if not values:
        return None
    states = sorted({key[1:3] for key in values})
    loops = max(state[0] for state in states)
    colors = {"digit": PALE, "circles": "#7fa8d8", "circle": INK, "random": SECOND}

    def draw(left: Axes, right: Axes) -> None:
        """By shift at the embedding, and by state."""
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
            across = np.arange(len(states)) + 0.2 * (list(colors).index(way) - 1.5)
            right.bar(across, [100 * value.mean for value in means], 0.19, color=color, label=_WAYS[way])
            for x, value in zip(across, means, strict=True):
                if value.low is not None and value.high is not None:
                    right.plot([x, x], [100 * value.low, 100 * value.high], color="black", linewidth=0.8)
        left.set(
            xlabel="digit moved by, modulo 10",
            ylabel="answered as predicted, %",
            ylim=(-3, 132),
            xticks=range(1, 10),
            yticks=range(0, 101, 25),
        )
        left.set_title("in the embedding", fontsize=9)
        left.legend(frameon=False, fontsize=7, ncols=2, loc="upper center")
        right.set_xticks(
            range(len(states)), [state_text(state, loops) for state in states], rotation=45, ha="right", fontsize=7
        )
        right.set(ylim=(0, 132), yticks=range(0, 101, 25))

    circle, chance = values["circle", 0, 0, 0], values["random", 0, 0, 0]
    return Figure(
        "Move a digit",
        svg(draw, "Share of answers that follow a moved digit", axes=2, height=3.0),
        f"Moved along the circle alone, in its embedding, a digit changes the answer as exact arithmetic predicts in "
        f"{circle.text('.0%')} of problems, a random move as long in {chance.text('.0%')}; another answer comes in "
        f"{other['circle', 0, 0, 0].mean:.0%}.",
        "All of the digit moved in the embedding is another input, so that 100 % there is no finding; behind the layer "
        "that reads it, a digit can be moved without effect.",
    )


def carries_figure(data: ProbeData) -> Figure | None:
    """How often a patched carry arrives, by site and state."""
    keys = ["way", "site", "loop", "layer"]
    values = data.values("probe_interventions", keys, "experiment = 'carry'", "predicted")
    other = data.values("probe_interventions", keys, "experiment = 'carry'", "other")
    if not values:
        return None
    # All loops together come behind the single ones.
    states = sorted({key[2:] for key in values}, key=lambda state: (state[1] > 0 and not state[0], state))
    loops = max(state[0] for state in states)
    matrices = [
        np.array([[_percent(found.get((way, site, *state))) for state in states] for site in _SITES])
        for found, way in ((values, "carry"), (other, "carry"), (values, "same carry"))
    ]  # fmt: skip

    def draw(*panels: Axes) -> None:
        """As predicted, otherwise, and the control."""
        titles = ("carry patched: as predicted, %", "carry patched: anything else, %", "same carry: as if carried, %")
        for axes, matrix, title in zip(panels, matrices, titles, strict=True):
            numbered(axes, matrix, 100.0, ".0f", 7)
            axes.set_xticks(
                range(len(states)), [state_text(state, loops) for state in states], rotation=60, ha="right", fontsize=7
            )
            axes.set_yticks(range(len(_SITES)), _SITES if axes is panels[0] else [], fontsize=7)
            axes.set_title(title, fontsize=8)

    inner = {
        key: value
        for key, value in values.items()
        if key[0] == "carry" and key[3] and not _given(key[1:], states, loops)
    }
    best = max(inner, key=lambda key: inner[key].mean) if inner else None
    shown = (
        f"patched at the {best[1]}, {state_text(best[2:], loops)}, the carry arrives in {values[best].text('.0%')} of "
        f"problems; states of a problem with the same carry do so in {values['same carry', *best[1:]].mean:.0%}"
        if best else "where a carry can be patched"
    )  # fmt: skip
    return Figure(
        "Patch a carry",
        svg(draw, "Share of answers that follow a patched carry", axes=3, height=2.7),
        f"States of a problem that differs in one carry alone, put into the run of one without: {shown}.",
        "Two cells are certain beforehand: the digits' embeddings are the input, and the slot's last state is the "
        "output; they show that the edit works, and no more.",
    )


def heads_figure(data: ProbeData) -> Figure | None:
    """What is answered without each head."""
    values = data.values("probe_interventions", ["layer", "site"], "experiment = 'head'", "predicted")
    if not values:
        return None
    names = [
        f"layer {layer}, {site.removeprefix('head ') if site.startswith('head') else 'random'}"
        for layer, site in values
    ]

    def draw(axes: Axes) -> None:
        """A bar a head."""
        colors = [INK if site.startswith("head") else SECOND for _, site in values]
        axes.bar(range(len(values)), [100 * value.mean for value in values.values()], color=colors, width=0.7)
        for x, value in enumerate(values.values()):
            if value.low is not None and value.high is not None:
                axes.plot([x, x], [100 * value.low, 100 * value.high], color="black", linewidth=0.8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
        axes.set(ylabel="still right, %", ylim=(0, 105))

    worst = min(values, key=lambda key: values[key].mean)
    return Figure(
        "Take a head away",
        svg(draw, "Share of answers that stay right without a head", height=2.5),
        f"Of problems answered rightly, {values[worst].text('.0%')} still are without {worst[1]} of layer {worst[0]}, "
        f"its words replaced by their mean in every loop; orange: a random subspace as large.",
        "Heads that do the same hide each other: one that can be spared alone isn't idle.",
    )


def _percent(value: Value | None) -> float:
    return 100 * value.mean if value else np.nan


def _given(key: tuple[str, int, int], states: list[tuple[int, int]], loops: int) -> bool:
    """Whether an edit's outcome is certain beforehand: the slot's own last state is the output."""
    site, loop, layer = key
    return site == "own slot" and loop == loops and layer == max(layer for _, layer in states)


DRAWN: tuple[Callable[[ProbeData], Figure | None], ...] = (digits_figure, carries_figure, heads_figure)

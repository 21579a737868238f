"""Effects of moving a digit, patching a carry and ablating a head on the answers: figures and findings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, numbered, svg
from flows.reports.probing.data import Figure, Finding, ProbeData, Value, Values
from flows.reports.probing.drawing import bars, mark_states, matrix_of, state_text

# Share of answers that an edit changes as predicted, from which a state is used; far from both controls.
USED = 0.5
_DIGIT_EDITS = {
    "digit": ("whole digit", PALE),
    "circles": ("circles of 10 and 5", "#7fa8d8"),
    "circle": ("circle of 10 only", INK),
    "rest": ("all but that circle", "#e0a080"),
    "rest as far": ("the same, same length", "#c98a5c"),
    "random": ("random, same length", SECOND),
}
_DIGIT_KEYS = ("way", "loop", "layer", "shift")
_SITES = ("lower digits", "lower slot", "own slot")
_CARRY_KEYS = ("way", "site", "loop", "layer")


def circle_use_finding(data: ProbeData) -> Finding | None:
    """Whether the answer follows a digit that is moved along its circle."""
    values, other = (_outcomes(data, "digit", _DIGIT_KEYS, measure) for measure in ("predicted", "other"))
    if not values:
        return None
    circle, circles, rest, far, random = (
        values[way, 0, 0, 0] for way in ("circle", "circles", "rest", "rest as far", "random")
    )
    found = circle.mean >= USED and circle.lower > max(rest.mean, random.mean)
    return Finding(
        "circle used",
        found,
        f"digit moved only along its circle: {'found' if found else 'not found'}, {circle.text('.0%')} of answers "
        f"follow, {other['circle', 0, 0, 0].mean:.0%} change in another way (also along the circle of period 5: "
        f"{circles.text('.0%')} follow; along all other directions: {rest.text('.0%')}; the same, scaled to the length "
        f"of the circle's move: {far.text('.0%')}; random moves within the digits' directions: {random.text('.0%')})",
    )


def digits_figure(data: ProbeData) -> Figure | None:
    """How often the answer follows a moved digit, by shift and by state."""
    values, other = (_outcomes(data, "digit", _DIGIT_KEYS, measure) for measure in ("predicted", "other"))
    if not values:
        return None
    states = sorted({key[1:3] for key in values})

    def draw(left: Axes, right: Axes) -> None:
        for number, (way, (label, color)) in enumerate(_DIGIT_EDITS.items()):
            shifts = {shift: values[way, 0, 0, shift] for shift in range(1, 10) if (way, 0, 0, shift) in values}
            percents = [100 * value.mean for value in shifts.values()]
            left.plot([*shifts], percents, color=color, marker="o", markersize=3, label=label)
            across = np.arange(len(states)) + 0.14 * (number - 2.5)
            bars(right, across, [values[way, *state, 0] for state in states], 100, width=0.13, color=color)
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

    circle, rest, far, random = (values[way, 0, 0, 0] for way in ("circle", "rest", "rest as far", "random"))
    return Figure(
        "Move a digit",
        svg(draw, "Share of answers that follow a moved digit", axes=2, height=3.0),
        f"A digit is moved in its embedding. Along the circle only, the answer changes as exact arithmetic predicts in "
        f"{circle.text('.0%')} of problems, and in another way in {other['circle', 0, 0, 0].mean:.0%}. Along all other "
        f"directions it changes as predicted in {rest.text('.0%')} (with the length of the circle's move: "
        f"{far.text('.0%')}), and along random directions of the digits, with that length, in {random.text('.0%')}.",
        "A whole digit moved in the embedding is another input, so 100 % there is not a finding. The circle and the "
        "rest have different shares of the variance. After the layer that reads a digit, a move can have no effect."
        f"{_note_on_unit(data)}",
        first=True,
    )


class CarryPatch(NamedTuple):
    """The site and state at which a patched carry changes most answers as predicted, the input excluded."""

    where: str
    carried: Value
    """Share of answers that have the carry."""
    copied: float
    """Share of answers that have the other problem's digit."""
    control: float
    """Share of answers that change as predicted, with states of the same carry."""


def carry_finding(data: ProbeData) -> Finding | None:
    """Whether a patched carry arrives at a later slot."""
    if not (best := _best_carry_patch(data)):
        return None
    if not best.carried.mean:
        return Finding("carry patched", False, "carry patched: not found, it arrives from no inner state")
    found = best.carried.lower >= USED > max(best.control, best.copied)
    return Finding(
        "carry patched",
        found,
        f"carry patched, best result at the {best.where}: {'found' if found else 'not found'}, "
        f"{best.carried.text('.0%')} of answers follow, {best.copied:.0%} copy the other problem's digit (control, "
        f"states with the same carry: {best.control:.0%})",
    )


def carries_figure(data: ProbeData) -> Figure | None:
    """How often the answer follows a patched carry, and how often the other problem's digit, by site and state."""
    values, copied, other = (
        _outcomes(data, "carry", _CARRY_KEYS, measure) for measure in ("predicted", "copied", "other")
    )
    if not values or not copied:
        return None
    # A patch of all loops at once comes after those of single loops.
    states = sorted({key[2:] for key in values}, key=lambda state: (state[1] > 0 and not state[0], state))
    shown = {
        "carry arrives, %": (values, "carry"),
        "digit is copied, %": (copied, "carry"),
        "any changed answer, %": (other, "carry"),
        "control, same carry, %": (values, "same carry"),
    }
    matrices = [matrix_of(found, [(way, site) for site in _SITES], states, 100) for found, way in shown.values()]
    # `other` excludes the predicted answers; the sum covers every changed answer.
    matrices[2] = matrices[0] + matrices[2]
    # With many states, two panels per row leave space for the numbers.
    across, height = (4, 2.2) if len(states) < 8 else (2, 3.6)

    def draw(*panels: Axes) -> None:
        for number, (axes, matrix, title) in enumerate(zip(panels, matrices, shown, strict=True)):
            numbered(axes, matrix, 100.0, ".0f", 6)
            mark_states(axes, states)
            axes.set_yticks(range(len(_SITES)), [] if number % across else _SITES, fontsize=7)
            axes.set_title(title, fontsize=7)

    best = _best_carry_patch(data)
    text = (
        f"At best, at the {best.where}, the carry arrives in {best.carried.text('.0%')} of problems, the other "
        f"problem's digit in {best.copied:.0%} (control, same carry: {best.control:.0%})"
        if best and best.carried.mean
        else "The carry arrives from no inner state"
    )
    return Figure(
        "Patch a carry",
        svg(draw, "Share of answers that follow a patched carry", axes=across, rows=4 // across, height=height),
        "States of a problem with one more carry and another digit above it replace those of a problem without this "
        f"carry. {text}.",
        "The states of the lower digits contain the input, so their effect is not a carry. The late states of a slot "
        f"contain its finished digit, which is copied whatever the carry is.{_note_on_unit(data)}",
        first=True,
    )


def heads_figure(data: ProbeData) -> Figure | None:
    """Share of answers that stay correct without each head; None without ablated heads."""
    values = _outcomes(data, "head", ("layer", "site"), "predicted")
    of_runs = _outcomes(data, "head", ("way", "run", "layer", "site"), "predicted")
    # The ablated head of each run that leaves the fewest answers correct.
    needed: dict[str, tuple[Value, str]] = {}
    for (way, run, layer, site), value in sorted(of_runs.items(), key=lambda item: item[1].mean):
        if way == "ablated":
            needed.setdefault(run, (value, f"{site} of layer {layer}"))
    if not needed:
        return None
    names = [site.removeprefix("head ") if site.startswith("head") else "r" for _, site in values]

    def draw(axes: Axes) -> None:
        colors = [INK if site.startswith("head") else SECOND for _, site in values]
        bars(axes, range(len(values)), values.values(), 100, color=colors, width=0.7)
        axes.set_xticks(range(len(names)), names, fontsize=7 if len(names) < 40 else 5)
        for layer in sorted({layer for layer, _ in values}):
            heads_of_layer = [x for x, key in enumerate(values) if key[0] == layer]
            axes.text((heads_of_layer[0] + heads_of_layer[-1]) / 2, 112, f"layer {layer}", ha="center", fontsize=7)
        axes.set(ylabel="still correct, %", ylim=(0, 122), yticks=range(0, 101, 25), xlabel="head; r: random")

    means = [100 * value.mean for value, _ in needed.values()]
    effect = f"{min(means):.0f} to {max(means):.0f}% stay correct without the head that each run needs most"
    limits = " Bars are means over the runs, whose heads of the same number can differ in function."
    if data.is_single_run:
        ((value, name),) = needed.values()
        effect, limits = f"{value.text('.0%')} stay correct without {name}", ""
    return Figure(
        "Ablate a head",
        svg(draw, "Share of answers that stay correct without a head", height=2.5),
        f"Of problems answered correctly, {effect}. "
        "The head's output is replaced by its mean in every loop. Orange: a random subspace of the same size.",
        "Heads with the same function can replace each other: a head that is not needed alone is not necessarily idle."
        f"{limits}",
    )


def _outcomes(data: ProbeData, experiment: str, keys: Sequence[str], measure: str) -> Values:
    return data.values("probe_interventions", keys, f"experiment = '{experiment}'", measure)


def _best_carry_patch(data: ProbeData) -> CarryPatch | None:
    """The best site and state for patching a carry; None without patches.

    Only slots are considered: the states of lower digits contain the digits, so patching them replaces the input.
    """
    values, copied = (_outcomes(data, "carry", _CARRY_KEYS, measure) for measure in ("predicted", "copied"))
    inner = [key for key in values if key[0] == "carry" and key[1] != "lower digits" and key[3] and key in copied]
    if not inner:
        return None
    best = max(inner, key=lambda key: values[key].mean)
    where = f"{best[1]}, {state_text(best[2:], max(key[2] for key in values))}"
    return CarryPatch(where, values[best], copied[best].mean, values["same carry", *best[1:]].mean)


def _note_on_unit(data: ProbeData) -> str:
    """A note that edits do not change what a symbolic unit reads; empty without a unit."""
    if not data.values("probe_unit", ["measure"]):
        return ""
    return " The symbolic unit reads the embeddings of digits: edits of later states do not change its input."

"""Figures of states: labels decoded by probes, attention of heads, measures along training, and the symbolic unit."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, numbered, svg
from flows.reports.probing.data import Figure, ProbeData, mark_states, state_text, whiskers
from model.probing.attention import ROLES
from model.probing.hooks import spread

_POSITIONS = ("operand", "operator", "answer")
_MOST_HEADS = 32


def kappas_figure(data: ProbeData) -> Figure | None:
    """κ of every label at every state, trained and untrained."""
    keys = ["position", "label", "loop", "layer"]
    condition = "split = 'numbers' AND probe = 'linear' AND control = '{}'"
    trained, untrained = (
        data.values("probes", keys, condition.format(kind), "kappa") for kind in ("trained", "untrained")
    )
    if not trained:
        return None
    rows = sorted(dict.fromkeys(key[:2] for key in trained), key=lambda row: (_POSITIONS.index(row[0]), row[1]))
    states = sorted(dict.fromkeys(key[2:] for key in trained))
    loops = max(state[0] for state in states)
    matrices = [
        np.array(
            [[found[*row, *state].mean if (*row, *state) in found else np.nan for state in states] for row in rows]
        )
        for found in (trained, untrained)
    ]

    def draw(left: Axes, right: Axes) -> None:
        for axes, matrix, title in ((left, matrices[0], "trained"), (right, matrices[1], "untrained")):
            numbered(axes, matrix, 1.0, ".2f", 6)
            mark_states(axes, states)
            axes.set_title(title, fontsize=9)
        left.set_yticks(range(len(rows)), [f"{label}, {position}" for position, label in rows], fontsize=7)
        right.set_yticks([])

    carries = {key: value for key, value in trained.items() if key[0] == "answer" and key[1].startswith("carry")}
    carry_text = ""
    if carries:
        best = max(carries, key=lambda key: carries[key].mean)
        where = state_text(best[2:], loops)
        carry_text = (
            f"; for a slot's {best[1]} it is {carries[best].text()} at {where}, untrained {untrained[best].text()}"
        )
    return Figure(
        "What probes decode from the states",
        svg(draw, "Cohen's kappa of every label at every state", axes=2, height=1.2 + 0.19 * len(rows)),
        f"Cohen's κ on held-out numbers, for tokens whose position does not determine the label{carry_text}.",
        "The encoder does not necessarily use a label that can be decoded. An untrained encoder passes its input on, "
        "so some labels can also be decoded from it. Held-out numbers share combinations of digits with other "
        "numbers: the view probes has the results for combinations that the probe never saw (split columns).",
    )


def attention_figure(data: ProbeData) -> Figure | None:
    """Attention of each head from the answer slots, by the role of the tokens."""
    values = data.values("probe_attention", ["loop", "layer", "head", "role"], "reads = 'role'", "weight")
    even = data.values("probe_attention", ["role"], "reads = 'role'", "even")
    if not values:
        return None
    heads = sorted(dict.fromkeys(key[:3] for key in values))
    loops = max(head[0] for head in heads)
    own, lower = (
        max((values[*head, role].mean, head) for head in heads) for role in ("same column", "next lower column")
    )
    total, left_out = len(heads), ""
    if total > _MOST_HEADS:
        shown_loops = {1, (loops + 1) // 2, loops}
        heads = spread([head for head in heads if head[0] in shown_loops], _MOST_HEADS)
        left_out = f" {len(heads)} of {total} heads are shown."
    roles = [
        role
        for role in ROLES
        if role not in ("padding",)
        and any((*head, role) in values and values[*head, role].mean > 0.005 for head in heads)
    ]
    matrix = np.array([[values[*head, role].mean for role in roles] for head in heads])
    matrix = np.vstack([matrix, [even[(role,)].mean for role in roles]])
    names = [f"{state_text((loop, layer), loops)}, head {head}" for loop, layer, head in heads]
    names.append("uniform, without padding")

    def draw(axes: Axes) -> None:
        """Draw a row per head."""
        axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(matrix):
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=7,
                      color="black" if value > 0.6 else "white")  # fmt: skip
        axes.set_xticks(range(len(roles)), roles, rotation=25, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=7)

    return Figure(
        "What an answer's digit reads",
        svg(draw, "Attention of the answer's digits by the role of the tokens", height=0.9 + 0.17 * len(names)),
        f"Attention from the slots of the answer's digits, averaged over problems: head {own[1][2]} of "
        f"{state_text(own[1][:2], loops)} reads its own column ({own[0]:.0%}), head {lower[1][2]} of "
        f"{state_text(lower[1][:2], loops)} the next lower one ({lower[0]:.0%}).",
        "An attention weight is not an effect: later layers may ignore what a head reads. Another figure ablates heads."
        f"{left_out}",
    )


# Measures along training that are drawn, by panel: their names in the table and their labels in the figure.
_SERIES = {
    "geometry, share of variance": {
        "digits: circle 10": "circle of digits",
        "digits: helix": "helix of digits",
        "numbers: line": "line of 0–99",
        "numbers: circle 100": "circle of 100",
    },
    "decoded from an answer slot, κ": {
        "kappa: digit, answer": "digit",
        "kappa: carry in, answer": "carry in",
        "kappa: mod 10, answer": "whole answer modulo 10",
    },
    "attention of the head with the highest weight": {
        "read: same column": "same column",
        "read: next lower column": "next lower column",
        "read: operator": "operator",
    },
    "edits, share of answers": {
        "moved: circle": "circle moved, answer follows",
        "patched: carry": "carry patched, answer follows",
        "ablated: head": "head ablated, still correct",
    },
}
_LINES = (INK, SECOND, "#5a9367", "#8a6bb0")


def series_figure(data: ProbeData) -> Figure | None:
    """Measures of the kept checkpoints with their controls, and exact match."""
    # Only steps that all runs have, so that no point is a single seed.
    matches, values, controls = (
        {key: value for key, value in found.items() if value.runs == len(data.runs)}
        for found in (
            data.values("probe_series", ["step"], "true", "exact_match"),
            data.values("probe_series", ["measure", "step"]),
            data.values("probe_series", ["measure", "step"], "true", "control"),
        )
    )
    steps = [step for (step,) in matches]
    if len(steps) < 2:
        return None

    def draw(*panels: Axes) -> None:
        """Draw a panel per kind of measure, with a line per measure and a dotted line for its control."""
        for axes, (title, measures) in zip(panels, _SERIES.items(), strict=True):
            axes.plot(steps, [value.mean for value in matches.values()], color=PALE, linewidth=4, label="exact match")
            labels = {name: label for name, label in measures.items() if any(key[0] == name for key in values)}
            for color, (name, label) in zip(_LINES, labels.items(), strict=False):
                for found, style, named in ((values, ".-", label), (controls, ":", None)):
                    line = [(step, value.mean) for (measure, step), value in found.items() if measure == name]
                    axes.plot(*zip(*line, strict=True), style, color=color, label=named)
            axes.set(ylim=(-0.02, 1.4), yticks=np.linspace(0, 1, 5), xlabel="step")
            axes.set_title(title, fontsize=8)
            axes.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper center")

    return Figure(
        "Along training",
        svg(draw, "Measures of the checkpoints and exact match", axes=2, rows=2, height=5.0),
        f"{len(steps)} checkpoints from step {min(steps):,} to {max(steps):,}. Dotted: the control of each measure "
        "(95 % of shuffles, untrained, equally long moves in other directions, the same carry, random subspaces).",
        "Two curves that rise together do not show that one causes the other.",
    )


def unit_figure(data: ProbeData) -> Figure | None:
    """What a symbolic unit reads, how much it writes, and how many problems are answered without it."""
    keys = ["measure", "loop", "operator"]
    values, untrained = (data.values("probe_unit", keys, f"control = '{name}'") for name in ("trained", "untrained"))
    if not values:
        return None
    gate = values.pop(("gate", 0, "all"))
    loops = max(loop for _, loop, _ in values)
    operators = sorted({operator for *_, operator in values}, key=lambda name: ("+-*".find(name) % 4, name))
    labels = {
        "operation read": "operation read",
        "both numbers read": "operands read",
        "answered": "answered",
        "answered without it": "answered without",
        "given another's result: answered as that": "answered as another",
    }
    written = [
        [found.mean for loop in range(1, loops + 1) if (found := values.get(("written", loop, operator)))]
        for operator in operators
    ]

    def draw(left: Axes, right: Axes | None = None) -> None:
        """Draw shares by operator and, if the block has several loops, the size of the written values by loop."""
        across = np.arange(len(operators))
        for number, ((label, measure), color) in enumerate(zip(labels.items(), (PALE, *_LINES), strict=True)):
            found, before = ([of.get((measure, 0, name)) for name in operators] for of in (values, untrained))
            x = across + 0.16 * (number - 2)
            left.bar(x, [100 * value.mean if value else np.nan for value in found], 0.15, color=color, label=label)
            whiskers(left, x, found, 100)
            heights = [100 * value.mean if value else np.nan for value in before]
            named = "untrained" if not number else None
            left.plot(x, heights, "o", color="black", fillstyle="none", markersize=4, label=named)
        left.set_xticks(across, [name.replace("*", "×") for name in operators])
        left.set(ylabel="problems, %", ylim=(-3, 145), yticks=range(0, 101, 25))
        left.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper center")
        if right:
            for operator, sizes, color in zip(operators, written, _LINES, strict=False):
                right.plot(range(1, len(sizes) + 1), sizes, color=color, marker="o", label=operator.replace("*", "×"))
            right.set(
                xlabel="loop", ylabel="written, relative to slot states", ylim=(0, None), xticks=range(1, loops + 1)
            )
            right.legend(frameon=False, fontsize=7)

    first = operators[0]
    answered, without, other = (
        values[measure, 0, first] for measure in ("answered", "answered without", "answered as another")
    )
    return Figure(
        "What the symbolic unit is used for",
        svg(draw, "What the unit reads, and what is answered correctly without it", axes=min(2, loops), height=2.8),
        f"What the unit reads in the last loop. The norm of its output there is "
        f"{np.mean([sizes[-1] for sizes in written]):.0%} of the norm of the slots' states (gate {gate.mean:.2f}). "
        f"{answered.text('.0%')} of problems with {first.replace('*', '×')} are answered correctly with the unit, and "
        f"{without.text('.0%')} without it. If the unit gets the result of another problem, whose answer has as many "
        f"digits, {other.text('.0%')} are answered as that problem.",
        "The unit reads both numbers by construction, as the rings (untrained) show. An encoder that was trained with "
        "its unit never learns to work without it, so the drop does not show what it could do alone.",
        first=True,
    )


DRAWN: tuple[Callable[[ProbeData], Figure | None], ...] = (kappas_figure, attention_figure, unit_figure)

"""Figures of states: what probes tell from them, which tokens the heads read, and how both came about in training."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from flows.reports.drawing import INK, PALE, SECOND, numbered, svg
from flows.reports.probing_data import Figure, ProbeData, state_text
from model.probing.attention import ROLES

_POSITIONS = ("operand", "operator", "answer")
_MOST_HEADS = 32


def kappas_figure(data: ProbeData) -> Figure | None:
    """κ of every label at every state, trained beside untrained."""
    keys = ["position", "label", "loop", "layer"]
    asked = "split = 'numbers' AND probe = 'linear' AND control = '{}'"
    trained, plain = (data.values("probes", keys, asked.format(kind), "kappa") for kind in ("trained", "untrained"))
    if not trained:
        return None
    rows = sorted(dict.fromkeys(key[:2] for key in trained), key=lambda row: (_POSITIONS.index(row[0]), row[1]))
    states = sorted(dict.fromkeys(key[2:] for key in trained))
    loops = max(state[0] for state in states)
    matrices = [
        np.array(
            [[found[*row, *state].mean if (*row, *state) in found else np.nan for state in states] for row in rows]
        )
        for found in (trained, plain)
    ]

    def draw(left: Axes, right: Axes) -> None:
        """Both maps."""
        for axes, matrix, title in ((left, matrices[0], "trained"), (right, matrices[1], "untrained")):
            numbered(axes, matrix, 1.0, ".2f", 6)
            axes.set_xticks(
                range(len(states)), [state_text(state, loops) for state in states], rotation=45, ha="right", fontsize=7
            )
            axes.set_title(title, fontsize=9)
        left.set_yticks(range(len(rows)), [f"{label}, {position}" for position, label in rows], fontsize=7)
        right.set_yticks([])

    carries = {key: value for key, value in trained.items() if key[0] == "answer" and key[1].startswith("carry")}
    told = ""
    if carries:
        best = max(carries, key=lambda key: carries[key].mean)
        where = state_text(best[2:], loops)
        told = f"; a slot's {best[1]} is told with {carries[best].text()} at {where}, untrained {plain[best].text()}"
    return Figure(
        "What probes tell from the states",
        svg(draw, "Cohen's kappa of every label at every state", axes=2, height=1.2 + 0.19 * len(rows)),
        f"Cohen's κ on held-out numbers, of tokens whose place doesn't decide the label{told}.",
        "What can be told is not what is used; an untrained encoder, which passes its input on, tells some of it too.",
    )


def attention_figure(data: ProbeData) -> Figure | None:
    """What each head reads for the digits of answers."""
    values = data.values("probe_attention", ["loop", "layer", "head", "role"], "reads = 'role'", "weight")
    even = data.values("probe_attention", ["role"], "reads = 'role'", "even")
    if not values:
        return None
    heads = sorted(dict.fromkeys(key[:3] for key in values))
    loops = max(head[0] for head in heads)
    if len(heads) > _MOST_HEADS:
        kept = {1, (loops + 1) // 2, loops}
        heads = [head for head in heads if head[0] in kept][:_MOST_HEADS]
    roles = [
        role
        for role in ROLES
        if role not in ("padding",)
        and any((*head, role) in values and values[*head, role].mean > 0.005 for head in heads)
    ]
    matrix = np.array([[values[*head, role].mean for role in roles] for head in heads])
    matrix = np.vstack([matrix, [even[(role,)].mean for role in roles]])
    names = [f"{state_text((loop, layer), loops)}, head {head}" for loop, layer, head in heads] + ["all tokens alike"]

    def draw(axes: Axes) -> None:
        """A line a head."""
        axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(matrix):
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=7,
                      color="black" if value > 0.6 else "white")  # fmt: skip
        axes.set_xticks(range(len(roles)), roles, rotation=25, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=7)

    own = max(((values[*head, "same column"].mean, head) for head in heads), default=(0.0, (0, 0, 0)))
    lower = max(((values[*head, "next lower column"].mean, head) for head in heads), default=(0.0, (0, 0, 0)))
    return Figure(
        "What an answer's digit reads",
        svg(draw, "Attention of the answers' digits by the part that tokens play", height=0.9 + 0.17 * len(names)),
        f"Attention from the slots of answers' digits, averaged over problems: head {own[1][2]} of "
        f"{state_text(own[1][:2], loops)} reads its own column ({own[0]:.0%}), head {lower[1][2]} of "
        f"{state_text(lower[1][:2], loops)} the next lower one ({lower[0]:.0%}).",
        "A weight is no effect: what a head reads may be thrown away behind it; the last figure takes heads away.",
    )


def series_figure(data: ProbeData) -> Figure | None:
    """Measures of the checkpoints that were kept, beside exact match."""
    steps = data.values("probe_series", ["step"], "true", "exact_match")
    if len(steps) < 2:
        return None
    values = data.values("probe_series", ["measure", "step"])
    wanted = {
        "digits: circle 10": (INK, "-", "circle of digits, variance"),
        "kappa: carry in": (SECOND, "-", "carry in, κ"),
        "kappa: digit": (SECOND, ":", "answer's digit, κ"),
        "moved: circle": (INK, "--", "moved circle, as predicted"),
        "numbers: helix": (INK, "-.", "helix of 0–99, variance"),
    }

    def draw(axes: Axes) -> None:
        """A line a measure."""
        axes.plot(
            [step for (step,) in steps],
            [value.mean for value in steps.values()],
            color=PALE,
            linewidth=4,
            label="exact match",
        )
        for measure, (color, line, label) in wanted.items():
            mine = [(key[1], value.mean) for key, value in values.items() if key[0] == measure]
            if mine:
                axes.plot(*zip(*mine, strict=True), color=color, linestyle=line, marker=".", label=label)
        axes.set(xlabel="step", ylim=(-0.02, 1.05))
        axes.legend(frameon=False, fontsize=7, ncols=2)

    return Figure(
        "Along training",
        svg(draw, "Measures of the checkpoints beside exact match", height=2.8),
        f"Each checkpoint that was kept, from step {min(steps)[0]:,} to {max(steps)[0]:,}.",
        "That two curves rise together doesn't say that one brings the other about.",
    )


DRAWN: tuple[Callable[[ProbeData], Figure | None], ...] = (kappas_figure, attention_figure)

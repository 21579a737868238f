"""States of the encoder: labels that probes decode, attention of heads, and measures along training."""

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import LINES, PALE, numbered, svg
from flows.reports.probing.data import Figure, Finding, ProbeData, Values
from flows.reports.probing.drawing import mark_states, matrix_of, state_text
from model.probing.attention import ROLES
from model.probing.hooks import spread

# κ from which a label is decoded; far from both controls.
_DECODED = 0.95
_LABELS = {
    "carry in": "carry into a slot",
    "running sum": "sum of a slot's column including its carry",
    "mod 10": "whole answer modulo 10, beyond the units",
}
# Of an encoder that rewrites.
_SLOT_LABELS = {
    "carry in": "carry into a place",
    "consumed digit": "digit that a product's step consumes, at every place",
    "digit": "digit of the result",
}
_POSITIONS = ("operand", "operator", "answer", "slot")
_MOST_HEADS = 32


def label_findings(data: ProbeData) -> list[Finding]:
    """Whether the labels are decoded from the slots of the answer, or of an operation."""
    labels = [("answer", *each) for each in _LABELS.items()] + [("slot", *each) for each in _SLOT_LABELS.items()]
    return [finding for each in labels if (finding := _label_finding(data, *each))]


def _label_finding(data: ProbeData, position: str, label: str, words: str) -> Finding | None:
    where = f"position = '{position}' AND label = '{label}'"
    values = data.values("probes", ["split", "probe", "control", "loop", "layer"], where, "kappa")

    def by_state(split: str, probe: str, control: str) -> Values:
        return {key[3:]: value for key, value in values.items() if key[:3] == (split, probe, control)}

    trained, untrained = (by_state("numbers", "linear", control) for control in ("trained", "untrained"))
    if not trained:
        return None
    best = max(trained, key=lambda state: trained[state].mean)
    tested = f"{where} AND split = 'numbers' AND probe = 'linear'"
    untrained_high = max(value.upper for value in untrained.values())
    random = data.values("probes", ["control"], f"{tested} AND control = 'random'", "kappa").get(("random",))
    # A probe that does as well with a random label for each type of token has memorised the types.
    found = trained[best].mean >= _DECODED and trained[best].lower > max(untrained_high, random.mean if random else -1)
    random_text = f"{random.mean:.2f}, selectivity {trained[best].mean - random.mean:.2f}" if random else "–"
    ((count,),) = data.rows("probes", "min(numbers)", f"{tested} AND control = 'trained'")
    further = ""
    for name, split, probe in (
        ("on digit combinations that the probe never saw", "columns", "linear"),
        ("on operands longer than the probe was fitted on", "lengths", "linear"),
        ("with a circular probe", "numbers", "circular"),
    ):
        if value := by_state(split, probe, "trained").get(best):
            further += f", {name} {value.mean:.2f}"
            if controls := by_state(split, probe, "untrained"):
                further += f" (untrained {max(control.mean for control in controls.values()):.2f})"
    return Finding(
        f"{label} decoded",
        found,
        f"{words}: {'found' if found else 'not found'}, κ {trained[best].text()} at "
        f"{state_text(best, max(loop for loop, _ in trained))}, the best of {len(trained)} states"
        f"{f', tested on {count:,} numbers' if count else ''} (untrained, upper ends, at most {untrained_high:.2f}, "
        f"random label for each type of token {random_text}){further}",
    )


def kappas_figure(data: ProbeData) -> Figure | None:
    """κ of every label at every state, trained and untrained."""
    keys = ["position", "label", "loop", "layer"]
    trained, untrained = data.values_by_control("probes", keys, "split = 'numbers' AND probe = 'linear'", "kappa")
    if not trained:
        return None
    rows = sorted({key[:2] for key in trained}, key=lambda row: (_POSITIONS.index(row[0]), row[1]))
    states = sorted({key[2:] for key in trained})

    def draw(left: Axes, right: Axes) -> None:
        for axes, values, title in ((left, trained, "trained"), (right, untrained, "untrained")):
            numbered(axes, matrix_of(values, rows, states), 1.0, ".2f", 6)
            mark_states(axes, states)
            axes.set_title(title, fontsize=9)
        left.set_yticks(range(len(rows)), [f"{label}, {position}" for position, label in rows], fontsize=7)
        right.set_yticks([])

    carries = [key for key in trained if key[0] == "answer" and key[1].startswith("carry")]
    carry_text = ""
    if carries:
        best = max(carries, key=lambda key: trained[key].mean)
        where = state_text(best[2:], max(loop for loop, _ in states))
        carry_text = (
            f"; for a slot's {best[1]} it is {trained[best].text()} at {where}, untrained {untrained[best].text()}"
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
    heads = sorted({key[:3] for key in values})
    total, loops = len(heads), max(loop for loop, *_ in heads)
    own, lower = (
        max((values[*head, role].mean, head) for head in heads) for role in ("same column", "next lower column")
    )
    left_out = ""
    if total > _MOST_HEADS:
        shown_loops = {1, (loops + 1) // 2, loops}
        heads = spread([head for head in heads if head[0] in shown_loops], _MOST_HEADS)
        left_out = f" {len(heads)} of {total} heads are shown."
    roles = [
        role
        for role in ROLES
        if role != "padding" and any((*head, role) in values and values[*head, role].mean > 0.005 for head in heads)
    ]
    columns = [(role,) for role in roles]
    matrix = np.vstack([matrix_of(values, heads, columns), matrix_of(even, [()], columns)])
    names = [f"{state_text((loop, layer), loops)}, head {head}" for loop, layer, head in heads]
    names.append("uniform, without padding")

    def draw(axes: Axes) -> None:
        numbered(axes, matrix, 1.0, ".0%", 7)
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
        for axes, (title, measures) in zip(panels, _SERIES.items(), strict=True):
            axes.plot(steps, [value.mean for value in matches.values()], color=PALE, linewidth=4, label="exact match")
            labels = {name: label for name, label in measures.items() if any(key[0] == name for key in values)}
            for color, (name, label) in zip(LINES, labels.items(), strict=False):
                for found, style, legend in ((values, ".-", label), (controls, ":", None)):
                    line = [(step, value.mean) for (measure, step), value in found.items() if measure == name]
                    axes.plot(*zip(*line, strict=True), style, color=color, label=legend)
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

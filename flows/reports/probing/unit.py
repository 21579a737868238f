"""The use of a symbolic unit: a figure and a finding."""

from statistics import mean

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import LINES, PALE, svg
from flows.reports.probing.data import Figure, Finding, ProbeData
from flows.reports.probing.drawing import bars, marks
from flows.reports.probing.interventions import USED
from model.comparison.tables import order_of

_KEYS = ("measure", "loop", "operator")
_LABELS = {
    "operation read": "operation read",
    "operands read": "both numbers read",
    "answered": "answered",
    "answered without": "answered without it",
    "answered as another": "given another's result: answered as that",
}


def unit_finding(data: ProbeData) -> Finding | None:
    """Whether the answers depend on the unit."""
    values, _ = data.values_by_control("probe_unit", _KEYS)
    operators = [operator for measure, loop, operator in values if (measure, loop) == ("operation read", 0)]
    if not operators:
        return None
    with_unit, without, as_another = (
        [values[measure, 0, name].mean for name in operators if (measure, 0, name) in values]
        for measure in ("answered", "answered without", "answered as another")
    )
    found = min(with_unit) > max(without) and bool(as_another) and mean(as_another) >= USED
    effect = (
        f"{mean(as_another):.0%} are answered as another problem if the unit gets that problem's result"
        if as_another
        else "no problem could get another problem's result"
    )
    return Finding(
        "unit used",
        found,
        f"symbolic unit: {'used' if found else 'not used'}, {mean(with_unit):.0%} of problems with two numbers are "
        f"answered correctly, {mean(without):.0%} without the unit, {effect}",
    )


def unit_figure(data: ProbeData) -> Figure | None:
    """What a symbolic unit reads, how much it writes, and how many problems are answered without it."""
    values, untrained = data.values_by_control("probe_unit", _KEYS)
    if not values:
        return None
    gate = values.pop(("gate", 0, "all"))
    loops = max(loop for _, loop, _ in values)
    operators = sorted({operator for *_, operator in values}, key=order_of)
    written = [
        [value.mean for loop in range(1, loops + 1) if (value := values.get(("written", loop, operator)))]
        for operator in operators
    ]

    def draw(left: Axes, right: Axes | None = None) -> None:
        """Draw shares by operator and, if the block has several loops, the size of the written values by loop."""
        for number, ((measure, label), color) in enumerate(zip(_LABELS.items(), (PALE, *LINES), strict=True)):
            across = np.arange(len(operators)) + 0.16 * (number - 2)
            trained, plain = ([of.get((measure, 0, name)) for name in operators] for of in (values, untrained))
            bars(left, across, trained, 100, width=0.15, color=color, label=label)
            marks(left, across, plain, "o", 100, markersize=4, label=None if number else "untrained")
        left.set_xticks(range(len(operators)), [name.replace("*", "×") for name in operators])
        left.set(ylabel="problems, %", ylim=(-3, 145), yticks=range(0, 101, 25))
        left.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper center")
        if right:
            for operator, sizes, color in zip(operators, written, LINES, strict=False):
                right.plot(range(1, len(sizes) + 1), sizes, color=color, marker="o", label=operator.replace("*", "×"))
            right.set(
                xlabel="loop", ylabel="written, relative to slot states", ylim=(0, None), xticks=range(1, loops + 1)
            )
            right.legend(frameon=False, fontsize=7)

    first = operators[0]
    answered, without, as_another = (
        values[measure, 0, first].text(".0%") for measure in ("answered", "answered without", "answered as another")
    )
    return Figure(
        "What the symbolic unit is used for",
        svg(draw, "What the unit reads, and what is answered correctly without it", axes=min(2, loops), height=2.8),
        f"What the unit reads in the last loop. The norm of its output there is "
        f"{np.mean([sizes[-1] for sizes in written]):.0%} of the norm of the slots' states (gate {gate.mean:.2f}). "
        f"{answered} of problems with {first.replace('*', '×')} are answered correctly with the unit, and {without} "
        f"without it. If the unit gets the result of another problem, whose answer has as many digits, {as_another} "
        "are answered as that problem.",
        "The unit reads both numbers by construction, as the rings (untrained) show. An encoder that was trained with "
        "its unit never learns to work without it, so the drop does not show what it could do alone.",
        first=True,
    )

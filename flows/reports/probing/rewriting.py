"""Figures and findings of an encoder that rewrites: what hub, slots and operators read, and edits of their states."""

import numpy as np
from matplotlib.axes import Axes

from flows.reports.figures import INK, PALE, SECOND, numbered, svg
from flows.reports.probing.data import Figure, Finding, ProbeData, Values
from flows.reports.probing.drawing import matrix_of
from flows.reports.probing.interventions import USED

# Experiments with their controls, and what the edit is, in words.
_EDITS = {
    "consumed digit": ("same digit", "another digit is consumed"),
    "carry between places": ("same carry", "another carry arrives"),
    "precedence": ("same operator", "a plus follows instead of a times"),
}
EDITS_TITLE = "Edit the states of a step"
_DIGIT_SLOT = "slot of the consumed digit"
_KEYS = ("experiment", "site", "loop", "way")


def edits_findings(data: ProbeData) -> list[Finding]:
    """Whether the result, or the marks, follow each edit."""
    values = _edits(data, "predicted")
    unchanged = _edits(data, "unchanged")
    findings = []
    for experiment, (control, words) in _EDITS.items():
        edits = {key: value for key, value in values.items() if key[0] == experiment and key[3] != control}
        if not edits:
            continue
        best = max(edits, key=lambda key: edits[key].mean)
        kept = unchanged[*best[:3], control]
        found = edits[best].lower >= USED and kept.mean >= USED
        findings.append(
            Finding(
                f"{experiment} used",
                found,
                f"{words}: {'found' if found else 'not found'}, {edits[best].text('.0%')} of the outcomes follow an "
                f"edit ({_place_text(best)}; control, {control}: {kept.mean:.0%} unchanged)",
            )
        )
    return findings


def edits_figure(data: ProbeData) -> Figure | None:
    """How often the outcome follows an edit, stays, or changes otherwise."""
    shares = {measure: _edits(data, measure) for measure in ("predicted", "unchanged", "other")}
    order = [*_EDITS]
    keys = sorted(shares["predicted"], key=lambda key: (order.index(key[0]), key[3].startswith("same"), key[1:3]))
    if not keys:
        return None

    def draw(axes: Axes) -> None:
        left = np.zeros(len(keys))
        styles = (("follows the donor", INK), ("unchanged", PALE), ("otherwise", SECOND))
        for values, (label, color) in zip(shares.values(), styles, strict=True):
            width = np.array([100 * values[key].mean for key in keys])
            axes.barh(range(len(keys)), width, left=left, color=color, height=0.7, label=label)
            left += width
        # Controls have their name, edits a sentence.
        ways = [key[3] if key[3] == _EDITS[key[0]][0] else _EDITS[key[0]][1] for key in keys]
        names = [f"{way}: {_place_text(key)}" for way, key in zip(ways, keys, strict=True)]
        axes.set_yticks(range(len(keys)), names, fontsize=7)
        axes.invert_yaxis()
        axes.set(xlabel="share of problems, %", xlim=(0, 100))
        axes.legend(frameon=False, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))

    return Figure(
        EDITS_TITLE,
        svg(draw, "Share of outcomes that follow an edit", height=0.9 + 0.22 * len(keys)),
        "States of another problem, the donor, replace those of one slot, or of the hub, after every loop. Its digit, "
        "carry or operator is another one. The result, or the marks, become those of the donor, stay, or change "
        "otherwise. Rows that begin with 'same' are controls: their donor has the same digit, carry or operator, and "
        "other numbers.",
        "A replaced state contains everything that the donor has at this slot. The controls show only that the numbers "
        "of the donor have no effect.",
        first=True,
    )


def hub_figure(data: ProbeData) -> Figure | None:
    """What each head of the hub reads in each loop of a product's step."""
    values = data.values("probe_attention", ["loop", "head", "role"], "reads = 'hub'", "weight")
    if not values:
        return None
    best = max((key for key in values if key[2] == _DIGIT_SLOT), key=lambda key: values[key].mean)
    even = data.values("probe_attention", ["role"], "reads = 'hub'", "even")[_DIGIT_SLOT,]
    return Figure(
        "What the hub reads",
        _heads_and_roles(values, "Attention of the hub by loop and head"),
        f"Attention of the hub in steps of products: head {best[1]} reads the slot with the consumed digit with "
        f"{values[best].text('.0%')} of its weight in loop {best[0]} (uniform attention: {even.mean:.0%}).",
        "An attention weight is not an effect. Another figure replaces the hub's state.",
    )


def slots_figure(data: ProbeData) -> Figure | None:
    """What each head of the slots reads in each loop."""
    values = data.values("probe_attention", ["loop", "head", "role"], "reads = 'slot'", "weight")
    if not values:
        return None
    best = max((key for key in values if key[2] == "hub"), key=lambda key: values[key].mean)
    return Figure(
        "What the slots read",
        _heads_and_roles(values, "Attention of the slots by loop and head"),
        f"Attention of the slots of all places, averaged over sums, differences and steps of products: head {best[1]} "
        f"reads the hub with {values[best].text('.0%')} of its weight in loop {best[0]}.",
        "A slot sees three places of each field, three slots, three flags and the hub.",
    )


def operators_figure(data: ProbeData) -> Figure | None:
    """What a plus reads of the units around it, if a plus or a times follows its right operand."""
    values = data.values("probe_attention", ["role", "loop", "head", "difference"], "reads = 'unit'", "weight")
    if not values:
        return None
    roles = sorted({key[0] for key in values})
    heads = sorted({key[1:3] for key in values})
    columns = [(away,) for away in sorted({key[3] for key in values})]
    ahead = {role: max(values[role, *head, 2].mean for head in heads) for role in roles}

    def draw(*panels: Axes) -> None:
        for number, (axes, role) in enumerate(zip(panels, roles, strict=True)):
            numbered(axes, matrix_of(values, [(role, *head) for head in heads], columns), 1.0, ".0%", 7)
            axes.set_title(role, fontsize=8)
            axes.set_xticks(
                range(len(columns)), [f"{away:+d}" if away else "itself" for (away,) in columns], fontsize=7
            )
            names = [f"loop {loop}, head {head}" for loop, head in heads]
            axes.set_yticks(range(len(names)), [] if number else names, fontsize=7)
            axes.set_xlabel("unit that is read", fontsize=7)

    return Figure(
        "What marks read of precedence",
        svg(draw, "Attention of a plus by unit", axes=2, height=0.9 + 0.2 * len(heads)),
        "Attention of the first plus of three numbers. The operator after its right operand is two units away. "
        "The head that reads it most has "
        + " and ".join(f"{weight:.0%} of its weight there for {role}" for role, weight in ahead.items())
        + ".",
        "An attention weight is not an effect. Another figure lets one loop read the other operator.",
    )


def _heads_and_roles(values: Values, label: str) -> str:
    heads = sorted({key[:2] for key in values})
    roles = list(dict.fromkeys(key[2] for key in values))
    matrix = matrix_of(values, heads, [(role,) for role in roles])

    def draw(axes: Axes) -> None:
        numbered(axes, matrix, 1.0, ".0%", 6)
        axes.set_xticks(range(len(roles)), roles, rotation=20, ha="right", fontsize=8)
        axes.set_yticks(range(len(heads)), [f"loop {loop}, head {head}" for loop, head in heads], fontsize=6)

    return svg(draw, label, height=0.9 + 0.13 * len(heads))


def _edits(data: ProbeData, measure: str) -> Values:
    names = ", ".join(f"'{name}'" for name in _EDITS)
    return data.values("probe_interventions", _KEYS, f"experiment IN ({names})", measure)


def _place_text(key: tuple[str, str, int, str]) -> str:
    """Where an edit was made."""
    _, site, loop, _ = key
    return f"{site}, loop {loop}" if loop else f"{site}, all loops"

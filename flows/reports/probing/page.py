"""The HTML report of a probing, and its findings as text: found or not found, each with its controls."""

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict

from flows.reports.pages import rendered, write_page
from flows.reports.probing import geometry, interventions, states
from flows.reports.probing.data import Figure, ProbeData, Value, state_text
from storage.places.place import Location
from storage.sql.query import open_catalog
from storage.workspace import Workspace

# Thresholds, far from both controls: κ of a decoded label; share of explained variance, and of answers that an edit
# changes as predicted.
_DECODED = 0.95
_ON_CIRCLE = _USED = 0.5
_TEXTS = {
    "carry in": "carry into a slot",
    "running sum": "sum of a slot's column including its carry",
    "mod 10": "whole answer modulo 10, beyond the units",
}


# Data of the page's body, which the page of the run also shows.
SECTION = "section.json"


class Finding(NamedTuple):
    """A question, whether the answer is yes, and the measured values as text."""

    name: str
    found: bool
    text: str


class ProbingSection(BaseModel):
    """Data of the page of a probing."""

    model_config = ConfigDict(frozen=True)

    runs: tuple[str, ...]
    checkpoint: str
    spread: str
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    rooms: tuple[str, ...]

    def html(self) -> Markup:
        """Render the body of the page."""
        return rendered("inside.html", **dict(self))


def write_probing(
    page: Location, workspace: Workspace, title: str, runs: Sequence[str], checkpoint: str, series: int = 0
) -> tuple[list[Finding], list[tuple[str, str]]]:
    """Write the page of one run's or several seeds' probing; returns its findings and its figures.

    `series` is the number of problems for probes along training (`problems_asked`); 0 leaves these measures out.
    """
    with open_catalog(workspace) as connection:
        data = ProbeData(connection, runs, checkpoint, series)
        drawn = (*geometry.DRAWN, *states.DRAWN, *interventions.DRAWN, states.series_figure)
        figures = [figure for draw in drawn if (figure := draw(data))]
        found = findings(data)
    section = ProbingSection(
        runs=tuple(runs),
        checkpoint=checkpoint,
        spread=data.spread,
        findings=tuple(found),
        figures=tuple(figures),
        rooms=tuple(_remarks(figures, series)),
    )
    (page.parent / SECTION).write(section.model_dump_json().encode())
    write_page(page, "probing.html", title=title, section=section.html())
    return found, [(figure.title, figure.picture) for figure in figures]


def findings(data: ProbeData) -> list[Finding]:
    """All findings for which there is data."""
    measures = (_unit, _circle, _carry, _sum, _residue, _moved, _patched)
    return [finding for measure in measures if (finding := measure(data))]


def _circle(data: ProbeData) -> Finding | None:
    where = "kind = 'embedding' AND symbols = 'digits' AND measure = 'circle 10' AND control = '{}'"
    trained, untrained = (data.single("probe_geometry", where.format(kind)) for kind in ("trained", "untrained"))
    bound = data.single("probe_geometry", where.format("trained"), "shuffled_high")
    if not trained or not untrained or not bound:
        return None
    found = trained.mean >= _ON_CIRCLE and trained.lower > bound.mean
    return Finding(
        "digits on a circle",
        found,
        f"circle of digits in the embeddings: {_found_or_not(found)}, {trained.text('.0%')} of the variance (95 % of "
        f"shuffles below {bound.mean:.0%}, untrained {untrained.mean:.0%})",
    )


def _carry(data: ProbeData) -> Finding | None:
    return _label_decoded(data, "carry in")


def _sum(data: ProbeData) -> Finding | None:
    return _label_decoded(data, "running sum")


def _residue(data: ProbeData) -> Finding | None:
    return _label_decoded(data, "mod 10")


def _label_decoded(data: ProbeData, label: str) -> Finding | None:
    condition = f"position = 'answer' AND label = '{label}'"
    where = f"{condition} AND split = 'numbers' AND probe = 'linear' AND control = '{{}}'"
    keys = ["loop", "layer"]
    trained = data.values("probes", keys, where.format("trained"), "kappa")
    if not trained:
        return None
    best = max(trained, key=lambda state: trained[state].mean)
    untrained = data.values("probes", keys, where.format("untrained"), "kappa")
    untrained_value = max(value.upper for value in untrained.values())
    random_label = data.single("probes", where.format("random"), "kappa")
    # A probe that does as well with a random label for each type of token knows the types by heart.
    bound = max(untrained_value, random_label.mean if random_label else -1.0)
    found = trained[best].mean >= _DECODED and trained[best].lower > bound
    selective = f", selectivity {trained[best].mean - random_label.mean:.2f}" if random_label else ""
    loops = max(loop for loop, _ in trained)
    (count,) = data.rows("probes", "min(numbers)", where.format("trained"))[0]
    further = "".join(
        f", {name} {value.mean:.2f}{f' (untrained {control.mean:.2f})' if control else ''}"
        for name, split, probe in (
            ("on digit combinations that the probe never saw", "columns", "linear"),
            ("on operands longer than the probe was fitted on", "lengths", "linear"),
            ("with a circular probe", "numbers", "circular"),
        )
        for value, control in [_kappas_at(data, f"{condition} AND split = '{split}' AND probe = '{probe}'", best)]
        if value
    )
    return Finding(
        f"{label} decoded",
        found,
        f"{_TEXTS[label]}: {_found_or_not(found)}, κ {trained[best].text()} at {state_text(best, loops)}, the best of "
        f"{len(trained)} states{f', tested on {count:,} numbers' if count else ''} (untrained, upper ends, at most "
        f"{untrained_value:.2f}, random label for each type of token {_mean_text(random_label)}{selective}){further}",
    )


def _kappas_at(data: ProbeData, where: str, state: tuple[Any, ...]) -> tuple[Value | None, Value | None]:
    """κ at a state, and the best κ of all untrained states."""
    trained, untrained_value = (
        data.values("probes", ["loop", "layer"], f"{where} AND control = '{control}'", "kappa")
        for control in ("trained", "untrained")
    )
    return trained.get(state), max(untrained_value.values(), key=lambda value: value.mean, default=None)


def _unit(data: ProbeData) -> Finding | None:
    keys = ["measure", "operator"]
    values = data.values("probe_unit", keys, "control = 'trained' AND loop = 0")
    operators = sorted({name for measure, name in values if measure == "operation read"}, key="+-*".find)
    if not operators:
        return None
    names = ("answered", "answered without", "answered as another")
    with_it, without, other = (
        [value.mean for name in operators if (value := values.get((measure, name)))] for measure in names
    )
    found = min(with_it) > max(without) and bool(other) and mean(other) >= _USED
    return Finding(
        "unit used",
        found,
        f"symbolic unit: {'used' if found else 'not used'}, {mean(with_it):.0%} of problems with two numbers are "
        f"answered correctly, {mean(without):.0%} without the unit, "
        + (
            f"{mean(other):.0%} are answered as another problem if the unit gets that problem's result"
            if other
            else "no problem could get another problem's result"
        ),
    )


def _moved(data: ProbeData) -> Finding | None:
    where = "experiment = 'digit' AND loop = 0 AND layer = 0 AND shift = 0 AND way = '{}'"
    circle, circles, rest, far, chance = (
        data.single("probe_interventions", where.format(way), "predicted")
        for way in ("circle", "circles", "rest", "rest as far", "random")
    )
    other = data.single("probe_interventions", where.format("circle"), "other")
    if not circle or not circles or not rest or not far or not chance or not other:
        return None
    found = circle.mean >= _USED and circle.lower > max(rest.mean, chance.mean)
    return Finding(
        "circle used",
        found,
        f"digit moved only along its circle: {_found_or_not(found)}, {circle.text('.0%')} of answers follow, "
        f"{other.mean:.0%} change in another way (also along the circle of period 5: {circles.text('.0%')} follow; "
        f"along all other directions: {rest.text('.0%')}; the same, scaled to the length of the circle's move: "
        f"{far.text('.0%')}; random moves within the digits' directions: {chance.text('.0%')})",
    )


def _patched(data: ProbeData) -> Finding | None:
    best = interventions.arrival(data)
    if not best:
        return None
    loops = max(loop for (loop,) in data.values("probe_interventions", ["loop"], "experiment = 'carry'", "predicted"))
    if not best.carried.mean:
        return Finding("carry patched", False, "carry patched: not found, it arrives from no inner state")
    found = best.carried.lower >= _USED > max(best.control, best.copied)
    return Finding(
        "carry patched",
        found,
        f"carry patched, best result at the {best.site}, {state_text(best.state, loops)}: {_found_or_not(found)}, "
        f"{best.carried.text('.0%')} of answers follow, {best.copied:.0%} copy the other problem's digit (control, "
        f"states with the same carry: {best.control:.0%})",
    )


def _found_or_not(found: bool) -> str:
    return "found" if found else "not found"


def _mean_text(value: Value | None) -> str:
    return f"{value.mean:.2f}" if value else "–"


def _remarks(figures: Sequence[Figure], series: int) -> list[str]:
    """Which figures are missing, and why."""
    titles = {figure.title for figure in figures}
    found = []
    if "Whole numbers as tokens" not in titles:
        found.append(
            "The figure of whole numbers needs a tokenizer with a token for each number from 0 to 99, such as 'pairs'."
        )
    if "Move a digit" not in titles:
        found.append("States are edited only if each token is one digit, and only in problems answered correctly.")
    if "Along training" not in titles:
        found.append(
            "Measures along training need several checkpoints that all runs kept: --training.keep 12 keeps more."
            if series
            else "Measures along training were not requested."
        )
    return found

"""The HTML report of a probing, and its findings as text: found or not found, each with its controls."""

from collections.abc import Sequence

from markupsafe import Markup
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from flows.reports.pages import rendered, write_page
from flows.reports.probing.data import Figure, Finding, ProbeData
from flows.reports.probing.geometry import circle_finding, fits_figure, numbers_figure, symbols_figure
from flows.reports.probing.interventions import (
    carries_figure,
    carry_finding,
    circle_use_finding,
    digits_figure,
    heads_figure,
)
from flows.reports.probing.rewriting import (
    EDITS_TITLE,
    edits_figure,
    edits_findings,
    hub_figure,
    operators_figure,
    slots_figure,
)
from flows.reports.probing.states import attention_figure, kappas_figure, label_findings, series_figure
from flows.reports.probing.unit import unit_figure, unit_finding
from storage.places.place import Location
from storage.sql.query import open_catalog
from storage.workspace import Workspace

_FIGURES = (
    *(symbols_figure, fits_figure, numbers_figure, kappas_figure, attention_figure),
    *(unit_figure, digits_figure, carries_figure, heads_figure, series_figure),
    *(edits_figure, hub_figure, slots_figure, operators_figure),
)

# Data of the page's body, which the page of the run also shows.
SECTION = "section.json"


class ProbingSection(BaseModel):
    """Data of the page of a probing."""

    model_config = ConfigDict(frozen=True)

    runs: tuple[str, ...]
    checkpoint: str
    spread: str
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    # Earlier versions wrote `rooms`.
    remarks: tuple[str, ...] = Field(validation_alias=AliasChoices("remarks", "rooms"))

    def html(self) -> Markup:
        """Render the body of the page."""
        return rendered("probing_section.html", **dict(self))


def write_probing(
    page: Location, workspace: Workspace, title: str, runs: Sequence[str], checkpoint: str, series: int = 0
) -> ProbingSection:
    """Write the page of one run's or several seeds' probing; returns its data.

    `series` is the number of problems for probes along training (`series_problems`); 0 leaves these measures out.
    """
    with open_catalog(workspace) as connection:
        data = ProbeData(connection, runs, checkpoint, series)
        figures = [figure for draw in _FIGURES if (figure := draw(data))]
        findings = [unit_finding(data), circle_finding(data), *label_findings(data)]
        findings += [circle_use_finding(data), carry_finding(data), *edits_findings(data)]
    section = ProbingSection(
        runs=tuple(runs),
        checkpoint=checkpoint,
        spread=data.spread,
        findings=tuple(finding for finding in findings if finding),
        figures=tuple(figures),
        remarks=tuple(_remarks(figures, series)),
    )
    (page.parent / SECTION).write(section.model_dump_json().encode())
    write_page(page, "probing.html", title=title, section=section.html())
    return section


def _remarks(figures: Sequence[Figure], series: int) -> list[str]:
    """Which figures are missing, and why."""
    reasons = {
        "Whole numbers as tokens": "The figure of whole numbers needs a tokenizer with a token for each number from 0 "
        "to 99, such as 'pairs'.",
        "Move a digit": "States are edited only if each token is one digit, and only in problems answered correctly.",
        "Along training": "Measures along training need several checkpoints that all runs kept: --training.keep 12 "
        "keeps more."
        if series
        else "Measures along training were not requested.",
    }
    titles = {figure.title for figure in figures}
    if EDITS_TITLE in titles:
        return ["Measures along training are not made for an encoder that rewrites."] if series else []
    return [reason for title, reason in reasons.items() if title not in titles]

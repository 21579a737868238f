"""The page of a run: one file with its evaluations, training, probing, comparisons, corpus and tokenizer.

Sections are rendered from stored data without recomputing anything. Missing sections are left out.
"""

from typing import Any, NamedTuple

import duckdb
from markupsafe import Markup

from flows.reports.corpus import sample_of
from flows.reports.evaluation.comparison import Comparison
from flows.reports.evaluation.section import SECTION, EvaluationSection, learning_curve
from flows.reports.evaluation.unit_comparison import compared, comparisons_of
from flows.reports.pages import rendered, stored, write_page
from flows.reports.probing import page as probing
from flows.reports.probing.page import ProbingSection
from flows.reports.validation_figure import validation_figure
from model.runs.run_config import RunConfig, load_run
from model.tokenizer import load_tokenizer
from storage.datasets.manifest import Dataset, committed, load
from storage.errors import RunFailure, UserError
from storage.places.place import Location
from storage.sql.query import open_catalog
from storage.workspace import Workspace

_SHOWN_PIECES = 200


class Section(NamedTuple):
    """A section of the page; `folded` sections are collapsed."""

    anchor: str
    """Anchor for the list at the top of the page."""
    title: str
    body: Markup
    folded: bool = False


def page_of(workspace: Workspace, name: str) -> Location:
    """Path of the page of a run."""
    return workspace.run(name) / "report" / "index.html"


def write_run_page(workspace: Workspace, name: str) -> Location:
    """Write the page of a run from stored data; returns its path. Raises `UserError` if the run does not exist."""
    config, page = load_run(workspace.run(name)), page_of(workspace, name)
    with open_catalog(workspace) as connection:
        sections = [
            *_evaluations(workspace.run(name), config),
            *_training(connection, config),
            *_inside(workspace, name),
            *_comparisons(workspace, name),
            *_units(connection, name),
            *_corpus(workspace, config),
            *_tokenizer(workspace, config),
        ]
    write_page(page, "run.html", config=config, sections=sections)
    return page


def _evaluations(run: Location, config: RunConfig) -> list[Section]:
    """Evaluations: the test split of the run's own corpus first, the others collapsed."""
    found, folder = [], run / "evaluations"
    if own := stored(EvaluationSection, run / SECTION):
        found.append(Section("test", f"Evaluation: test split of {config.corpus}", own.html(config)))
    for label in sorted(folder.children()):
        if evaluation := stored(EvaluationSection, folder / label / SECTION):
            outcome = evaluation.outcome
            is_suite = outcome.suite not in ("", "test")
            title = f"suite {outcome.suite} ({label.removeprefix('suite.')})" if is_suite else label
            found.append(Section(f"evaluation-{label}", f"Evaluation: {title}", evaluation.html(config), folded=True))
    return found


def _training(connection: duckdb.DuckDBPyConnection, config: RunConfig) -> list[Section]:
    """Training metrics and the learning curve."""
    (facts,) = (
        connection.sql(
            "SELECT max(step) AS steps, max(problems) AS problems, arg_max(loss, step) AS loss, "
            "max(validation_exact_match) AS best, avg(problems_per_second) AS rate, "
            "100 * sum(data_seconds) / max(seconds) AS waiting, "
            "min(problems) FILTER (validation_exact_match >= 0.99) AS problems_to_99 "
            "FROM metrics WHERE run = ?",
            params=[config.name],
        )
        .to_arrow_table()
        .to_pylist()
    )
    if facts["steps"] is None:
        return []
    curve, errors = learning_curve(connection, config.name), validation_figure(connection, config.name)
    body = rendered("training.html", config=config, curve=curve, errors=errors, **facts)
    return [Section("training", "Training", body)]


def _inside(workspace: Workspace, name: str) -> list[Section]:
    """Probing of the run, and of groups of seeds that include it."""
    found, folder = [], workspace.root / "comparisons"
    if own := stored(ProbingSection, workspace.run(name) / "probes" / probing.SECTION):
        found.append(Section("inside", "Probing", own.html(), folded=True))
    for title in sorted(folder.children()):
        seeds = stored(ProbingSection, folder / title / "probes" / probing.SECTION)
        if seeds and name in seeds.runs:
            found.append(Section(f"inside-{title}", f"Probing of the runs of {title}", seeds.html(), folded=True))
    return found


def _comparisons(workspace: Workspace, name: str) -> list[Section]:
    """Comparisons that include this run."""
    found, folder = [], workspace.root / "comparisons"
    for title in sorted(folder.children()):
        for label in sorted((folder / title).children()):
            comparison = stored(Comparison, folder / title / label / "report.json")
            if comparison and any(line.run == name for line in comparison.runs):
                body = rendered("compared.html", comparison=comparison, own=name)
                found.append(Section(f"compared-{title}-{label}", f"Comparison: {title}, {label}", body, folded=True))
    return found


def _units(connection: duckdb.DuckDBPyConnection, name: str) -> list[Section]:
    """Comparisons with and without a symbolic unit that include this run."""
    return [
        Section(
            f"units-{comparison}",
            f"Comparison: {comparison}, with and without a unit",
            compared(connection, comparison, name),
            folded=True,
        )
        for comparison in comparisons_of(connection, name)
    ]


def _corpus(workspace: Workspace, config: RunConfig) -> list[Section]:
    """Training corpus of the run."""
    if not (dataset := _dataset(workspace, config)):
        return []
    body = rendered(
        "corpus.html",
        manifest=dataset.manifest,
        shards={split: len(dataset.of_split(split)) for split in dataset.manifest.split_rows},
        sample=sample_of(workspace, dataset, "problem", "answer", "carries", "depth"),
    )
    return [Section("corpus", f"Corpus {config.corpus}", body)]


def _dataset(workspace: Workspace, config: RunConfig) -> Dataset | None:
    """The corpus of the run; None if it is missing, incomplete or has changed."""
    folder = workspace.corpus(config.corpus)
    if not committed(folder):
        return None
    try:
        dataset = load(folder, f"corpus {config.corpus!r}")
        return dataset if dataset.manifest.identity == config.corpus_identity and dataset.is_complete() else None
    except (UserError, RunFailure):
        return None


def _tokenizer(workspace: Workspace, config: RunConfig) -> list[Section]:
    try:
        tokenizer, card = load_tokenizer(workspace.tokenizer(config.tokenizer))
    except (UserError, RunFailure):
        return []
    values: dict[str, Any] = {"card": card, "pieces": tokenizer.pieces()[:_SHOWN_PIECES], "size": tokenizer.size}
    return [Section("tokenizer", f"Tokenizer {config.tokenizer}", rendered("tokenizer.html", **values))]

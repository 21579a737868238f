"""Artifacts on the page of a flow run: a table, and a report in Markdown with embedded images.

Only runs of deployments have them; the command line prints its results and writes the HTML report.
"""

import base64
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

from flows.common.engines import served
from flows.common.progress import counted
from flows.server.report_pages import REPORTS
from flows.server.settings import configured_api
from model.tokenizer import Tokenizer
from storage.datasets.manifest import Dataset
from storage.places.place import Location
from storage.sql.query import open_catalog
from storage.workspace import Workspace

P = ParamSpec("P")
Figures = Sequence[tuple[str, str]]
"""Titles, and figures as SVG text."""

_SHOWN_PIECES = 300
_SHOWN_FAULTS = 1_000


def for_run_page(show: Callable[P, None]) -> Callable[P, None]:
    """Make artifacts only in a flow run that Prefect started, whose page somebody may open."""

    @wraps(show)
    def show_if_started_by_prefect(*arguments: P.args, **options: P.kwargs) -> None:
        if "PREFECT__FLOW_RUN_ID" in os.environ and FlowRunContext.get() is not None:
            show(*arguments, **options)

    return show_if_started_by_prefect


@for_run_page
def show_corpus(workspace: Workspace, dataset: Dataset, headline: str) -> None:
    """A corpus: its shards by split and stratum, sample problems, and their difficulty."""
    from flows.reports.corpus import sample_of

    name, sample = dataset.manifest.name, sample_of(workspace, dataset, "problem", "answer", "carries")
    _show_shards("corpus-shards", dataset, f"Shards of corpus {name}")
    sections = [
        ("Sample problems", markdown_table(sample.columns, sample.rows)),
        ("Difficulty", picture(sample.figure, "Problems by answer and carries")),
        ("Query", f'`numerate sql "SELECT split, count(*) FROM corpus_{name} GROUP BY ALL"`'),
    ]
    _show_report("corpus-report", f"Corpus {name}", headline, sections)


@for_run_page
def show_faults(corpus: str, faults: Sequence[Mapping[str, str]]) -> None:
    """A damaged corpus: each faulty file and its fault."""
    description = f"{counted(len(faults), 'fault')} of corpus {corpus}"
    if len(faults) > _SHOWN_FAULTS:
        description += f", the first {_SHOWN_FAULTS:,} are shown"
    table = [{"file": fault["path"], "fault": fault["text"]} for fault in faults[:_SHOWN_FAULTS]]
    create_table_artifact(table, key="corpus-faults", description=description)


@for_run_page
def show_tokenizer(name: str, tokenizer: Tokenizer, headline: str) -> None:
    """A tokenizer and its pieces."""
    pieces = ", ".join(f"`{piece}`" for piece in tokenizer.pieces()[:_SHOWN_PIECES])
    _show_report("tokenizer-report", f"Tokenizer {name}", headline, [("Pieces", pieces)])


@for_run_page
def show_tokens(dataset: Dataset, headline: str) -> None:
    """The tokens of a corpus and their shards."""
    _show_shards("tokens-shards", dataset, f"Shards of the tokens of {dataset.manifest.name}")
    _show_report("tokens-report", f"Tokens of {dataset.manifest.name}", headline, [])


@for_run_page
def show_training(workspace: Workspace, runs: Sequence[str], headline: str) -> None:
    """Trained runs: validation metrics and learning curves."""
    from flows.reports.evaluation.section import learning_curve

    with open_catalog(workspace) as connection:
        rows = connection.execute(
            "SELECT run, step, loss, validation_exact_match, problems_per_second FROM metrics "
            "WHERE list_contains(?, run) AND validation_exact_match IS NOT NULL ORDER BY run, step",
            [list(runs)],
        ).fetchall()
        curves = [(f"Learning curve of {run}", picture(learning_curve(connection, run), run)) for run in runs]
    names = ("run", "step", "loss", "exact match on validation", "problems/s")
    create_table_artifact(
        [dict(zip(names, row, strict=True)) for row in rows], key="training-metrics", description=headline
    )
    _show_report("training-report", f"Training of {', '.join(runs)}", headline, curves)


@for_run_page
def show_evaluation(workspace: Workspace, headline: str, figures: Figures, page: Location) -> None:
    """An evaluation: its figures, and a link to its HTML report."""
    _show_figures("evaluation-report", "Evaluation", headline, figures, workspace, page)
    if url := link(workspace, page):
        create_link_artifact(url, link_text="Full report", key="evaluation-page", description=headline)


@for_run_page
def show_probing(workspace: Workspace, headline: str, figures: Figures, page: Location) -> None:
    """A probing: its figures, and a link to its HTML report."""
    _show_figures("probing-report", "Probing", headline, figures, workspace, page)


@for_run_page
def show_end_to_end(workspace: Workspace, run: str, lines: Sequence[str], seconds: Mapping[str, float | None]) -> None:
    """An end-to-end run: results, seconds of each stage, learning curve, and a link to the HTML report."""
    from flows.reports.evaluation.section import learning_curve

    with open_catalog(workspace) as connection:
        curve = picture(learning_curve(connection, run), run)
    page = workspace.run(run) / "report" / "index.html"
    rounded = [value and round(value, 1) for value in seconds.values()]
    sections = [
        ("Learning curve", curve),
        ("Seconds per stage", markdown_table(list(seconds), [rounded])),
        ("Full report", _link_or_path(workspace, page)),
    ]
    _show_report("end-to-end-report", f"End to end: {run}", "\n\n".join(lines), sections)


def link(workspace: Workspace, page: Location) -> str:
    """Link from the page of a flow run to a page of the workspace; empty if the server does not show reports.

    It contains no host name, because the pages may be reached through a tunnel or a proxy.
    """
    server, root = served(workspace), f"{workspace.root}/"
    is_shown = server.own and server.api == configured_api() and str(page).startswith(root)
    return f"{REPORTS}/{str(page).removeprefix(root)}" if is_shown else ""


def _link_or_path(workspace: Workspace, page: Location) -> str:
    url = link(workspace, page)
    return f"[{page}]({url})" if url else f"`{page}`"


def picture(figure: str, label: str) -> str:
    """SVG as a Markdown image on a white background, because the page may be light or dark."""
    data = figure.replace("<svg", '<svg style="background:white"', 1).encode()
    return f"![{label}](data:image/svg+xml;base64,{base64.b64encode(data).decode()})"


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; cells are code, so that operators are not parsed as Markdown."""
    lines = [names, ["---"] * len(names), *([f"`{'' if value is None else value}`" for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _show_shards(key: str, dataset: Dataset, description: str) -> None:
    """Show one row per split and stratum, because a corpus may have a million shards."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for shard in dataset.shards:
        totals = sums.setdefault((shard.split, shard.stratum), Counter())
        totals.update(shards=1, rows=shard.rows, bytes=shard.bytes)
    table = [
        {
            "split": split,
            "stratum": stratum,
            **{name: f"{total:,}" for name, total in totals.items()},
            "bytes a row": f"{totals['bytes'] / max(1, totals['rows']):.2f}",
        }
        for (split, stratum), totals in sums.items()
    ]
    create_table_artifact(table, key=key, description=description)


def _show_figures(key: str, title: str, headline: str, figures: Figures, workspace: Workspace, page: Location) -> None:
    """Show a report with figures, and a link to its HTML page."""
    sections = [(name, picture(figure, name)) for name, figure in figures]
    _show_report(key, title, headline, [*sections, ("Full report", _link_or_path(workspace, page))])


def _show_report(key: str, title: str, headline: str, sections: Sequence[tuple[str, str]]) -> None:
    parts = [f"# {title}", headline, *(f"## {name}\n\n{text}" for name, text in sections)]
    create_markdown_artifact("\n\n".join(parts), key=key, description=headline)

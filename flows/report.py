"""The HTML report of a run: one self-contained page, made by SQL over the catalog."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.evaluation import Evaluation
from model.run import RunConfig
from storage.location import Location, Workspace
from storage.query import open_catalog

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "numerate"

_WRONG_ANSWERS = 20
# Longer answers are no numbers of DuckDB's; more bars than these are not drawn, or not labelled.
_NUMBER_DIGITS, _MOST_BARS, _LABELLED_BARS = 15, 40, 5
_INK, _SECOND = "#3566a8", "#c2571a"
_TEMPLATE = Path(__file__).with_name("report.html")


def write_report(
    page: Location, workspace: Workspace, config: RunConfig, outcome: Evaluation, seconds: dict[str, float | None]
) -> None:
    """Write the page of one evaluation of a run."""
    with open_catalog(workspace) as connection:
        asked = connection.sql(
            "SELECT * FROM predictions WHERE run = ? AND corpus = ? AND split = ? AND coalesce(missing, 'answer') = ?",
            params=[config.name, outcome.corpus, outcome.split, outcome.missing],
        ).to_arrow_table()
        connection.register("asked", asked)
        figures = [("Learning curve", _learning_curve(connection, config.name)), *_figures(connection)]
        if len(outcome.by_passes) > 1:
            figures.append(("Exact match by passes", _by_passes(outcome)))
        figures.append(("Is its confidence honest?", _calibration(connection)))
        wrong = connection.sql(
            "SELECT problem, answer, prediction, confidence FROM asked WHERE NOT correct "
            f"ORDER BY id LIMIT {_WRONG_ANSWERS}"
        ).fetchall()
        rows = connection.execute(
            "SELECT split, sum(rows)::BIGINT, count(*) FROM shards WHERE corpus = ? GROUP BY ALL ORDER BY 2 DESC",
            [config.corpus],
        ).fetchall()
    text = jinja2.Template(_TEMPLATE.read_text(), autoescape=True).render(
        config=config,
        outcome=outcome,
        passes=passes_text(outcome.passes),
        seconds=seconds,
        figures=figures,
        wrong=wrong,
        splits=rows,
    )
    page.write(text.encode())


def passes_text(passes: int) -> str:
    """The number of passes in words."""
    return "one pass" if passes == 1 else f"{passes} passes"


def _figures(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Exact match by whatever the problems differ in."""
    longest, operators, lengths, carries = _rows(
        connection,
        "SELECT max(answer_digits), count(DISTINCT operators), count(DISTINCT digits), count(DISTINCT carries) "
        "FROM asked",
    )[0]
    found = []
    if longest <= _NUMBER_DIGITS:
        found.append(("Exact match by answer", _by_answer(connection)))
    if 1 < operators <= _MOST_BARS:
        found.append(("Exact match by operators", _by(connection, "operators", "operators")))
    if lengths > 1:
        found.append(("Exact match by length", _by(connection, "digits", "digits of the longest operand")))
    if carries > 1:
        found.append(("Exact match by carries", _by(connection, "carries", "longest run of carries or borrows")))
    return found


def _svg(draw: Callable[[Axes], None], label: str) -> str:
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw(axes)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _rows(connection: duckdb.DuckDBPyConnection, query: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
    return connection.execute(query, values or []).fetchall()


def _learning_curve(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    losses = _rows(
        connection,
        "WITH mine AS (SELECT step, loss FROM metrics WHERE run = ?), "
        "size AS (SELECT greatest(1, max(step) // 200) AS bin FROM mine) "
        "SELECT max(step), avg(loss) FROM mine, size GROUP BY (step - 1) // bin ORDER BY 1",
        [run],
    )
    matches = _rows(
        connection,
        "SELECT step, validation_exact_match FROM metrics "
        "WHERE run = ? AND validation_exact_match IS NOT NULL ORDER BY 1",
        [run],
    )

    def draw(axes: Axes) -> None:
        """The loss, and the exact match on an axis of its own."""
        axes.plot(*zip(*losses, strict=True), color=_INK)
        axes.set(xlabel="step", ylabel="loss on hidden slots", yscale="log")
        axes.yaxis.label.set_color(_INK)
        other = axes.twinx()
        other.spines["top"].set_visible(False)
        other.plot([s for s, _ in matches], [100 * m for _, m in matches], color=_SECOND, marker="o", markersize=3)
        other.set_ylabel("exact match on validation, %", color=_SECOND)
        other.set_ylim(-2, 102)

    return _svg(draw, "Loss and exact match against training steps")


def _by_answer(connection: duckdb.DuckDBPyConnection) -> str:
    rows = _rows(
        connection,
        "WITH ends AS (SELECT min(answer::BIGINT) AS low, max(answer::BIGINT) AS high FROM asked), "
        "span AS (SELECT low, greatest(1, (high - low) // 40) AS bin FROM ends) "
        "SELECT low + bin * ((answer::BIGINT - low) // bin) + bin / 2 AS middle, "
        "100 * avg(correct::INT), count(*), any_value(bin) FROM asked, span GROUP BY 1 ORDER BY 1",
    )

    def draw(axes: Axes) -> None:
        """How many problems there are, and the exact match over them."""
        axes.bar([r[0] for r in rows], [r[2] for r in rows], width=rows[0][3] * 0.95, color="#8888", label="problems")
        axes.set(xlabel="answer", ylabel="problems")
        other = axes.twinx()
        other.spines["top"].set_visible(False)
        other.plot([r[0] for r in rows], [r[1] for r in rows], color=_SECOND, marker="o", markersize=3)
        other.set_ylabel("exact match, %", color=_SECOND)
        other.set_ylim(_floor(r[1] for r in rows), 100.5)

    return _svg(draw, "Exact match and number of problems by the answer's size")


def _by(connection: duckdb.DuckDBPyConnection, column: str, label: str) -> str:
    rows = _rows(
        connection,
        f"SELECT {column}, 100 * avg(correct::INT), count(*) FROM asked WHERE {column} IS NOT NULL "
        "GROUP BY 1 ORDER BY 1",
    )

    def draw(axes: Axes) -> None:
        """A bar for each value."""
        bars = axes.bar([str(r[0]) for r in rows], [r[1] for r in rows], color=_INK, width=0.6)
        if len(rows) <= _LABELLED_BARS:
            axes.bar_label(bars, [f"{r[1]:.2f} %\n{r[2]:,} problems" for r in rows], padding=3, fontsize=8)
        axes.set(xlabel=label, ylabel="exact match, %", ylim=(0, 125), yticks=range(0, 101, 25))

    return _svg(draw, f"Exact match by {label}")


def _by_passes(outcome: Evaluation) -> str:
    def draw(axes: Axes) -> None:
        """A line for each order."""
        one = next(result for result in outcome.by_passes if result.passes == 1)
        for order, color in (("confidence", _INK), ("units-first", _SECOND)):
            found = [one, *(r for r in outcome.by_passes if r.order == order and r.passes > 1)]
            matches = [100 * r.exact_match for r in found]
            axes.plot([r.passes for r in found], matches, color=color, marker="o", markersize=3, label=order)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="passes of the encoder", ylabel="exact match, %")
        axes.set_ylim(_floor(100 * r.exact_match for r in outcome.by_passes), 100.5)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(frameon=False)

    return _svg(draw, "Exact match against the number of passes, by the order in which slots are filled")


def _calibration(connection: duckdb.DuckDBPyConnection) -> str:
    rows = _rows(
        connection,
        "SELECT avg(confidence), avg(correct::INT), count(*) FROM asked "
        "GROUP BY least(9, floor(confidence * 10)) ORDER BY 1",
    )

    def draw(axes: Axes) -> None:
        """How often the answers of a confidence are right, beside how often they should be."""
        axes.plot([0, 100], [0, 100], color="#8888", linewidth=1)
        axes.plot([100 * r[0] for r in rows], [100 * r[1] for r in rows], color=_INK, marker="o", markersize=4)
        for confidence, right, count in rows:
            axes.annotate(f"{count:,}", (100 * confidence, 100 * right), (0, -12), textcoords="offset points",
                          fontsize=7, ha="center")  # fmt: skip
        axes.set(xlabel="confidence, %", ylabel="right, %", xlim=(-3, 103), ylim=(-12, 106))

    return _svg(draw, "Share of right answers against the encoder's own confidence")


def _floor(values: Any) -> float:
    lowest = min(values)
    return 0.0 if lowest < 90 else (90.0 if lowest < 99 else 99.0)

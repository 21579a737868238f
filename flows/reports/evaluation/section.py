"""The results of one evaluation: a section of the run's page, and for some a separate page. Data comes from SQL."""

from collections.abc import Iterable, Sequence

import duckdb
from markupsafe import Markup
from matplotlib.axes import Axes
from pydantic import BaseModel, ConfigDict

from flows.common.suites import trained_digits
from flows.reports.evaluation.suite_figures import edge_figure, grid_figure
from flows.reports.figures import INK, PALE, SECOND, by_group, svg
from flows.reports.pages import rendered, write_page
from model.evaluation.evaluate import Evaluation
from model.runs.run_config import RunConfig
from storage.places.place import Location
from storage.sql.query import open_catalog
from storage.workspace import Workspace

# Data of the section, relative to the folder of the evaluation.
SECTION = "report/section.json"
_WRONG_ANSWERS = 20
# Characters of a problem whose rewriting fits on the page.
_LONGEST_TRACE = 72
# Longer answers do not fit DuckDB's integers.
_NUMBER_DIGITS = 15
_COLUMN_LABELS = {
    "operators": "operators",
    "terms": "number of operands",
    "digits": "digits of the longest operand",
    "carries": "longest run of carries or borrows",
    "depth": "nested brackets",
    "kind": "kind",
    "passes": "passes of the rewriting",
    "draw": "kind of operation",
    "column_total": "largest column total",
    "largest_carry": "largest carry",
    "carry_bound": "moves until all digits are certain",
}
# Operator patterns can be too many for a figure.
_MOST_GROUPS = 20


class EvaluationSection(BaseModel):
    """Data of the section for one evaluation."""

    model_config = ConfigDict(frozen=True)

    outcome: Evaluation
    seconds: dict[str, float | None]
    remarks: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    """Titles, and figures as SVG text."""
    wrong: tuple[tuple[str, str, str | None, float], ...]
    """Problem, answer, prediction and confidence of wrong predictions."""
    traces: tuple[tuple[bool, tuple[str, ...]], ...] = ()
    """Whether the answer is right, and the states, of some rewritings; a wrong one is the last."""
    splits: tuple[tuple[str, int, int], ...]
    """Split, number of rows and number of shards, for the run's corpus."""

    def html(self, config: RunConfig) -> Markup:
        """Render the section for a page of the run."""
        return rendered(
            "evaluation.html",
            **dict(self),
            config=config,
            passes=passes_text(self.outcome.passes),
            labels=_COLUMN_LABELS,
        )


def write_report(
    folder: Location,
    workspace: Workspace,
    config: RunConfig,
    outcome: Evaluation,
    seconds: dict[str, float | None],
    remarks: tuple[str, ...] = (),
) -> list[tuple[str, str]]:
    """Write the section's data below `folder`, and a separate page unless `folder` is the run's own folder.

    `remarks` say what was left out. Returns the figures.
    """
    with open_catalog(workspace) as connection:
        scored = connection.sql(
            "SELECT * FROM predictions WHERE run = ? AND corpus = ? AND split = ? AND checkpoint = ? "
            "AND coalesce(missing, 'answer') = ? AND coalesce(decoding, '') = ?",
            params=[
                *(config.name, outcome.corpus, outcome.split, outcome.checkpoint.split()[0]),
                *(outcome.missing, outcome.decoding),
            ],
        ).to_arrow_table()
        connection.register("scored", scored)
        figures = [*_suite_figures(connection, config, outcome), *_figures(connection, outcome)]
        if len(outcome.by_passes) > 1:
            figures.append(("Exact match by passes", _by_passes(outcome)))
        figures.append(("Calibration of the confidence", _calibration(connection)))
        wrong = connection.sql(
            "SELECT problem, answer, prediction, confidence FROM scored WHERE NOT correct "
            f"ORDER BY id LIMIT {_WRONG_ANSWERS}"
        ).fetchall()
        traces = [trace for right in (True, False) for trace in _traces(connection, right)]
        rows = connection.execute(
            "SELECT split, sum(rows)::BIGINT, count(*) FROM shards WHERE corpus = ? GROUP BY ALL ORDER BY 2 DESC",
            [config.corpus],
        ).fetchall()
    section = EvaluationSection(
        outcome=outcome,
        seconds=seconds,
        remarks=remarks,
        figures=tuple(figures),
        wrong=tuple(wrong),
        traces=tuple(traces[:2] + traces[2:][-1:]),
        splits=tuple(rows),
    )
    (folder / SECTION).write(section.model_dump_json().encode())
    if folder != workspace.run(config.name):
        page = folder / "report" / "index.html"
        write_page(page, "report.html", run=config.name, label=folder.name, section=section.html(config))
    return figures


def passes_text(passes: int) -> str:
    """The number of passes in words; 0 means a rewriting."""
    if not passes:
        return "steps of a rewriting"
    return "one pass" if passes == 1 else f"{passes} passes"


def _traces(connection: duckdb.DuckDBPyConnection, right: bool) -> list[tuple[bool, tuple[str, ...]]]:
    """At most three rewritings of moderate size with right or wrong answers; wrong ones may be short or long."""
    least, most, longest = (3, 16, _LONGEST_TRACE) if right else (1, 40, 4 * _LONGEST_TRACE)
    rows = connection.execute(
        f"SELECT states FROM scored WHERE correct = ? AND len(states) BETWEEN {least} AND {most} "
        f"AND length(problem) <= {longest} ORDER BY abs(len(states) - 8), id LIMIT 3",
        [right],
    ).fetchall()
    return [(right, tuple(states)) for (states,) in rows]


def _suite_figures(
    connection: duckdb.DuckDBPyConnection, config: RunConfig, outcome: Evaluation
) -> list[tuple[str, str]]:
    """Figures that only a suite has."""
    if outcome.suite in ("grid", "signed", "products"):
        operators = connection.execute("SELECT DISTINCT operators FROM scored ORDER BY 1").fetchall()
        trained_lengths = {operator: trained_digits(config, operator) for (operator,) in operators}
        return [("Exact match by the lengths of both operands", grid_figure(connection, trained_lengths))]
    if outcome.suite in ("edge", "special", "chains"):
        kinds = connection.execute("SELECT DISTINCT kind FROM scored WHERE kind <> '' ORDER BY 1 DESC").fetchall()
        if kinds:
            return [("Exact match by kind and length", edge_figure(connection, [kind for (kind,) in kinds]))]
    return []


def _figures(connection: duckdb.DuckDBPyConnection, outcome: Evaluation) -> list[tuple[str, str]]:
    """Exact match by answer and by every column of the breakdown."""
    figures = []
    # Marks are answers, too, but not numbers.
    is_number = "bool_and(regexp_full_match(answer, '-?[0-9]+'))"
    ((longest, numbers),) = connection.execute(f"SELECT max(length(answer)), {is_number} FROM scored").fetchall()
    if numbers and longest <= _NUMBER_DIGITS:
        figures.append(("Exact match by answer", _by_answer(connection)))
    for column, groups in outcome.breakdown.items():
        if len(groups) <= _MOST_GROUPS or isinstance(groups[0].value, int):
            figures.append((f"Exact match by {_COLUMN_LABELS[column]}", by_group(groups, _COLUMN_LABELS[column])))
    return figures


def learning_curve(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    """Loss and exact match on validation by training step, as SVG."""
    losses = connection.execute(
        "WITH selected AS (SELECT step, loss FROM metrics WHERE run = ?), "
        "size AS (SELECT greatest(1, max(step) // 200) AS bin FROM selected) "
        "SELECT max(step), avg(loss) FROM selected, size GROUP BY (step - 1) // bin ORDER BY 1",
        [run],
    ).fetchall()
    matches = connection.execute(
        "SELECT step, 100 * validation_exact_match FROM metrics "
        "WHERE run = ? AND validation_exact_match IS NOT NULL ORDER BY 1",
        [run],
    ).fetchall()

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*losses, strict=True), color=INK)
        axes.set(xlabel="step", ylabel="loss on masked slots", yscale="log")
        axes.yaxis.label.set_color(INK)
        _right_axis(axes, matches, "exact match on validation, %", (-2, 102))

    return svg(draw, "Loss and exact match against training steps")


def _right_axis(axes: Axes, matches: Sequence[tuple[float, ...]], label: str, limits: tuple[float, float]) -> None:
    """Draw points (x, exact match in percent) on a second axis."""
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    right.plot(*zip(*matches, strict=True), color=SECOND, marker="o", markersize=3)
    right.set_ylabel(label, color=SECOND)
    right.set_ylim(*limits)


def _by_answer(connection: duckdb.DuckDBPyConnection) -> str:
    rows = connection.execute(
        "WITH ends AS (SELECT min(answer::BIGINT) AS low, max(answer::BIGINT) AS high FROM scored), "
        "span AS (SELECT low, greatest(1, (high - low) // 40) AS bin FROM ends) "
        "SELECT low + bin * ((answer::BIGINT - low) // bin) + bin / 2 AS middle, "
        "100 * avg(correct::INT), count(*), any_value(bin) FROM scored, span GROUP BY 1 ORDER BY 1",
    ).fetchall()

    def draw(axes: Axes) -> None:
        axes.bar([r[0] for r in rows], [r[2] for r in rows], width=rows[0][3] * 0.95, color=PALE, label="problems")
        axes.set(xlabel="answer", ylabel="problems")
        matches = [(middle, match) for middle, match, *_ in rows]
        _right_axis(axes, matches, "exact match, %", _range_below_100(match for _, match in matches))

    return svg(draw, "Exact match and number of problems by the answer's size")


def _by_passes(outcome: Evaluation) -> str:
    def draw(axes: Axes) -> None:
        one_pass = next(result for result in outcome.by_passes if result.passes == 1)
        for order, color in (("confidence", INK), ("units-first", SECOND)):
            results = [one_pass, *(r for r in outcome.by_passes if r.order == order and r.passes > 1)]
            matches = [100 * result.exact_match for result in results]
            axes.plot(
                [result.passes for result in results], matches, color=color, marker="o", markersize=3, label=order
            )
        axes.set_xscale("log", base=2)
        axes.set(xlabel="passes of the encoder", ylabel="exact match, %")
        axes.set_ylim(*_range_below_100(100 * r.exact_match for r in outcome.by_passes))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(frameon=False)

    return svg(draw, "Exact match against the number of passes, by the order in which slots are filled")


def _calibration(connection: duckdb.DuckDBPyConnection) -> str:
    rows = connection.execute(
        "SELECT avg(confidence), avg(correct::INT), count(*) FROM scored "
        "GROUP BY least(9, floor(confidence * 10)) ORDER BY 1",
    ).fetchall()

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=PALE, linewidth=1)
        axes.plot([100 * r[0] for r in rows], [100 * r[1] for r in rows], color=INK, marker="o", markersize=4)
        for confidence, right, count in rows:
            axes.annotate(f"{count:,}", (100 * confidence, 100 * right), (0, -12), textcoords="offset points",
                          fontsize=7, ha="center")  # fmt: skip
        axes.set(xlabel="confidence, %", ylabel="correct, %", xlim=(-3, 103), ylim=(-12, 106))

    return svg(draw, "Share of correct answers against the encoder's confidence")


def _range_below_100(percents: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis for these values, with room for markers at 100 %."""
    lowest = min(percents)
    begin = 0.0 if lowest < 90 else (90.0 if lowest < 99 else 99.0)
    return begin, 100 + (100 - begin) / 20

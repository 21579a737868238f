"""SQL views of comparisons of encoders with and without a symbolic unit: their descriptions and columns."""

# The table in a comparison's folder for each view.
COMPARISON_TABLES = {"comparisons": "table.parquet", "comparison_curves": "curves.parquet"}

COMPARISON_VIEWS = {
    "comparisons": "One row per compared run, evaluated corpus and kind of problem.",
    "comparison_curves": "One row per checkpoint of a compared run and kind of problem: its learning curve.",
}

_RUN = {
    "comparison": "Name of the comparison.",
    "run": "Name of the run.",
    "encoder": "Name of its encoder in the comparison.",
    "unit": "Its symbolic unit; none for an encoder without a unit.",
    "seed": "Seed of the training.",
}
_OPERATOR = "Operator of the problems; brackets for problems with several operators."

COMPARISON_MEANINGS = {
    "comparisons": {
        **_RUN,
        "applied": "Whether the unit is on or off during the evaluation; on if there is no unit.",
        "evaluation_corpus": "Name of the evaluated corpus, of which the test split is used.",
        "operator": _OPERATOR,
        "problems": "Number of evaluated problems.",
        "correct": "Number of problems with an exact answer.",
        "exact_match": "Share of problems with an exact answer.",
        "operation_read": "Share of problems whose operation the unit reads correctly, in the last loop.",
        "operands_read": "Share of problems whose two operands the unit reads correctly, in the last loop.",
        "gate": "Mean absolute value of the unit's gate.",
        "validation_exact_match": "Exact match of the checkpoint on validation.",
        "parameters": "Number of parameters of the encoder.",
        "steps": "Number of training steps.",
        "problems_seen": "Number of training problems.",
        "problems_until_goal": "Training problems until exact_match reaches the goal on these problems; NULL if it "
        "never does, for corpora other than the training corpus, and with the unit off.",
        "goal": "Exact match that counts as reached in problems_until_goal.",
        "seconds": "Seconds of training.",
        "rows_per_second": "Training problems per second.",
    },
    "comparison_curves": {
        **_RUN,
        "operator": _OPERATOR,
        "step": "Step of the checkpoint.",
        "problems_seen": "Number of training problems up to this step.",
        "exact_match": "Share of problems with an exact answer.",
    },
}

_TEXTS = {"comparison", "run", "encoder", "unit", "applied", "evaluation_corpus", "operator"}
_NUMBERS = {"seed", "problems", "correct", "parameters", "steps", "step", "problems_seen", "problems_until_goal"}


def _type(column: str) -> str:
    return "VARCHAR" if column in _TEXTS else "BIGINT" if column in _NUMBERS else "DOUBLE"


COMPARISON_COLUMNS = {
    view: {column: _type(column) for column in columns} for view, columns in COMPARISON_MEANINGS.items()
}
"""Column types of each view."""


def comparison_query(view: str, source: str) -> str:
    """The query for the rows of a comparison's table; earlier versions of `comparisons` have the column `asked`."""
    if view != "comparisons":
        return f"SELECT * FROM {source}"
    both = "SELECT NULL::VARCHAR AS evaluation_corpus, NULL::VARCHAR AS asked WHERE false"
    return (
        "SELECT * EXCLUDE (asked) REPLACE (coalesce(evaluation_corpus, asked) AS evaluation_corpus) "
        f"FROM ({both} UNION ALL BY NAME SELECT * FROM {source})"
    )

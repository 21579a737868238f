"""SQL views of comparisons of encoders with and without a symbolic unit: their descriptions and columns."""

# The table in a comparison's folder for each view.
COMPARISON_TABLES = {"comparisons": "table.parquet", "comparison_curves": "curves.parquet"}

COMPARISON_VIEWS = {
    "comparisons": "One row a compared run, corpus that it was asked, and kind of problem.",
    "comparison_curves": "One row a compared run's checkpoint and kind of problem: how it learnt.",
}

_RUN = {
    "comparison": "Name of the comparison.",
    "run": "Name of the run.",
    "encoder": "Name of its encoder in the comparison.",
    "unit": "Its symbolic unit; none has learnt only.",
    "seed": "Its seed.",
}
_OPERATOR = "The problems' only operator, or brackets where they have several."

COMPARISON_MEANINGS = {
    "comparisons": {
        **_RUN,
        "applied": "Whether the unit was on when asked, or off; on where there is none.",
        "asked": "Name of the corpus whose test split was asked.",
        "operator": _OPERATOR,
        "problems": "Problems asked.",
        "correct": "Of them answered exactly.",
        "exact_match": "The share of them.",
        "operation_read": "Share of them whose operation the unit read, in the block's last run.",
        "operands_read": "Share of them both operands of which the unit read.",
        "gate": "Mean size of the unit's gate.",
        "validation_exact_match": "Exact match of the checkpoint on validation.",
        "parameters": "Parameters of the encoder.",
        "steps": "Steps that it was trained.",
        "problems_seen": "Problems that it was trained on.",
        "problems_until_goal": "Problems seen until the goal was reached on such problems; null if it never was.",
        "goal": "That exact match.",
        "seconds": "Seconds that it was trained.",
        "rows_per_second": "Problems a second in training.",
    },
    "comparison_curves": {
        **_RUN,
        "operator": _OPERATOR,
        "step": "Step of the checkpoint.",
        "problems_seen": "Problems seen until then.",
        "exact_match": "Share answered exactly.",
    },
}

_TEXTS = {"comparison", "run", "encoder", "unit", "applied", "asked", "operator"}
_NUMBERS = {"seed", "problems", "correct", "parameters", "steps", "step", "problems_seen", "problems_until_goal"}


def _type(column: str) -> str:
    return "VARCHAR" if column in _TEXTS else "BIGINT" if column in _NUMBERS else "DOUBLE"


COMPARISON_COLUMNS = {
    view: {column: _type(column) for column in columns} for view, columns in COMPARISON_MEANINGS.items()
}
"""Column types of each view."""

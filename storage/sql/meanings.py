"""Descriptions of the SQL catalog's views and columns: their comments and column order."""

from string import ascii_lowercase

from storage.sql.comparison_views import COMPARISON_MEANINGS, COMPARISON_VIEWS
from storage.sql.probe_views import PROBE_MEANINGS, PROBE_VIEWS

VIEWS = {
    "shards": "One row a Parquet file of a corpus, as its manifest lists it.",
    "runs": "One row a training run: what it was asked for.",
    "metrics": "One row a training step; readable while a run goes on.",
    "predictions": "One row a problem that an evaluated encoder was asked.",
    **PROBE_VIEWS,
    **COMPARISON_VIEWS,
}

_PROBLEM = {
    "id": "Number of the row in the corpus's order; the row follows from it and the corpus's specification.",
    "split": "train, validation or test; all orders of the same numbers fall together. Filters skip files.",
    "family": "Kind of problem, such as grid. Filters skip files.",
    "width": "Class of the row's length with one token a character, its upper bound. Filters skip files.",
    "problem": "The problem as text, such as 12+34.",
    "answer": "The exact answer as text.",
}
_MEASURES = {
    "operators": "Operators between the operands, one character a gap, such as +-*.",
    "terms": "Number of operands.",
    "digits": "Digits of the longest operand.",
    "answer_digits": "Digits of the answer, its sign left out.",
    "carries": "Longest run of neighbouring columns that carry or borrow, of a product of two in its column sums; "
    "null for expressions, for more factors, and where products mix with sums.",
    "depth": "Deepest nesting of brackets.",
    "negative": "Whether the answer is below zero.",
    "kind": "Of a listed problem what it is listed for, such as a carry chain; null for all others.",
}
_OPERANDS = {letter: f"Operand {number}, counted from the left." for number, letter in enumerate(ascii_lowercase, 1)}

_CORPUS = {
    **_PROBLEM,
    **_OPERANDS,
    "sum": "The exact answer as a number.",
    "value": "The exact answer as a number.",
    **_MEASURES,
}
_COLUMNS = {
    "shards": {
        "corpus": "Name of the corpus.",
        "path": "Path of the file below the corpus's folder.",
        "split": "Split of all of its rows.",
        "stratum": "Stratum of all of its rows: problems of one kind and class of length.",
        "family": _PROBLEM["family"],
        "width": _PROBLEM["width"],
        "rows": "Number of its rows.",
        "bytes": "Size of the file.",
        "sha256": "Hash of the file's bytes, for the writer that the manifest names.",
        "content": "Hash of the values, the same for any Parquet writer.",
        "problem_length": "Characters of its longest problem.",
        "answer_digits": "Digits of its longest answer.",
    },
    "runs": {
        "run": "Name of the run.",
        "corpus": "Name of the corpus that it learns.",
        "tokenizer": "Name of its tokenizer.",
        "training": "Its training parameters as JSON, such as training->>'steps'.",
    },
    "metrics": {
        "run": "Name of the run.",
        "step": "Step of the optimizer, from 1.",
        "epoch": "Passes so far over the problems that are trained on; a stage of a curriculum counts its own.",
        "problems": "Problems seen so far.",
        "loss": "Mean cross-entropy over the masked tokens, in nats, and that of running sums where they are asked.",
        "learning_rate": "Learning rate of the step.",
        "seconds": "Seconds of training up to this step; the time between a stop and a resume is left out.",
        "data_seconds": "Seconds for which the step waited for data.",
        "problems_per_second": "Problems a second, over the at most ten steps between two looks at the loss; "
        "validation and checkpoints are left out.",
        "share_of_peak": "Share of the device's fastest matrix products that the model's own reach, over the same "
        "steps.",
        "validation_exact_match": "Share of validation problems answered exactly; NULL at steps without validation.",
    },
    "predictions": {
        "run": "Name of the run.",
        "suite": "Suite that the problem was asked for; test for the test split of a corpus, else empty.",
        "checkpoint": "Which checkpoint answered: best or last.",
        "corpus": "Name of the corpus that the problem is from.",
        **_PROBLEM,
        "missing": "What was asked: the answer, or an operand with the answer shown, which then stands as 12+?=30.",
        "decoding": 'How the slots were filled, as JSON such as {"passes": 7}; empty in the ordinary way.',
        "prediction": "The encoder's answer as text.",
        "correct": "Whether the encoder's answer is the exact one.",
        "confidence": "The encoder's probability of its own answer.",
        "canonical": "Hash of the problem's canonical form, the same for all orders of the same numbers.",
        **_MEASURES,
    },
    **PROBE_MEANINGS,
    **COMPARISON_MEANINGS,
}


def view_comment(view: str) -> str:
    """The comment of `view`; a view that is not listed is a corpus."""
    return VIEWS.get(view, "One row a problem of the corpus; filters on split, family and width skip whole files.")


def column_comment(view: str, column: str) -> str | None:
    """The comment of a column of `view`; None if it has no description."""
    return _columns(view).get(column)


def in_order(view: str, columns: list[str]) -> list[str]:
    """The columns of `view` in the order of their descriptions, followed by columns without one."""
    known = {name: position for position, name in enumerate(_columns(view))}
    return sorted(columns, key=lambda name: known.get(name, len(known)))


def _columns(view: str) -> dict[str, str]:
    return _COLUMNS.get(view, _CORPUS)

"""Descriptions of the SQL catalog's views and columns: their comments and column order."""

from string import ascii_lowercase

from storage.sql.comparison_views import COMPARISON_MEANINGS, COMPARISON_VIEWS
from storage.sql.probe_views import PROBE_MEANINGS, PROBE_VIEWS

VIEWS = {
    "shards": "One row per Parquet file of a corpus, as listed in its manifest.",
    "runs": "One row per training run: its parameters.",
    "metrics": "One row per training step; readable during a run.",
    "predictions": "One row per evaluated problem: the encoder's answer.",
    **PROBE_VIEWS,
    **COMPARISON_VIEWS,
}

_PROBLEM = {
    "id": "Index of the row in the corpus's order. The id and the corpus's specification determine the row.",
    "split": "train, validation or test; all orders of the same numbers are in one split. Filters skip files.",
    "family": "Problem family, such as grid. Filters skip files.",
    "width": "Upper bound of the problem's length in characters, a power of two from 16. Filters skip files.",
    "problem": "The problem as text, such as 12+34.",
    "answer": "The exact answer as text.",
}
_MEASURES = {
    "operators": "Operators between the operands, one character each, such as +-*.",
    "terms": "Number of operands.",
    "digits": "Number of digits of the longest operand.",
    "answer_digits": "Number of digits of the answer, without its sign.",
    "carries": "Longest run of adjacent columns that carry or borrow; for a product of two factors, of its column "
    "sums. NULL for expressions, for more than two factors, and for mixtures of products and sums.",
    "depth": "Nesting depth of brackets.",
    "negative": "Whether the answer is negative.",
    "kind": "For a listed problem, what it tests, such as carry chain; NULL for other problems.",
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
        "path": "Path of the file, relative to the corpus's folder.",
        "split": "Split of all of its rows.",
        "stratum": "Family and width of all of its rows, such as grid-16.",
        "family": _PROBLEM["family"],
        "width": _PROBLEM["width"],
        "rows": "Number of its rows.",
        "bytes": "Size of the file.",
        "sha256": "Hash of the file's bytes, reproducible only with the writer named in the manifest.",
        "content": "Hash of the values, independent of the Parquet writer.",
        "problem_length": "Length of its longest problem in characters.",
        "answer_digits": "Number of digits of its longest answer.",
    },
    "runs": {
        "run": "Name of the run.",
        "corpus": "Name of its training corpus.",
        "tokenizer": "Name of its tokenizer.",
        "training": "Its training parameters as JSON; read one with training->>'steps'.",
    },
    "metrics": {
        "run": "Name of the run.",
        "step": "Optimizer step, from 1.",
        "epoch": "Passes so far over the training problems; each stage of a curriculum counts from 0.",
        "problems": "Number of training problems so far.",
        "loss": "Mean cross-entropy over the masked tokens, in nats; plus the weighted loss of running sums, if "
        "enabled.",
        "learning_rate": "Learning rate of the step.",
        "seconds": "Seconds of training up to this step, without the time between a stop and a resume.",
        "data_seconds": "Seconds that this step waited for data.",
        "problems_per_second": "Training problems per second, measured over at most ten steps, without validation and "
        "checkpoints.",
        "share_of_peak": "Share of the device's peak FLOP/s that the model's matrix products reach, over the same "
        "steps.",
        "validation_exact_match": "Share of validation problems with an exact answer; NULL at steps without "
        "validation.",
    },
    "predictions": {
        "run": "Name of the run.",
        "suite": "Name of the suite; test for the test split of a corpus, empty for other splits.",
        "checkpoint": "Evaluated checkpoint: best or last.",
        "corpus": "Name of the problem's corpus.",
        **_PROBLEM,
        "missing": "Masked part of the problem: answer, or operand; problem is then a text such as 12+?=30.",
        "decoding": 'Decoding settings that differ from the defaults, as JSON such as {"passes": 7}; empty if none '
        "differ.",
        "prediction": "The encoder's answer as text.",
        "correct": "Whether the encoder's answer is exact.",
        "confidence": "Probability that the encoder assigns to its answer.",
        "canonical": "Hash of the problem's canonical form, equal for all orders of the same numbers.",
        **_MEASURES,
    },
    **PROBE_MEANINGS,
    **COMPARISON_MEANINGS,
}


def view_comment(view: str) -> str:
    """The comment of `view`; a view that is not listed is a corpus."""
    return VIEWS.get(view, "One row per problem of the corpus; filters on split, family and width skip whole files.")


def column_comment(view: str, column: str) -> str | None:
    """The comment of a column of `view`; None if it has no description."""
    return _columns(view).get(column)


def in_order(view: str, columns: list[str]) -> list[str]:
    """The columns of `view` in the order of their descriptions, followed by columns without one."""
    known = {name: position for position, name in enumerate(_columns(view))}
    return sorted(columns, key=lambda name: known.get(name, len(known)))


def _columns(view: str) -> dict[str, str]:
    return _COLUMNS.get(view, _CORPUS)

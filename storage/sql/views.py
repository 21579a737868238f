"""The views of the SQL catalog: their files, comments and columns in order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase


@dataclass(frozen=True)
class View:
    """A SQL view."""

    comment: str
    columns: Mapping[str, str]
    """SQL type and comment of each column, such as `BIGINT: Number of rows.`; a file can have a narrower type."""
    files: str = ""
    """Pattern of its Parquet files in a workspace, such as `runs/*/metrics/*.parquet`; empty for other sources."""
    former_names: Mapping[str, str] = field(default_factory=dict)
    """Name that earlier versions gave to a column in these files, by today's name."""

    @property
    def types(self) -> dict[str, str]:
        """SQL type of each column."""
        return {name: text.partition(": ")[0] for name, text in self.columns.items()}

    def column_comment(self, column: str) -> str:
        """The comment of a column; empty if it has no description."""
        return self.columns.get(column, "").partition(": ")[2]

    def in_order(self, columns: Iterable[str]) -> list[str]:
        """`columns` in the order of their descriptions, followed by columns without one."""
        positions = {name: position for position, name in enumerate(self.columns)}
        return sorted(columns, key=lambda name: positions.get(name, len(positions)))


_PROBLEM = {
    "id": "BIGINT: Index of the row in the corpus's order. The id and the corpus's specification determine the row.",
    "split": "VARCHAR: train, validation or test; all orders of the same numbers are in one split. Filters skip files.",
    "family": "VARCHAR: Problem family, such as grid. Filters skip files.",
    "width": "BIGINT: Upper bound of the problem's length in characters, a power of two from 16. Filters skip files.",
    "problem": "VARCHAR: The problem as text, such as 12+34.",
    "answer": "VARCHAR: The exact answer as text. For family marks, one mark per character of the problem: ^ if it is "
    "part of an operation that can be carried out now, otherwise a dot.",
}
_MEASURES = {
    "operators": "VARCHAR: Operators between the operands, one character each, such as +-*.",
    "terms": "INTEGER: Number of operands.",
    "digits": "INTEGER: Number of digits of the longest operand.",
    "answer_digits": "INTEGER: Number of digits of the answer, without its sign; for family marks, number of marks.",
    "carries": "INTEGER: Longest run of adjacent columns that carry or borrow; for a product of two factors, of its "
    "column sums, and for a step, of its column totals. NULL for expressions, for more than two factors, and for "
    "mixtures of products and sums.",
    "depth": "INTEGER: Nesting depth of brackets.",
    "negative": "BOOLEAN: Whether the answer is negative.",
    "kind": "VARCHAR: For a listed problem, what it tests, such as carry chain; NULL for other problems.",
}
_STEP = {
    "consumed": "VARCHAR: For a step of a product, such as 345*2:2070: the digits of the second factor that are "
    "consumed, if the register is a multiple of the first factor's magnitude; otherwise empty, as for a sum.",
    "draw": "VARCHAR: How a step is drawn: plain; edge (operands with few kinds of digits); tie (a window of columns "
    "that pass a carry or borrow on); for products also trajectory (a state of a real product), dense (large digits) "
    "and random; literal for a single number in a bracket or after two minuses.",
    "done": "BOOLEAN: Whether the step completes its operation; true for a sum or difference.",
    "column_total": "INTEGER: Largest column total of a step, without carries: digits of a sum; absolute difference of "
    "digits if the magnitudes are subtracted; for a product, units of the products of digits in this column, tens of "
    "those in the next lower one, and digit of the register.",
    "largest_carry": "INTEGER: Largest carry, or 1 for a borrow; a product's is at most twice digits_per_step.",
    "carry_bound": "INTEGER: Number of column moves after which all digits are certain. Every move tightens the bounds "
    "on the carry into each column, from 0 to the largest possible one. If the magnitudes are subtracted, the "
    "comparison moves from the units to the longest operand's first digit, and all digits need its result.",
}
_CHECKPOINT = {
    "run": "VARCHAR: Name of the run.",
    "checkpoint": "VARCHAR: Probed checkpoint: best or last.",
    "step": "BIGINT: Step of the checkpoint.",
}
_STATE = {
    "loop": "BIGINT: Loop of the state, from 1; 0 means the embeddings (with layer 0) or all loops together (with "
    "another layer).",
    "layer": "BIGINT: Layer whose output is the state, from 1; 0 means the embeddings.",
}
_SYMBOLS = {
    "kind": "VARCHAR: Vectors of the symbols: embedding, or mean states at operand or answer tokens.",
    "symbols": "VARCHAR: Set of symbols: digits, numbers (0 to 99, one token each) or tokens (digits and signs).",
    **_STATE,
    "control": "VARCHAR: trained, or a control: untrained (same architecture) or random (Gaussian vectors).",
}
_COMPARED = {
    "comparison": "VARCHAR: Name of the comparison.",
    "run": "VARCHAR: Name of the run.",
    "encoder": "VARCHAR: Name of its encoder in the comparison.",
    "unit": "VARCHAR: Its symbolic unit; none for an encoder without a unit.",
    "seed": "BIGINT: Seed of the training.",
}

CORPUS_VIEW = View(
    "One row per problem of the corpus; filters on split, family and width skip whole files.",
    {
        **_PROBLEM,
        **{name: f"BIGINT: Operand {number}, counted from the left." for number, name in enumerate(ascii_lowercase, 1)},
        "sum": "BIGINT: The exact answer as a number.",
        "value": "BIGINT: The exact answer as a number; for family marks, the expression's exact value as VARCHAR.",
        **_MEASURES,
        **_STEP,
        "marked": "INTEGER: Number of operations that can be carried out now.",
        "signs": "INTEGER: Number of unary minuses in the problem.",
        "finished": "BOOLEAN: Whether the problem is a single literal, in which no operation is left.",
    },
)

VIEWS = {
    "shards": View(
        "One row per Parquet file of a corpus, as listed in its manifest.",
        {
            "corpus": "VARCHAR: Name of the corpus.",
            "path": "VARCHAR: Path of the file, relative to the corpus's folder.",
            "split": "VARCHAR: Split of all of its rows.",
            "stratum": "VARCHAR: Family and width of all of its rows, such as grid-16.",
            "family": _PROBLEM["family"],
            "width": _PROBLEM["width"],
            "rows": "BIGINT: Number of its rows.",
            "bytes": "BIGINT: Size of the file.",
            "sha256": "VARCHAR: Hash of the file's bytes, reproducible only with the writer named in the manifest.",
            "content": "VARCHAR: Hash of the values, independent of the Parquet writer.",
            "problem_length": "INTEGER: Length of its longest problem in characters.",
            "answer_digits": "INTEGER: Number of digits of its longest answer.",
        },
    ),
    "runs": View(
        "One row per training run: its parameters.",
        {
            "run": "VARCHAR: Name of the run.",
            "corpus": "VARCHAR: Name of its training corpus.",
            "tokenizer": "VARCHAR: Name of its tokenizer.",
            "training": "JSON: Its training parameters as JSON; read one with training->>'steps'.",
        },
    ),
    "metrics": View(
        "One row per training step; readable during a run.",
        {
            "run": "VARCHAR: Name of the run.",
            "step": "BIGINT: Optimizer step, from 1.",
            "epoch": "DOUBLE: Passes so far over the training problems; each stage of a curriculum counts from 0.",
            "problems": "BIGINT: Number of training problems so far.",
            "loss": "DOUBLE: Mean cross-entropy over the masked tokens, in nats; plus the weighted loss of running "
            "sums, if enabled.",
            "learning_rate": "DOUBLE: Learning rate of the step.",
            "seconds": "DOUBLE: Seconds of training up to this step, without the time between a stop and a resume.",
            "data_seconds": "DOUBLE: Seconds that this step waited for data.",
            "problems_per_second": "DOUBLE: Training problems per second, measured over at most ten steps, without "
            "validation and checkpoints.",
            "share_of_peak": "DOUBLE: Share of the device's peak FLOP/s that the model's matrix products reach, over "
            "the same steps.",
            "validation_exact_match": "DOUBLE: Share of validation problems with an exact answer; NULL at steps "
            "without validation.",
        },
        "runs/*/metrics/*.parquet",
    ),
    "validation_errors": View(
        "One row per validation during training, difficulty and value: how many problems are wrong.",
        {
            "run": "VARCHAR: Name of the run.",
            "step": "BIGINT: Optimizer step of the validation.",
            "difficulty": "VARCHAR: What makes problems hard, such as column_total: a column of the corpus.",
            "value": "BIGINT: Its value; 127 also counts larger ones.",
            "problems": "BIGINT: Number of validation problems with this value.",
            "wrong": "BIGINT: Number of them that the encoder answers wrongly.",
        },
        "runs/*/validation/*.parquet",
    ),
    "predictions": View(
        "One row per evaluated problem: the encoder's answer.",
        {
            "run": "VARCHAR: Name of the run.",
            "suite": "VARCHAR: Name of the suite; test for the test split of a corpus, empty for other splits.",
            "checkpoint": "VARCHAR: Evaluated checkpoint: best or last.",
            "corpus": "VARCHAR: Name of the problem's corpus.",
            **_PROBLEM,
            "missing": "VARCHAR: Masked part of the problem: answer, or operand; problem is then a text such as "
            "12+?=30.",
            "decoding": 'VARCHAR: Decoding settings that differ from the defaults, as JSON such as {"passes": 7}; '
            "empty if none differ.",
            "prediction": "VARCHAR: The encoder's answer as text.",
            "correct": "BOOLEAN: Whether the encoder's answer is exact.",
            "confidence": "FLOAT: Probability that the encoder assigns to its answer.",
            "canonical": "UBIGINT: Hash of the problem's canonical form, equal for all orders of the same numbers.",
            "states": "VARCHAR[]: The problem and every state until the answer, if the encoder rewrites.",
            "passes": "INTEGER: Number of states after the problem, if the encoder rewrites.",
            **_MEASURES,
            **{name: _STEP[name] for name in ("draw", "column_total", "largest_carry", "carry_bound")},
        },
        "runs/*/predictions/*.parquet",
    ),
    "steps": View(
        "One row per operation that an encoder carried out in a rewriting of an evaluated problem.",
        {
            "run": "VARCHAR: Name of the run.",
            "suite": "VARCHAR: Name of the suite; test for the test split of a corpus, empty for other splits.",
            "checkpoint": "VARCHAR: Evaluated checkpoint: best or last.",
            "corpus": "VARCHAR: Name of the problem's corpus.",
            "split": "VARCHAR: Split of the problem.",
            "decoding": "VARCHAR: Decoding settings as in predictions; NULL for evaluations of earlier versions.",
            "id": "BIGINT: Number of the problem in its corpus; joins with predictions.",
            "step": "INTEGER: Number of the step in the problem, from 1.",
            "pass": "INTEGER: Number of the state, from 1; all operations of a state are carried out at once.",
            "state": "VARCHAR: The expression before the step.",
            "span": "VARCHAR: The operation that the encoder marked.",
            "result": "VARCHAR: What the encoder filled in for it.",
            "right": "BOOLEAN: Whether the expression keeps its value.",
            "confidence": "FLOAT: Product of the probabilities of all outputs of the step.",
        },
        "runs/*/steps/*.parquet",
    ),
    "probes": View(
        "One row per probe: how well a label can be decoded from a state, as Cohen's kappa.",
        {
            **_CHECKPOINT,
            "position": "VARCHAR: Kind of token: operand, operator or answer; for an encoder that rewrites, slot.",
            "label": "VARCHAR: Decoded label: digit; parity, mod 5 and mod 10 of the whole number or answer (not at "
            "its units token, whose digit contains them) and its magnitude; operator; carry in, carry out, column sum, "
            "running sum (with the carry); sign; depth. Of a slot also the consumed digit of a product's step, and the "
            "comparison of all lower digits.",
            **_STATE,
            "split": "VARCHAR: What is held out for the test: numbers, lengths (longer numbers), or columns "
            "(combinations of digits in held-out problems).",
            "probe": "VARCHAR: linear or circular.",
            "control": "VARCHAR: trained, or a control: untrained (same architecture) or random (a random label for "
            "each type of token, arXiv 1909.03368; kappa minus this kappa is the selectivity).",
            "kappa": "DOUBLE: Cohen's kappa: 1 if all labels are decoded, 0 at chance level.",
            "low": "DOUBLE: Lower end of the 95 % interval over resampled numbers and problems; for random labels, the "
            "smallest draw.",
            "high": "DOUBLE: Upper end of the interval; for random labels, the largest draw.",
            "classes": "BIGINT: Number of different labels in training.",
            "examples": "BIGINT: Number of tested tokens.",
            "problems": "BIGINT: Number of problems that contain these tokens.",
            "numbers": "BIGINT: Number of different operands with two or more digits in these problems.",
        },
        "runs/*/probes/probes.*.parquet",
    ),
    "probe_geometry": View(
        "One row per fit of digits or numbers, and per frequency of their spectrum.",
        {
            **_CHECKPOINT,
            **_SYMBOLS,
            "measure": "VARCHAR: Fit: line, circle with a period, helix (line and circles); or a frequency of the "
            "spectrum over the index.",
            "value": "DOUBLE: Explained share of the variance.",
            "shuffled": "DOUBLE: Mean share over shuffled orders of the symbols.",
            "shuffled_high": "DOUBLE: 95 % quantile of the share over shuffled orders.",
            "chance": "DOUBLE: Share of shuffled orders that reach the value. For controls, the figures are means over "
            "their draws.",
        },
        "runs/*/probes/geometry.*.parquet",
    ),
    "probe_similarity": View(
        "One row per pair of symbols: cosine of their vectors after subtracting the mean vector.",
        {
            **_CHECKPOINT,
            **_SYMBOLS,
            "symbol": "VARCHAR: The first symbol.",
            "other": "VARCHAR: The second symbol; may be the same.",
            "cosine": "DOUBLE: Cosine of their vectors.",
        },
        "runs/*/probes/similarity.*.parquet",
    ),
    "probe_coordinates": View(
        "One row per symbol: its coordinates on the first three principal components.",
        {
            **_CHECKPOINT,
            **_SYMBOLS,
            "symbol": "VARCHAR: The symbol.",
            **{axis: f"DOUBLE: Coordinate on principal component {number}." for number, axis in enumerate("xyz", 1)},
            **{f"{axis}_share": "DOUBLE: Share of the variance along this component." for axis in "xyz"},
        },
        "runs/*/probes/coordinates.*.parquet",
    ),
    "probe_attention": View(
        "One row per head and group of tokens: mean attention from slots of answer digits or of an operation.",
        {
            **_CHECKPOINT,
            **_STATE,
            "head": "BIGINT: Head, from 0.",
            "reads": "VARCHAR: Grouping of the attended tokens: role, or place (difference of place values). For an "
            "encoder that rewrites, who reads: hub, slot, or unit (a plus of an expression).",
            "role": "VARCHAR: Role of the tokens for the answer's digit, such as same column; of a unit: what follows.",
            "difference": "BIGINT: Place value of the operands' digits minus that of the answer's digit, clipped to -3 "
            "… 3; for a unit, the distance of the unit that it reads.",
            "weight": "DOUBLE: Total attention to these tokens, averaged over answer digits.",
            "even": "DOUBLE: The weight under uniform attention to all tokens except padding.",
        },
        "runs/*/probes/attention.*.parquet",
    ),
    "probe_unit": View(
        "One row per measure of a symbolic unit: its readings, the size of its output, the answers without it.",
        {
            **_CHECKPOINT,
            "control": "VARCHAR: trained, or the control untrained (same architecture), which shows what the unit "
            "reads without training.",
            "measure": "VARCHAR: operation read, operands read: share of problems read correctly. written: size of the "
            "unit's output relative to the slots' states. answered: share answered correctly in one pass. answered "
            "without: the same without the unit. answered as another: share answered like another problem with as many "
            "answer digits, whose result the unit receives. gate: mean absolute value of the gate.",
            "loop": "BIGINT: Loop of the block, from 1; 0 means the last loop of each problem, or the whole encoder.",
            "operator": "VARCHAR: Operator of the problems; several for problems with more than one; all for the gate.",
            "problems": "BIGINT: Number of evaluated problems.",
            "value": "DOUBLE: Share of the problems; for written and gate, the mean.",
            "low": "DOUBLE: Lower end of the 95 % interval over problems; for written, their 2.5 % quantile; for gate, "
            "the value.",
            "high": "DOUBLE: Upper end of it.",
        },
        "runs/*/probes/unit.*.parquet",
    ),
    "probe_interventions": View(
        "One row per edit of states: how often the answer changes as predicted, or otherwise.",
        {
            **_CHECKPOINT,
            "experiment": "VARCHAR: digit (shifted modulo 10), carry (patched from another problem) or head (ablated). "
            "For an encoder that rewrites: consumed digit, carry between places, and precedence (the next operator).",
            **_STATE,
            "site": "VARCHAR: Edited tokens, or the ablated head.",
            "way": "VARCHAR: Kind of edit: digit, circles (periods 10 and 5), circle (period 10), carry, ablated. "
            "Controls: rest (all but the circle of period 10), rest as far (scaled to the length of circle), random (a "
            "direction in the span of the digits with that length; for heads, a subspace), and same carry, digit or "
            "operator.",
            "shift": "BIGINT: Shift of the digit modulo 10; 0 for all shifts together and for other experiments.",
            "problems": "BIGINT: Number of edited problems; all are answered correctly without the edit (unchecked for "
            "an encoder that rewrites).",
            "predicted": "DOUBLE: Share of problems with the answer that the edit predicts; for heads, with an "
            "unchanged answer.",
            "low": "DOUBLE: Lower end of its 95 % interval.",
            "high": "DOUBLE: Upper end of it.",
            "unchanged": "DOUBLE: Share of problems with an unchanged answer.",
            "other": "DOUBLE: Share of problems with any other answer.",
            "spilt": "DOUBLE: Share of slots that changed although the edit should not change them; for heads, of all "
            "slots.",
            "copied": "DOUBLE: For carries: share of problems whose slot has the source problem's digit; NULL "
            "otherwise.",
        },
        "runs/*/probes/interventions.*.parquet",
    ),
    "probe_series": View(
        "One row per checkpoint and measure.",
        {
            "run": "VARCHAR: Name of the run.",
            "step": "BIGINT: Step of the checkpoint.",
            "exact_match": "DOUBLE: Exact match of the checkpoint on validation.",
            "measure": "VARCHAR: Fit of the embeddings (digits or numbers); kappa: the best over states, of a label at "
            "a kind of token; read: largest attention of any head to a role; moved, patched: share of answers that "
            "change as the edit predicts; ablated: share of unchanged answers without a head, averaged over the heads.",
            "value": "DOUBLE: Value of the measure.",
            "control": "DOUBLE: Value of the control: 95 % quantile over shuffles (fits), untrained weights (kappa, "
            "read), the larger of rest as far and random (moved), same carry (patched), a random subspace (ablated); "
            "NULL if there is none.",
            "sha256": "VARCHAR: Hash of the checkpoint.",
            "problems": "BIGINT: Number of training problems of the probes; a run that is probed again with another "
            "number has rows for both.",
        },
        "runs/*/probes/series.parquet",
    ),
    "comparisons": View(
        "One row per compared run, evaluated corpus and kind of problem.",
        {
            **_COMPARED,
            "applied": "VARCHAR: Whether the unit is on or off during the evaluation; on if there is no unit.",
            "evaluation_corpus": "VARCHAR: Name of the evaluated corpus, of which the test split is used.",
            "operator": "VARCHAR: Operator of the problems; brackets for problems with several operators.",
            "problems": "BIGINT: Number of evaluated problems.",
            "correct": "BIGINT: Number of problems with an exact answer.",
            "exact_match": "DOUBLE: Share of problems with an exact answer.",
            "operation_read": "DOUBLE: Share of problems whose operation the unit reads correctly, in the last loop.",
            "operands_read": "DOUBLE: Share of problems whose two operands the unit reads correctly, in the last loop.",
            "gate": "DOUBLE: Mean absolute value of the unit's gate.",
            "validation_exact_match": "DOUBLE: Exact match of the checkpoint on validation.",
            "parameters": "BIGINT: Number of parameters of the encoder.",
            "steps": "BIGINT: Number of training steps.",
            "problems_seen": "BIGINT: Number of training problems.",
            "problems_until_goal": "BIGINT: Training problems until exact_match reaches the goal on these problems; "
            "NULL if it never does, for corpora other than the training corpus, and with the unit off.",
            "goal": "DOUBLE: Exact match that counts as reached in problems_until_goal.",
            "seconds": "DOUBLE: Seconds of training.",
            "rows_per_second": "DOUBLE: Training problems per second.",
        },
        "comparisons/*/table.parquet",
        former_names={"evaluation_corpus": "asked"},
    ),
    "comparison_curves": View(
        "One row per checkpoint of a compared run and kind of problem: its learning curve.",
        {
            **_COMPARED,
            "operator": "VARCHAR: Operator of the problems; brackets for problems with several operators.",
            "step": "BIGINT: Step of the checkpoint.",
            "problems_seen": "BIGINT: Number of training problems up to this step.",
            "exact_match": "DOUBLE: Share of problems with an exact answer.",
        },
        "comparisons/*/curves.parquet",
    ),
}

"""SQL views of probe results: their files, columns and descriptions."""

# The table in a run's folder probes/ for each view.
PROBE_TABLES = {
    "probes": "probes",
    "probe_geometry": "geometry",
    "probe_similarity": "similarity",
    "probe_coordinates": "coordinates",
    "probe_attention": "attention",
    "probe_unit": "unit",
    "probe_interventions": "interventions",
    "probe_series": "series",
}

PROBE_VIEWS = {
    "probes": "One row per probe: how well a label can be decoded from a state, as Cohen's kappa.",
    "probe_geometry": "One row per fit of digits or numbers, and per frequency of their spectrum.",
    "probe_similarity": "One row per pair of symbols: cosine of their vectors after subtracting the mean vector.",
    "probe_coordinates": "One row per symbol: its coordinates on the first three principal components.",
    "probe_attention": "One row per head and group of tokens: mean attention from the slots of answer digits.",
    "probe_unit": "One row per measure of a symbolic unit: its readings, the size of its output, the answers without "
    "it.",
    "probe_interventions": "One row per edit of states: how often the answer changes as predicted, or otherwise.",
    "probe_series": "One row per checkpoint and measure.",
}

_HEAD = {"run": "Name of the run.", "checkpoint": "Probed checkpoint: best or last."}
_STEP = {"step": "Step of the checkpoint."}
_STATE = {
    "loop": "Loop of the state, from 1; 0 means the embeddings (with layer 0) or all loops together (with another "
    "layer).",
    "layer": "Layer whose output is the state, from 1; 0 means the embeddings.",
}
_TABLE = {
    "kind": "Vectors of the symbols: embedding, or mean states at operand or answer tokens.",
    "symbols": "Set of symbols: digits, numbers (0 to 99, one token each) or tokens (digits and signs).",
    **_STATE,
    "control": "trained, or a control: untrained (same architecture) or random (Gaussian vectors).",
}

PROBE_MEANINGS = {
    "probes": {
        **_HEAD,
        **_STEP,
        "position": "Kind of token: operand, operator or answer.",
        "label": "Decoded label: digit; parity, mod 5 and mod 10 of the whole number or answer (not at its units "
        "token, whose digit contains them) and its magnitude; operator; carry in, carry out, column sum, running sum "
        "(with the carry); sign; depth.",
        **_STATE,
        "split": "What is held out for the test: numbers, lengths (longer numbers), or columns (combinations of digits "
        "in held-out problems).",
        "probe": "linear or circular.",
        "control": "trained, or a control: untrained (same architecture) or random (a random label for each type of "
        "token, arXiv 1909.03368; kappa minus this kappa is the selectivity).",
        "kappa": "Cohen's kappa: 1 if all labels are decoded, 0 at chance level.",
        "low": "Lower end of the 95 % interval over resampled numbers and problems; for random labels, the smallest "
        "draw.",
        "high": "Upper end of the interval; for random labels, the largest draw.",
        "classes": "Number of different labels in training.",
        "examples": "Number of tested tokens.",
        "problems": "Number of problems that contain these tokens.",
        "numbers": "Number of different operands with two or more digits in these problems.",
    },
    "probe_geometry": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "measure": "Fit: line, circle with a period, helix (line and circles); or a frequency of the spectrum over the "
        "index.",
        "value": "Explained share of the variance.",
        "shuffled": "Mean share over shuffled orders of the symbols.",
        "shuffled_high": "95 % quantile of the share over shuffled orders.",
        "chance": "Share of shuffled orders that reach the value. For controls, the figures are means over their "
        "draws.",
    },
    "probe_similarity": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "symbol": "The first symbol.",
        "other": "The second symbol; may be the same.",
        "cosine": "Cosine of their vectors.",
    },
    "probe_coordinates": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "symbol": "The symbol.",
        **{axis: f"Coordinate on principal component {number}." for number, axis in enumerate("xyz", 1)},
        **{f"{axis}_share": "Share of the variance along this component." for axis in "xyz"},
    },
    "probe_attention": {
        **_HEAD,
        **_STEP,
        **_STATE,
        "head": "Head, from 0.",
        "reads": "Grouping of the attended tokens: role, or place (difference of place values).",
        "role": "Role of the tokens for the answer's digit, such as same column.",
        "difference": "Place value of the operands' digits minus that of the answer's digit, clipped to -3 … 3.",
        "weight": "Total attention to these tokens, averaged over answer digits.",
        "even": "The weight under uniform attention to all tokens except padding.",
    },
    "probe_unit": {
        **_HEAD,
        **_STEP,
        "control": "trained, or the control untrained (same architecture), which shows what the unit reads without "
        "training.",
        "measure": "operation read, operands read: share of problems read correctly. written: size of the unit's "
        "output relative to the slots' states. answered: share answered correctly in one pass. answered without: the "
        "same without the unit. answered as another: share answered like another problem with as many answer digits, "
        "whose result the unit receives. gate: mean absolute value of the gate.",
        "loop": "Loop of the block, from 1; 0 means the last loop of each problem, or the whole encoder.",
        "operator": "Operator of the problems; several for problems with more than one; all for the gate.",
        "problems": "Number of evaluated problems.",
        "value": "Share of the problems; for written and gate, the mean.",
        "low": "Lower end of the 95 % interval over problems; for written, their 2.5 % quantile; for gate, the value.",
        "high": "Upper end of it.",
    },
    "probe_interventions": {
        **_HEAD,
        **_STEP,
        "experiment": "digit (shifted modulo 10), carry (patched from another problem) or head (ablated).",
        **_STATE,
        "site": "Edited tokens, or the ablated head.",
        "way": "Kind of edit: digit, circles (periods 10 and 5), circle (period 10), carry, ablated. Controls: rest "
        "(all but the circle of period 10), rest as far (scaled to the length of circle), random (a direction in the "
        "span of the digits with that length; for heads, a subspace) and same carry.",
        "shift": "Shift of the digit modulo 10; 0 for all shifts together and for other experiments.",
        "problems": "Number of edited problems; all are answered correctly without the edit.",
        "predicted": "Share of problems with the answer that the edit predicts; for heads, with an unchanged answer.",
        "low": "Lower end of its 95 % interval.",
        "high": "Upper end of it.",
        "unchanged": "Share of problems with an unchanged answer.",
        "other": "Share of problems with any other answer.",
        "spilt": "Share of slots that changed although the edit should not change them; for heads, of all slots.",
        "copied": "For carries: share of problems whose slot has the source problem's digit; NULL otherwise.",
    },
    "probe_series": {
        "run": "Name of the run.",
        "step": "Step of the checkpoint.",
        "exact_match": "Exact match of the checkpoint on validation.",
        "measure": "Fit of the embeddings (digits or numbers); kappa: the best over states, of a label at a kind of "
        "token; read: largest attention of any head to a role; moved, patched: share of answers that change as the "
        "edit predicts; ablated: share of unchanged answers without a head, averaged over the heads.",
        "value": "Value of the measure.",
        "control": "Value of the control: 95 % quantile over shuffles (fits), untrained weights (kappa, read), the "
        "larger of rest as far and random (moved), same carry (patched), a random subspace (ablated); NULL if there is "
        "none.",
        "sha256": "Hash of the checkpoint.",
        "problems": "Number of training problems of the probes; a run that is probed again with another number has "
        "rows for both.",
    },
}

_TEXTS = {"run", "checkpoint", "position", "label", "split", "probe", "control", "kind", "symbols", "measure", "symbol"}
_TEXTS |= {"other", "reads", "role", "experiment", "site", "way", "sha256", "operator"}
_NUMBERS = {"step", "loop", "layer", "classes", "examples", "problems", "numbers", "head", "difference", "shift"}


def _type(view: str, column: str) -> str:
    if (view, column) in (("probe_interventions", "other"), ("probe_series", "control")):
        return "DOUBLE"
    return "VARCHAR" if column in _TEXTS else "BIGINT" if column in _NUMBERS else "DOUBLE"


PROBE_COLUMNS = {view: {column: _type(view, column) for column in columns} for view, columns in PROBE_MEANINGS.items()}
"""Column types of each view."""

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
    "probes": "One row a probe: what a label can be told by from a state, in Cohen's kappa.",
    "probe_geometry": "One row a fit of digits or numbers, or a frequency of their spectrum.",
    "probe_similarity": "One row a pair of symbols: the cosine of their vectors about the mean of all.",
    "probe_coordinates": "One row a symbol: where it stands on the first principal components.",
    "probe_attention": "One row a head and what it reads for the digits of answers.",
    "probe_unit": "One row a measure of a symbolic unit: what it reads, how much it writes, what is answered without.",
    "probe_interventions": "One row an edit of states: how often the answer changed as predicted, and otherwise.",
    "probe_series": "One row a checkpoint and measure.",
}

_HEAD = {"run": "Name of the run.", "checkpoint": "Which checkpoint was looked into: best or last."}
_STEP = {"step": "Step of the checkpoint."}
_STATE = {
    "loop": "Run of the block after which the state stands, from 1; 0 with layer 0 are the embeddings, and with "
    "another layer all loops together.",
    "layer": "Layer after which the state stands, from 1; 0 are the embeddings.",
}
_TABLE = {
    "kind": "Whose vectors: embedding, or the mean states of digits at operand or answer tokens.",
    "symbols": "Which: digits, numbers (0 to 99, a token each) or tokens (digits and signs).",
    **_STATE,
    "control": "trained, or to compare: untrained (the same shape) or random (Gaussian vectors).",
}

PROBE_MEANINGS = {
    "probes": {
        **_HEAD,
        **_STEP,
        "position": "Kind of token: operand, operator or answer.",
        "label": "What is told: digit, parity, mod 5, mod 10 and magnitude (of the whole number or answer; the first "
        "three not at its units, where they are the digit's own), operator, carry in, carry out, column sum, running "
        "sum (with the carry), sign, depth.",
        **_STATE,
        "split": "What the probe never saw: numbers; lengths; or columns, both numbers and digits that add up.",
        "probe": "linear or circular.",
        "control": "trained, or to compare: untrained (the same shape) or random (each type of token has a label at "
        "random, as arXiv 1909.03368 does it; kappa less this one is the selectivity).",
        "kappa": "Cohen's kappa: 1 where all is told, 0 where no more than by chance.",
        "low": "Lower end of the 95 % interval over resampled numbers and problems; of random labels, the least draw.",
        "high": "Upper end of it, or the most.",
        "classes": "Values of the label.",
        "examples": "Tokens that were asked.",
        "problems": "Problems that they stand in.",
        "numbers": "Different numbers of two digits and more in these problems.",
    },
    "probe_geometry": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "measure": "line, circle of a period, helix (line and circles), or frequency of the spectrum over the index.",
        "value": "Share of the variance that is explained.",
        "shuffled": "The same with the symbols in random order, in the mean.",
        "shuffled_high": "The same, which 95 % of the orders stay below.",
        "chance": "Share of random orders that reach the value. All four are means over the draws of a control.",
    },
    "probe_similarity": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "symbol": "One symbol.",
        "other": "Another, or the same.",
        "cosine": "Cosine of their vectors.",
    },
    "probe_coordinates": {
        **_HEAD,
        **_STEP,
        **_TABLE,
        "symbol": "The symbol.",
        **{axis: f"Its place on principal component {number}." for number, axis in enumerate("xyz", 1)},
        **{f"{axis}_share": "Share of the variance along that component." for axis in "xyz"},
    },
    "probe_attention": {
        **_HEAD,
        **_STEP,
        **_STATE,
        "head": "Head, from 0.",
        "reads": "role or place: by what the tokens are told apart.",
        "role": "Part that the tokens play for the answer's digit, such as same column.",
        "difference": "Place of the operands' digits less that of the answer's digit, from -3 or less to 3 or more.",
        "weight": "Attention to all such tokens together, in the mean over digits of answers.",
        "even": "The same if the head read all tokens but padding alike.",
    },
    "probe_unit": {
        **_HEAD,
        **_STEP,
        "control": "trained, or to compare untrained (the same shape): what the unit reads is built in to begin with.",
        "measure": "operation read and operands read (shares of problems), written (size of what the unit adds beside "
        "the states of the slots), answered (rightly, in one pass), answered without (the unit), answered as another "
        "(problem with an answer of as many digits, whose result the unit is given), or gate (its mean size).",
        "loop": "Run of the block, from 1; 0 for the last one of each problem, or the whole encoder.",
        "operator": "Operator of problems with one, or several; all for the gate.",
        "problems": "Problems that were asked.",
        "value": "Their share; of written the mean.",
        "low": "Lower end of the 95 % interval over problems; of written what 97.5 % of them are above.",
        "high": "Upper end of it.",
    },
    "probe_interventions": {
        **_HEAD,
        **_STEP,
        "experiment": "digit (moved by its shift modulo 10), carry (from another problem) or head (taken away).",
        **_STATE,
        "site": "Where the edit is made, or which head is taken away.",
        "way": "What was done: digit, circles (periods 10 and 5), circle (10), carry, ablated; controls are rest (all "
        "but the circle of 10), rest as far (as the circle), random (among the digits', as far) and same carry.",
        "shift": "By how much the digit was moved; 0 where all shifts are counted together.",
        "problems": "Problems that were edited, all answered rightly without it.",
        "predicted": "Share answered as the edit predicts; of a head, as before.",
        "low": "Lower end of its 95 % interval.",
        "high": "Upper end of it.",
        "unchanged": "Share answered as before.",
        "other": "Share with any other answer.",
        "spilt": "Share of the slots that the edit ought not to touch which changed.",
        "copied": "Of a carry: share whose slot is answered with the digit of the problem that the states are from.",
    },
    "probe_series": {
        "run": "Name of the run.",
        "step": "Step of the checkpoint.",
        "exact_match": "Its exact match on validation.",
        "measure": "Fit of the embeddings; kappa of a label at a kind of token, the best over states; read, the share "
        "of attention of the head that reads a role most; moved and patched, the share that follows an edit; ablated, "
        "the share still right without a head, in the mean over the heads.",
        "value": "What it came to.",
        "control": "What 95 % of shuffles stay below, kappa of untrained states, what untrained weights read, random "
        "moves, "
        "states with the same carry, or a random subspace; NULL where there is none.",
        "sha256": "Hash of the checkpoint.",
        "problems": "Problems that probes learnt from; a run asked again with others has rows of both.",
    },
}

_TEXTS = {"run", "checkpoint", "position", "label", "split", "probe", "control", "kind", "symbols", "measure", "symbol"}
_TEXTS |= {"other", "reads", "role", "experiment", "site", "way", "sha256", "asked", "operator"}
_NUMBERS = {"step", "loop", "layer", "classes", "examples", "problems", "numbers", "head", "difference", "shift"}


def _type(view: str, column: str) -> str:
    if (view, column) in (("probe_interventions", "other"), ("probe_series", "control")):
        return "DOUBLE"
    return "VARCHAR" if column in _TEXTS else "BIGINT" if column in _NUMBERS else "DOUBLE"


PROBE_COLUMNS = {view: {column: _type(view, column) for column in columns} for view, columns in PROBE_MEANINGS.items()}
"""Column types of each view."""

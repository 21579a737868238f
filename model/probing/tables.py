"""Converts the results of the other probing modules to table rows; each table is a Parquet file and a SQL view."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from model.network.encoder import Encoder
from model.probing.attention import REACH, ROLES, Attended
from model.probing.causal.interventions import Outcome
from model.probing.causal.unit_ablation import UnitMeasure
from model.probing.geometry import Table, components, cosines, measures, spectrum
from model.probing.hooks import State
from model.probing.probes import Reading
from model.tokenizer import DIGITS, Tokenizer
from storage.errors import UserError

Row = dict[str, Any]
Rows = list[Row]

# Symbols in a problem's row besides digits.
_SIGNS = "+-*()="


def symbol_tables(encoder: Encoder, tokenizer: Tokenizer) -> dict[str, tuple[list[str], Table]]:
    """Embeddings of digits, of digits and signs (`tokens`), and of the numbers 0–99 if each is one token."""
    pieces = {piece: number for number, piece in enumerate(tokenizer.pieces())}
    sets = {
        "digits": [*DIGITS],
        "tokens": [*DIGITS, *(sign for sign in _SIGNS if sign in pieces)],
        "numbers": [str(number) for number in range(100)],
    }
    table = encoder.tokens.weight.detach().double().cpu().numpy()
    return {
        name: (symbols, table[[pieces[symbol] for symbol in symbols]])
        for name, symbols in sets.items()
        if all(symbol in pieces for symbol in symbols)
    }


def geometry_rows(kind: str, symbols: str, state: State, control: str, tables: Sequence[Table]) -> Rows:
    """The fits and the spectrum of a table, averaged over `tables`."""
    place = {"kind": kind, "symbols": symbols, **_state(state), "control": control}
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for number, table in enumerate(tables):
        for each in measures(table, number):
            found.setdefault(each.name, []).append(each[1:])
        for frequency, share in enumerate(spectrum(table).tolist(), 1):
            found.setdefault(f"frequency {frequency}", []).append((share, np.nan, np.nan, np.nan))
    names = ("value", "shuffled", "shuffled_high", "chance")
    return [
        {**place, "measure": measure, **dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))}
        for measure, values in found.items()
    ]


def similarity_rows(kind: str, symbols: str, state: State, control: str, names: Sequence[str], table: Table) -> Rows:
    """Cosine similarity of all pairs of symbols."""
    place = {"kind": kind, "symbols": symbols, **_state(state), "control": control}
    found = cosines(table)
    return [
        {**place, "symbol": one, "other": other, "cosine": float(found[row, column])}
        for row, one in enumerate(names)
        for column, other in enumerate(names)
    ]


def coordinate_rows(kind: str, symbols: str, state: State, control: str, names: Sequence[str], table: Table) -> Rows:
    """Coordinates of each symbol on the first three principal components, and their shares of variance."""
    place = {"kind": kind, "symbols": symbols, **_state(state), "control": control}
    points, shares = components(table)
    axes = ("x", "y", "z")
    return [
        {
            **place,
            "symbol": name,
            **dict(zip(axes, points[row].tolist(), strict=True)),
            **{f"{axis}_share": float(share) for axis, share in zip(axes, shares, strict=True)},
        }
        for row, name in enumerate(names)
    ]


def reading_rows(kind: str, found: Iterable[Reading]) -> Rows:
    """Results of the probes at one kind of token."""
    return [
        {
            "position": kind,
            "label": each.label,
            **_state(each.state),
            "split": each.split,
            "probe": each.probe,
            "control": each.control,
            "kappa": each.kappa.value,
            "low": each.kappa.low,
            "high": each.kappa.high,
            "classes": each.classes,
            "examples": each.examples,
            "problems": each.problems,
            "numbers": each.numbers,
        }
        for each in found
    ]


def attention_rows(found: Iterable[Attended]) -> Rows:
    """Attention of each head to each role, and to operand digits by difference of place values."""
    rows = []
    for each in found:
        place = {**_state(each.state), "head": each.head}
        for role, weight, even in zip(ROLES, each.roles.tolist(), each.even.tolist(), strict=True):
            rows.append({**place, "reads": "role", "role": role, "difference": None, "weight": weight, "even": even})
        for offset, weight in zip(range(-REACH, REACH + 1), each.offsets.tolist(), strict=True):
            rows.append({**place, "reads": "place", "role": None, "difference": offset, "weight": weight, "even": None})
    return rows


def outcome_rows(found: Iterable[Outcome]) -> Rows:
    """Results of the interventions."""
    return [
        {
            "experiment": each.experiment,
            **_state(each.state),
            **{name: value for name, value in each._asdict().items() if name not in ("experiment", "state")},
        }
        for each in found
    ]


def unit_rows(found: Iterable[UnitMeasure], control: str) -> Rows:
    """Measures of a symbolic unit."""
    return [{"control": control, **each._asdict()} for each in found]


def checked_states(wanted: Sequence[int], there: int, what: str, run: str) -> None:
    """Raise `UserError` for a layer or loop that the encoder does not have."""
    for number in wanted:
        if not 1 <= number <= there:
            raise UserError(
                f"{what} {number} does not exist: run {run!r} has {what}s 1 to {there} (embeddings are always probed); "
                "remove it"
            )


def _state(state: State) -> dict[str, int]:
    return {"loop": state.loop, "layer": state.layer}

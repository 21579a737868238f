"""The tables of a study: the parts that are computed together, and rows from the results of the other probing modules.

Each table is a Parquet file and a SQL view.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.config.probing import PROBING_VERSION, ProbingSpec
from model.evaluation.predictor import TrainedModel
from model.network.encoder import Encoder
from model.probing.attention import REACH, ROLES, Attended
from model.probing.geometry import Measure, Table, components, cosines, measures, spectrum
from model.probing.hooks import MOST_LOOPS, State
from model.tokenizer import DIGITS, Tokenizer
from storage.datasets.manifest import hash_of
from storage.errors import UserError

# Number of untrained and of random tables, over which controls are averaged.
DRAWS = 8

Row = dict[str, Any]
Rows = list[Row]

# Symbols in a problem's row besides digits.
_SIGNS = "+-*()="


class Part(NamedTuple):
    """Tables that are computed together."""

    make: Callable[[Any], dict[str, Rows]]
    """Computes the tables from a study."""
    options: set[str]
    """Fields of `ProbingSpec` that the tables depend on."""


def check_numbers(model: TrainedModel, name: str, requested: Sequence[int], last: int) -> None:
    """Raise `UserError` for a layer or loop that the encoder does not have."""
    for number in requested:
        if not 1 <= number <= last:
            raise UserError(
                f"{name} {number} does not exist: run {model.config.name!r} has {name}s 1 to {last}; remove it"
            )


def key_of(model: TrainedModel, spec: ProbingSpec, part: Part) -> str:
    """Cache key of a part's tables: a hash of the weights, the relevant parameters and the probing version."""
    options = spec.model_dump(mode="json", include=part.options)
    encoder = model.config.training.encoder
    for name, last in (("layers", encoder.layers), ("loops", encoder.loops_of(model.config.extent.answer))):
        if name in options:
            # Naming all layers or loops equals naming none, unless there are more loops than are studied by default.
            named = sorted(set(options[name]))
            all_named = named == [*range(1, last + 1)] and (name == "layers" or last <= MOST_LOOPS)
            options[name] = [] if all_named else named
    return hash_of([PROBING_VERSION, model.checkpoint.sha256, options])


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


def symbol_rows(
    vectors: Row, names: Sequence[str], tables: Sequence[Table], *, with_fits: bool = True
) -> dict[str, Rows]:
    """Rows of the tables geometry, similarity and coordinates for vectors of symbols; `vectors` are their first fields.

    Geometry holds the fits and the spectrum, averaged over `tables`; it has no rows without `with_fits`. The other two
    are those of the first table: the cosine similarity of all pairs of symbols, and the coordinates of each symbol on
    the first three principal components, with their shares of variance.
    """
    fits: dict[str, list[tuple[float, float, float, float]]] = {}
    for number, table in enumerate(tables if with_fits else ()):
        for each in measures(table, number):
            fits.setdefault(each.name, []).append(each[1:])
        for frequency, share in enumerate(spectrum(table).tolist(), 1):
            fits.setdefault(f"frequency {frequency}", []).append((share, np.nan, np.nan, np.nan))
    columns = Measure._fields[1:]
    similarity, (points, shares) = cosines(tables[0]), components(tables[0])
    shares_of_axes = {f"{axis}_share": float(share) for axis, share in zip("xyz", shares, strict=True)}
    return {
        "geometry": [
            {**vectors, "measure": measure, **dict(zip(columns, np.mean(values, axis=0).tolist(), strict=True))}
            for measure, values in fits.items()
        ],
        "similarity": [
            {**vectors, "symbol": symbol, "other": other, "cosine": float(cosine)}
            for symbol, row in zip(names, similarity, strict=True)
            for other, cosine in zip(names, row, strict=True)
        ],
        "coordinates": [
            {**vectors, "symbol": symbol, **dict(zip("xyz", point.tolist(), strict=True)), **shares_of_axes}
            for symbol, point in zip(names, points, strict=True)
        ],
    }


def attention_rows(found: Iterable[Attended]) -> Rows:
    """Attention of each head to each role, and to operand digits by difference of place values."""
    rows = []
    for each in found:
        head = {**each.state._asdict(), "head": each.head}
        for role, weight, even in zip(ROLES, each.roles.tolist(), each.even.tolist(), strict=True):
            rows.append({**head, "reads": "role", "role": role, "difference": None, "weight": weight, "even": even})
        for offset, weight in zip(range(-REACH, REACH + 1), each.offsets.tolist(), strict=True):
            rows.append({**head, "reads": "place", "role": None, "difference": offset, "weight": weight, "even": None})
    return rows


def row_of(result: NamedTuple) -> Row:
    """The fields of a result, with a state as the columns loop and layer."""
    row = Row()
    for name, value in result._asdict().items():
        row |= value._asdict() if isinstance(value, State) else {name: value}
    return row

"""Listed: fixed problems in the order of their list. All of them are reserved, so every row is in the test split.

The lists are short (`reserved`), so their columns are computed once and blocks are taken from them.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import product_carries, sum_carries
from pipelines.problems.family import Block, Family, layout_for, schema_of
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical
from pipelines.split.parse import text_hashes
from pipelines.split.reserved import Case, listing
from storage.order import UInt64s


class Listed(Family):
    """Rows of a list of problems; `key` is not used."""

    block_rows = 1 << 14
    layout = layout_for(schema_of({}).append(pa.field("kind", pa.string(), nullable=False)))

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        assert spec.listing, "a list has a name"
        self._cases = listing(spec.listing, spec.operators, spec.digits)
        self._hashes = text_hashes(pa.array([case.text for case in self._cases], pa.string()), canonical)
        self._lengths = np.array([len(case.text) for case in self._cases], np.int32)

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions`, as their indices in the list: `row` [n]."""
        return Block({"row": positions.astype(np.intp)})

    def canonical(self, problems: Block) -> UInt64s:
        return self._hashes.take(problems["row"])

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        return self._lengths.take(problems["row"])

    def _columns(self, problems: Block) -> dict[str, Any]:
        rows = self._table.take(pa.array(problems["row"]))
        return {name: rows[name].combine_chunks() for name in rows.column_names}

    @cached_property
    def _table(self) -> pa.Table:
        """All rows of the list, without ids."""
        answers = [str(case.answer) for case in self._cases]
        columns = {
            "problem": [case.text for case in self._cases],
            "answer": answers,
            "operators": [case.operator for case in self._cases],
            "terms": [2] * len(answers),
            "digits": [case.digits for case in self._cases],
            "answer_digits": [len(answer.lstrip("-")) for answer in answers],
            "carries": _carries(self._cases),
            "depth": [0] * len(answers),
            "negative": [answer.startswith("-") for answer in answers],
            "kind": [case.kind for case in self._cases],
        }
        return pa.table(columns, schema=self.layout.schema.remove(0))


def _carries(cases: list[Case]) -> NDArray[np.int32]:
    """Longest run of columns that carry or borrow [n]."""
    width = max((case.digits for case in cases), default=1) + 1
    left, right = (_digits([str(getattr(case, side)) for case in cases], width) for side in ("left", "right"))
    signs = np.array([-1 if case.operator == "-" else 1 for case in cases], np.int16)
    turned = np.array([-1 if case.answer < 0 else 1 for case in cases], np.int16)
    carries = sum_carries((left.astype(np.int16) + signs * right) * turned)
    products = np.flatnonzero([case.operator == "*" for case in cases])
    if products.size:
        carries[products] = product_carries(left.take(products, axis=1), right.take(products, axis=1))
    return carries


def _digits(numbers: list[str], width: int) -> NDArray[np.uint8]:
    """The lowest `width` decimal digits, uint8 [width, n], lowest first."""
    text = "".join(number.rjust(width, "0") for number in numbers).encode()
    return (np.frombuffer(text, np.uint8).reshape(len(numbers), width) - np.uint8(ord("0"))).T[::-1]

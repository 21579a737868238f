"""Listed: fixed problems in the order of their list. Reserved ones are test; of others, the share of any problem is."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.problems.arithmetic import BASE
from pipelines.problems.digits import Operands
from pipelines.problems.family import Arrays, Block, layout_for, schema_of
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical
from pipelines.split.reserved import listing
from storage.order import UInt64s


class Listed(Operands):
    """Rows of a short list of problems with two operands; `key` is not used."""

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        assert spec.listing, "a list has a name"
        cases = listing(spec.listing, spec.operators, spec.digits)
        operators = tuple(dict.fromkeys(case.operator for case in cases))
        super().__init__(spec.model_copy(update={"terms": 2, "operators": operators}), canonical, key, rows)
        self.block_rows = 1 << 14
        self.layout = layout_for(schema_of({}).append(pa.field("kind", pa.string(), nullable=False)))
        self._kinds = pa.array([case.kind for case in cases])
        operands = [[case.left for case in cases], [case.right for case in cases]]
        limbs = [
            [number // BASE**limb % BASE for number in numbers] for numbers in operands for limb in range(self._limbs)
        ]
        arrays: Arrays = {
            "limbs": np.array(limbs, np.uint32),
            "lengths": np.array([[len(str(number)) for number in numbers] for numbers in operands], np.uint16),
            "operators": np.array([[operators.index(case.operator) for case in cases]], np.uint8),
            "row": np.arange(len(cases)),
        }
        self._problems = Block(arrays)

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions` as in `Operands`, and their indices in the list: `row` [n]."""
        return self._problems.take(positions.astype(np.intp))

    def _columns(self, problems: Block) -> dict[str, Any]:
        return {**super()._columns(problems), "kind": self._kinds.take(pa.array(problems["row"]))}

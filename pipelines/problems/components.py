"""Divides a corpus into components: one family each, with a fixed number of rows and its own order."""

from dataclasses import dataclass
from functools import lru_cache

from pipelines.problems.digits import Operands
from pipelines.problems.expression import Expressions
from pipelines.problems.family import Family
from pipelines.problems.grid import Grid
from pipelines.problems.lengths import shares_by_terms
from pipelines.problems.listed import Listed
from pipelines.problems.rewriting.marks import Marks
from pipelines.problems.rewriting.steps import Steps
from pipelines.spec.corpus import CorpusSpec, ProblemSpec
from pipelines.split.canonical import Canonical
from storage.order import derive_key

_FAMILIES: dict[str, type[Family]] = {
    "grid": Grid,
    "digits": Operands,
    "expression": Expressions,
    "marks": Marks,
    "steps": Steps,
    "listed": Listed,
}


@dataclass(frozen=True)
class Component:
    """Rows [first, first + rows) of a corpus's ids, all of one family.

    The family 'digits' has one component per number of operands.
    """

    number: int
    problems: ProblemSpec
    first: int
    rows: int

    def family(self, spec: CorpusSpec) -> Family:
        """The family that generates the component's rows; its tables are created once per process."""
        return _family(self, spec.split_key, spec.seed)


def components(spec: CorpusSpec) -> list[Component]:
    """The components of a corpus in the order of their ids."""
    parts, first = list[Component](), 0
    for part, part_rows in zip(spec.parts, spec.part_rows, strict=True):
        if part.family == "digits":
            fixed = [
                part.model_copy(update={"terms": terms, "min_terms": terms})
                for terms in range(part.min_terms, part.terms + 1)
            ]
            shares = shares_by_terms(part_rows, [problems.size for problems in fixed])
        else:
            fixed, shares = [part], [part_rows]
        for problems, rows in zip(fixed, shares, strict=True):
            if rows:
                parts.append(Component(len(parts), problems, first, rows))
                first += rows
    return parts


@lru_cache(maxsize=64)
def _family(component: Component, split_key: str, seed: int) -> Family:
    key = derive_key(seed, "row order", component.number) if component.number else derive_key(seed, "row order")
    family = _FAMILIES[component.problems.family]
    return family(component.problems, Canonical(split_key), key, component.rows)

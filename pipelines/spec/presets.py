"""Named corpora: specs for the most common experiments."""

from typing import Any

from pipelines.spec.corpus import CorpusSpec, MixturePart, ProblemSpec

_ADDITION = ProblemSpec(family="digits", operators=("+",), terms=4, digits=20, hard=0.05)
_SUBTRACTION = ProblemSpec(family="digits", operators=("-",), terms=4, digits=20, hard=0.05)
_MULTIPLICATION = ProblemSpec(family="digits", operators=("*",), terms=2, digits=12, hard=0.05)
_EXPRESSION = ProblemSpec(family="expression", operators=("+", "-", "*"), terms=8, digits=4, depth=3)
_MARKS = ProblemSpec(family="marks", operators=("+", "-", "*"), terms=6, digits=12, depth=2)
_STEPS = ProblemSpec(family="steps", operators=("+", "-", "*"), digits=10)
_LONG = ProblemSpec(family="digits", operators=("+", "-", "*"), terms=2, digits=200, hard=0.05)
_MIXED_GRID = ProblemSpec(operators=("+", "-", "*"))

_DEEPER = ProblemSpec(
    family="expression", operators=("+", "-", "*"), min_terms=5, terms=6, digits=1, depth=4, min_depth=3
)
# These hold out larger shares than the others, so they have their own split key.
_MIXED_SPLIT: dict[str, Any] = {"split_key": "mixed", "validation": 0.01, "test": 0.05}


def _corpus(name: str, rows: int, problems: ProblemSpec, **more: int) -> CorpusSpec:
    return CorpusSpec(name=name, rows=rows, **problems.parameters(), **more)


def _part(weight: float, problems: ProblemSpec) -> MixturePart:
    return MixturePart(weight=weight, **problems.parameters())


def _two_operands(operators: str, shortest: int, longest: int, hard: float = 0.2) -> ProblemSpec:
    return ProblemSpec(
        family="digits", operators=tuple(operators), terms=2, min_digits=shortest, digits=longest, hard=hard
    )


def _short_expression(fewest: int, most: int) -> ProblemSpec:
    return ProblemSpec(family="expression", operators=("+", "-", "*"), min_terms=fewest, terms=most, digits=1, depth=2)


CORPORA: dict[str, CorpusSpec] = {
    spec.name: spec
    for spec in (
        # The notebook's section 1: all sums of four numbers 0–99.
        CorpusSpec(),
        # Two numbers 0–99: tests the whole pipeline in a minute. It holds out larger shares, so it has its own split
        # key.
        CorpusSpec(name="quick", split_key="quick", terms=2, rows_per_shard=4_000, validation=0.05, test=0.05),
        _corpus("addition", 10_000_000, _ADDITION),
        _corpus("subtraction", 10_000_000, _SUBTRACTION),
        _corpus("multiplication", 10_000_000, _MULTIPLICATION),
        CorpusSpec(
            name="arithmetic",
            rows=20_000_000,
            mixture=tuple(
                _part(2, problems) for problems in (_ADDITION, _SUBTRACTION, _MULTIPLICATION, _MIXED_GRID, _EXPRESSION)
            ),
        ),
        _corpus("long", 1_000_000, _LONG),
        # For training, and for evaluation at lengths that were not trained on.
        _corpus("addition-10", 6_000_000, _two_operands("+", 1, 10)),
        *(
            _corpus(f"addition-{digits}", 200_000, _two_operands("+", digits, digits, hard=0.0))
            for digits in (20, 40, 100)
        ),
        *(_corpus(f"signed-{digits}", 6_000_000, _two_operands("+-", 1, digits)) for digits in (5, 12)),
        # All products of two numbers 0–999, including those of shorter numbers.
        _corpus("products-3", 1_000_000, _two_operands("*", 1, 3, hard=0.0)),
        # Brackets, signs and all operators, with one-digit numbers. Short expressions repeat, so most have four
        # numbers.
        CorpusSpec(
            name="expressions-4",
            rows=4_000_000,
            mixture=(_part(1, _short_expression(2, 3)), _part(3, _short_expression(4, 4))),
        ),
        # For comparisons of encoders with and without a symbolic unit: all operators, numbers of one to four digits,
        # and brackets. One variant has longer numbers than the training problems, another has deeper brackets.
        CorpusSpec(
            name="mixed",
            rows=1_500_000,
            rows_per_shard=500_000,
            mixture=(_part(3, _two_operands("+-*", 1, 4, hard=0.1)), _part(1, _short_expression(3, 4))),
            **_MIXED_SPLIT,
        ),
        CorpusSpec(
            name="mixed-longer", rows=60_000, **_two_operands("+-*", 5, 6, hard=0.0).parameters(), **_MIXED_SPLIT
        ),
        CorpusSpec(name="mixed-deeper", rows=60_000, **_DEEPER.parameters(), **_MIXED_SPLIT),
        # Single operations, for encoders that evaluate by rewriting.
        _corpus("steps", 10_000_000, _STEPS),
        # States of a rewriting, with marks of the operations that can be carried out next.
        _corpus("marks", 10_000_000, _MARKS),
        # Both, to train an encoder that rewrites.
        CorpusSpec(name="rewriting", rows=8_000_000, mixture=(_part(1, _MARKS), _part(3, _STEPS))),
        # The grid of four numbers 0–99 with all operators has 2.7 billion problems.
        _corpus("billion", 1_000_000_000, _MIXED_GRID),
    )
}

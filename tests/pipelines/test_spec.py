import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.generation.generate import WIDTHS, sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec


def test_the_default_is_the_notebooks_corpus() -> None:
    assert CorpusSpec().size == CorpusSpec().total_rows == 100_000_000


_PRODUCTS = {"family": "expression", "operators": ("+", "-", "*"), "rows": 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"terms": 1}, "greater than or equal to 2"),
        ({"low": 5, "high": 4}, "high is 4, below low"),
        ({"operators": ("/",)}, "'\\+', '-' or '\\*'"),
        ({"operators": ()}, "at least 1 item"),
        ({"operators": ("+", "+")}, "name each once"),
        ({"terms": 8, "high": 99_999}, "the limit is"),
        ({"terms": 2, "high": 9, "rows": 101}, "there are 100 problems"),
        ({"validation": 0}, "greater than 0"),
        ({"name": "No Such"}, "not usable"),
        ({"nonsense": 1}, "not permitted"),
        ({"depth": 3}, "depth belongs to expression and marks, not to family 'grid'"),
        ({"family": "digits", "digits": 40}, "too many problems to take all: set rows"),
        ({"family": "digits", "min_digits": 3, "digits": 2}, "min_digits is 3, above digits"),
        ({"family": "expression", "terms": 32, "digits": 508, "rows": 1}, "16,416 characters, the limit is 16,384"),
        ({**_PRODUCTS, "min_depth": 3}, "min_depth is 3, above depth"),
        ({**_PRODUCTS, "min_depth": 2}, "which needs 4 operands, but min_terms is 2"),
        ({**_PRODUCTS, "operators": ("+", "*"), "min_depth": 1, "min_terms": 3}, "which needs the operator '-'"),
        ({"family": "listed", "only_test": True}, "listing is empty: set it to edge, adderboard, products or chains"),
        ({"family": "listed", "listing": "edge"}, "has only test problems: set only_test too"),
        (
            {"family": "listed", "listing": "adderboard", "operators": ("-",), "only_test": True},
            "has no problem with - and at most 2 digits",
        ),
        ({"family": "steps"}, "too many problems to take all: set rows"),
        ({"family": "steps", "rows": 1, "min_digits": 2}, "min_digits belongs to digits and expression"),
        ({**_PRODUCTS, "terms": 15, "digits": 480}, "7,200 digits, the limit is 7,180: .* or leave '\\*' out"),
        ({**_PRODUCTS, "family": "marks", "terms": 15, "digits": 480}, "7,200 digits, the limit is 7,180"),
        ({"family": "marks", "terms": 32, "digits": 508, "rows": 1}, "16,540 characters, the limit is 16,384"),
        ({"family": "marks"}, "rows is 0, but there are too many problems"),
    ],
)
def test_impossible_corpus_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CorpusSpec(**values)


def test_name_is_not_part_of_the_identity() -> None:
    assert CorpusSpec(name="x").identity() == CorpusSpec(name="y").identity()
    assert CorpusSpec(seed=1).identity() != CorpusSpec().identity()


@pytest.mark.parametrize("depth", [0, 15])
@pytest.mark.parametrize(
    ("operators", "terms", "digits"),
    [(("+", "-"), 32, 507), (("-",), 16, 1_000), pytest.param(("+", "-", "*"), 20, 359, marks=pytest.mark.slow)],
)
def test_longest_allowed_expressions_can_be_generated(
    operators: tuple[str, ...], terms: int, digits: int, depth: int
) -> None:
    shape = {"operators": operators, "terms": terms, "min_terms": terms, "digits": digits, "min_digits": digits}
    spec = CorpusSpec(family="expression", depth=depth, rows=20, **shape)
    (component,) = components(spec)
    table, _ = sample_rows(spec, component, 20)
    assert [len(problem) for problem in table["problem"].to_pylist()] == component.family(spec).text_lengths(
        component.family(spec).problems(table["id"].to_numpy().view(np.uint64))
    ).tolist()
    assert max(map(len, table["problem"].to_pylist())) <= WIDTHS[-1]


def test_large_answers_of_a_grid_are_exact() -> None:
    spec = CorpusSpec(operators=("*", "-"), low=28_000, high=28_912, rows=1_000)
    table, _ = sample_rows(spec, components(spec)[0], 1_000)
    answers = [eval(problem) for problem in table["problem"].to_pylist()]
    assert answers == table["value"].to_pylist() == [int(answer) for answer in table["answer"].to_pylist()]


def test_later_parameters_keep_the_identity_of_earlier_corpora() -> None:
    spec = CorpusSpec(**_PRODUCTS)
    assert {"min_depth", "only_test", "listing"}.isdisjoint(spec.identity())
    test_only = CorpusSpec(**_PRODUCTS, only_test=True)
    assert CorpusSpec.of_identity("x", test_only.identity()).only_test

import pytest
from pydantic import ValidationError

from pipelines.spec import CorpusSpec


def test_the_default_is_the_notebooks_corpus() -> None:
    assert CorpusSpec().size == CorpusSpec().total_rows == 100_000_000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"terms": 1}, "greater than or equal to 2"),
        ({"low": 5, "high": 4}, "high is 4, below low"),
        ({"operators": ("/",)}, "'\\+', '-' or '\\*'"),
        ({"operators": ()}, "at least 1 item"),
        ({"operators": ("+", "+")}, "name each once"),
        ({"terms": 8, "high": 99_999}, "at most"),
        ({"terms": 2, "high": 9, "rows": 101}, "there are 100 problems"),
        ({"validation": 0}, "greater than 0"),
        ({"name": "No Such"}, "not usable"),
        ({"nonsense": 1}, "not permitted"),
        ({"depth": 3}, "depth belongs to expression, not to family 'grid'"),
        ({"family": "digits", "digits": 40}, "say how many rows"),
        ({"family": "digits", "min_digits": 3, "digits": 2}, "min_digits is 3, above digits"),
    ],
)
def test_an_impossible_corpus_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CorpusSpec(**values)


def test_the_name_is_not_part_of_what_the_rows_follow_from() -> None:
    assert CorpusSpec(name="x").spec_hash == CorpusSpec(name="y").spec_hash
    assert CorpusSpec(seed=1).spec_hash != CorpusSpec().spec_hash

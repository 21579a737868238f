from pathlib import Path
from statistics import median
from typing import Any

import pytest

from flows.reports.evaluation.comparison import compare, comparison_text
from flows.reports.pages import write_page
from storage.errors import UserError
from storage.places.disk import LocalLocation

MATCHES = {"a": (0.9, 0.2), "b": (0.5, 0.5), "c": (0.7, 0.6)}


def report(match: float, step: int, **changes: Any) -> dict[str, Any]:
    groups = [{"value": digits, "problems": 50, "exact_match": match / digits} for digits in (1, 2)]
    evaluated = {"suite": "grid", "corpus": "grid-1", "split": "test", "problems": 100}
    return {**evaluated, "exact_match": match, "step": step, "breakdown": {"digits": groups}, **changes}


REPORTS = {name: {"best": report(best, 10), "last": report(last, 20)} for name, (best, last) in MATCHES.items()}


def test_comparison_has_median_minimum_and_maximum_of_best_and_last() -> None:
    comparison = compare(REPORTS)
    for line in comparison.lines:
        share = line.value if isinstance(line.value, int) else 1
        for place, spread in enumerate((line.best, line.last)):
            matches = [pair[place] / share for pair in MATCHES.values()]
            assert (spread.median, spread.minimum, spread.maximum) == (median(matches), min(matches), max(matches))
    assert [(line.column, line.value, line.runs) for line in comparison.lines] == [
        ("all", "", 3), ("digits", 1, 3), ("digits", 2, 3),
    ]  # fmt: skip
    assert [(line.run, line.best_step, line.last_step) for line in comparison.runs] == [(n, 10, 20) for n in "abc"]


def test_headline_is_the_median_and_never_the_best_run(tmp_path: Path) -> None:
    comparison = compare(REPORTS)
    write_page(LocalLocation(tmp_path / "index.html"), "comparison.html", name="mine", comparison=comparison)
    page = (tmp_path / "index.html").read_text()
    assert '<p class="headline">70.000 % exact match</p>' in page
    (line,) = [line for line in comparison_text(comparison).splitlines() if line.startswith("all problems")]
    assert line.split() == ["all", "problems", "100", "70.000%", "50.000%", "90.000%", "50.000%", "20.000%", "60.000%"]


@pytest.mark.parametrize(("key", "value"), [("corpus", "grid-2"), ("problems", 99), ("split", "validation")])
def test_runs_with_different_evaluations_are_not_compared(key: str, value: object) -> None:
    other = {"best": report(0.5, 1, **{key: value}), "last": report(0.5, 2)}
    with pytest.raises(UserError, match=f"run 'd' was evaluated on {key} {value}"):
        compare({**REPORTS, "d": other})

"""Any spec file is a valid corpus or gives a one-line error."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.cli.options import options_of, resolve
from flows.common.parameters import EndToEndRequest, GenerateRequest, LeakageRequest, VerifyRequest
from flows.common.presets import CORPUS_PRESETS
from flows.end_to_end import check_request
from pipelines.generation.generate import range_tasks, sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from storage.errors import UserError
from storage.parameters import one_line
from storage.workspace import Workspace
from tests.exact import value_of

Options = options_of(GenerateRequest)
# To shrink an example that takes seconds takes many minutes.
_PHASES = (Phase.reuse, Phase.generate)

# Values as people mean them, at the bounds and far beyond, and of the wrong kind.
NUMBERS = st.one_of(
    st.integers(0, 40),
    st.sampled_from(
        [-1, 0, 1, 2, 8, 15, 16, 32, 33, 200, 450, 900, 999, 1_000, 1_001, 99_999, 10**6, 2**62, 2**63, 10**40]
    ),
    st.integers(),
)
SHARES = st.one_of(
    st.floats(0, 1), st.sampled_from([0, 0.01, 0.1, 0.3, 0.5, 1, 2, -0.1, 1e-300, float("nan"), float("inf")])
)
OPERATORS = st.one_of(
    st.lists(st.sampled_from("+-*"), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["+", "*", "/", "", "++", 1])),
)
ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=8), st.lists(st.integers(), max_size=2), st.just({}), st.floats()
)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "family": st.sampled_from(["grid", "digits", "expression", "marks", "steps"]),
    "operators": OPERATORS,
    "hard": SHARES,
    **dict.fromkeys(("terms", "low", "high", "min_terms", "digits", "min_digits", "depth"), NUMBERS),
}
CORPUS: dict[str, st.SearchStrategy[Any]] = {
    **FIELDS,
    "rows": st.one_of(st.integers(1, 10**6), NUMBERS),
    "rows_per_shard": st.sampled_from([999, 1_000, 50_000, 1 << 26, 1 << 27]),
    "seed": NUMBERS,
    "split_key": st.text(max_size=101),
    "name": st.one_of(st.just("fuzz"), st.text(max_size=65)),
    "validation": SHARES,
    "test": SHARES,
}
# The bounds of a problem's length and of what can be multiplied lie between these.
TERMS = st.one_of(st.integers(2, 5), st.sampled_from([8, 15, 16, 17, 31, 32]))
DIGITS = st.one_of(st.integers(1, 30), st.sampled_from([200, 225, 226, 450, 479, 480, 511, 512, 900, 999, 1_000]))
# Fields of each family alone, so that most of them are corpora.
GRID = {
    "terms": st.integers(2, 8),
    "low": st.integers(0, 9),
    "high": st.one_of(st.integers(9, 99), st.integers(9, 99_999)),
}
LENGTHS = {"terms": TERMS, "digits": DIGITS}
PLAUSIBLE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "grid": GRID,
    "digits": {**LENGTHS, "hard": st.floats(0, 1)},
    "expression": {**LENGTHS, "depth": st.integers(0, 15)},
    "marks": {**LENGTHS, "depth": st.integers(0, 15)},
    "steps": LENGTHS,
}


def of_some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def plausible(family: str) -> st.SearchStrategy[dict[str, Any]]:
    """Problems of one family with its own fields; the fewest operands and digits are some share of the most."""
    operators = st.lists(st.sampled_from("+-*"), min_size=1, max_size=3, unique=True)
    values = st.fixed_dictionaries({"family": st.just(family), "operators": operators, **PLAUSIBLE[family]})
    if family == "grid":
        return values
    return st.builds(
        lambda spec, terms, digits: {
            **spec,
            "min_terms": max(2, int(terms * spec["terms"])),
            "min_digits": max(1, int(digits * spec["digits"])),
        },
        values,
        *[st.sampled_from([0, 0.5, 1])] * 2,
    )


PROBLEMS = st.one_of(*map(plausible, PLAUSIBLE))
PART = st.builds(dict.__or__, PROBLEMS, st.fixed_dictionaries({}, optional={"weight": st.one_of(SHARES, NUMBERS)}))
SPECS = st.one_of(
    st.builds(lambda problems, rows: {**problems, "rows": rows}, PROBLEMS, st.integers(1, 10**6)),
    st.builds(
        lambda parts, more: {"mixture": parts, "rows": 100_000, **more},
        st.lists(PART, min_size=1, max_size=4),
        of_some({name: CORPUS[name] for name in ("rows", "seed", "validation", "test")}),
    ),
    of_some(CORPUS),
    st.builds(
        lambda spec, name, value: {**spec, name: value}, of_some(CORPUS), st.sampled_from([*CORPUS, "mixture"]), ODD
    ),
    st.fixed_dictionaries({"mixture": st.lists(st.one_of(of_some(FIELDS), ODD), max_size=3)}, optional=CORPUS),
    st.dictionaries(st.text(max_size=5), ODD, max_size=2),
)


def spec_or_line(source: str, options: dict[str, Any]) -> CorpusSpec | None:
    """The requested corpus, or None if it is rejected with one line, as the command prints it."""
    try:
        return resolve(GenerateRequest, source, CORPUS_PRESETS, Options(**options)).spec(CorpusSpec)
    except UserError as refusal:
        line = str(refusal)
    except ValidationError as refusal:
        line = one_line(refusal)
    assert line.strip()
    assert len(line.splitlines()) == 1
    assert len(line) <= 400, line
    return None


def assert_it_can_be_made(spec: CorpusSpec) -> None:
    """Its first rows come out of some of its components, and their answers are Python's own."""
    made = components(spec)
    for component in made[:: max(1, len(made) // 4)]:
        table, splits = sample_rows(spec, component, 50)
        assert len(splits) == table.num_rows == min(50, component.rows)
        values = table["value" if component.problems.family == "marks" else "answer"]
        for problem, value in zip(table["problem"].to_pylist(), values.to_pylist(), strict=True):
            if len(problem) < 4_000:
                assert str(value_of(problem)) == value
    assert sum(task.rows for task in range_tasks(spec)) == spec.total_rows


@settings(max_examples=60, deadline=None, phases=_PHASES, suppress_health_check=list(HealthCheck))
@given(SPECS)
def test_spec_file_is_valid_or_a_one_line_error(tmp_path: Path, values: dict[Any, Any]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(values))
    if spec := spec_or_line(str(path), {}):
        assert_it_can_be_made(spec)


@settings(max_examples=100, deadline=None, phases=_PHASES, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([name for name in CORPUS_PRESETS if name != "notebook"]), of_some(CORPUS))
def test_preset_with_any_options_is_valid_or_a_one_line_error(preset: str, options: dict[str, Any]) -> None:
    if spec := spec_or_line(preset, options):
        assert_it_can_be_made(spec)


@pytest.mark.parametrize(
    "text",
    ["rows: " + "9" * 5_000, "seed: 2026-99-99", "{}: 1", "[1]: 2", "? {a: 1}\n: 2", "1: 2", '"\\n": 1', "a" * 999],
)
def test_invalid_yaml_is_a_one_line_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    assert spec_or_line(str(tmp_path / "spec.yaml"), {}) is None


@pytest.mark.parametrize(
    "text", ["rows: 2000\nrows: 3000", '{"rows": 2000, "rows": 3000}', "mixture: [{weight: 1, weight: 2}]"]
)
def test_duplicate_name_is_a_one_line_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(UserError, match=r"'(rows|weight)' is given twice") as mistake:
        resolve(GenerateRequest, str(tmp_path / "spec.yaml"), CORPUS_PRESETS, None)
    assert "\n" not in str(mistake.value)


NAMES = ["../x", "..", "/etc", "a/b", "x/../../y", "", ".hidden", "s3://bucket/x", "a\\b", "~", "x\0"]


@pytest.mark.parametrize("name", NAMES)
def test_names_with_paths_in_a_spec_are_rejected(tmp_path: Path, name: str) -> None:
    workspace = Workspace.open(str(tmp_path / "w"))
    places: list[Callable[[str], object]] = [
        *(workspace.corpus, workspace.tokenizer, workspace.run, workspace.comparison),
        lambda name: workspace.tokens(name, "x"),
        lambda name: workspace.tokens("x", name),
    ]
    for place in places:
        with pytest.raises(UserError, match=r"name .* is not usable"):
            place(name)
    for more in ({"corpus": {"name": name}}, {"name": name or ".."}):
        with pytest.raises((UserError, ValidationError)):
            check_request(EndToEndRequest.model_validate({"workspace": str(tmp_path / "w"), **more}))
    assert [path.name for path in tmp_path.iterdir()] in ([], ["w"])


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "s3://key@bucket", "gs://bucket/x?token=y", "az://c/x#y"])
def test_forms_reject_uris_with_credentials(uri: str) -> None:
    for model, name in ((EndToEndRequest, "workspace"), (VerifyRequest, "corpus"), (LeakageRequest, "held_out")):
        pattern = model.model_json_schema()["properties"][name]["pattern"]
        assert not re.search(pattern, uri)
        assert all(re.search(pattern, other) for other in ("./workspace", "s3://bucket/x", "/home/me@work/#1?", "C"))

import json

import pytest

from pipelines.generation.generate import CHANGED_ALL
from tests import golden

STORED = json.loads(golden.FILE.read_text())


def test_file_has_every_part() -> None:
    assert list(STORED) == list(golden.PARTS)


@pytest.mark.parametrize("part", golden.PARTS)
def test_no_value_changes_without_a_new_version(part: str) -> None:
    current = json.loads(json.dumps(golden.sample(part)))
    assert not golden.changed(part, STORED[part], current)
    assert STORED[part]["versions"] == current["versions"], f"run '{golden.COMMAND}'"
    assert STORED[part]["values"].keys() == current["values"].keys(), f"run '{golden.COMMAND}'"


@pytest.mark.parametrize(("version", "lines"), [(1, ["part, a: raise X, then 'python -m tests.golden'"]), (2, [])])
def test_changed_value_is_reported_unless_its_version_is_raised(version: int, lines: list[str]) -> None:
    stored = {"versions": {"X": 1}, "values": {"a": 1, "b": 2}}
    current = {"versions": {"X": version}, "values": {"a": 3, "b": 2, "c": 4}}
    assert golden.changed("part", stored, current) == lines


def test_a_new_version_of_one_family_excuses_no_other_one() -> None:
    versions = {preset: golden.sample(f"rows of {preset}")["versions"] for preset in ("notebook", "steps", "marks")}
    assert versions["notebook"] == versions["steps"] == {"generator_version": CHANGED_ALL}
    assert versions["marks"]["generator_version"] > CHANGED_ALL

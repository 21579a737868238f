import json

import pytest

from tests import golden

KEPT = json.loads(golden.FILE.read_text())


def test_every_part_is_kept() -> None:
    assert list(KEPT) == list(golden.PARTS)


@pytest.mark.parametrize("part", golden.PARTS)
def test_no_value_changes_without_a_version(part: str) -> None:
    found = json.loads(json.dumps(golden.measured(part)))
    assert not golden.changed(part, KEPT[part], found)
    assert KEPT[part]["versions"] == found["versions"], f"run '{golden.COMMAND}'"
    assert KEPT[part]["values"].keys() == found["values"].keys(), f"run '{golden.COMMAND}'"


@pytest.mark.parametrize(("version", "told"), [(1, ["part, a: raise X, then 'python -m tests.golden'"]), (2, [])])
def test_a_changed_value_is_told_unless_its_version_was_raised(version: int, told: list[str]) -> None:
    kept = {"versions": {"X": 1}, "values": {"a": 1, "b": 2}}
    found = {"versions": {"X": version}, "values": {"a": 3, "b": 2, "c": 4}}
    assert golden.changed("part", kept, found) == told

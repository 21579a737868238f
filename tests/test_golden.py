import json

import pytest

from tests import golden


def test_no_value_changes_without_a_version() -> None:
    kept, found = json.loads(golden.FILE.read_text()), json.loads(json.dumps(golden.measured()))
    assert not golden.changed(kept, found)
    for part in found:
        assert kept[part]["versions"] == found[part]["versions"], f"run '{golden.COMMAND}'"
        assert kept[part]["values"].keys() == found[part]["values"].keys(), f"run '{golden.COMMAND}'"


@pytest.mark.parametrize(("version", "told"), [(1, ["part, a: raise X, then 'python -m tests.golden'"]), (2, [])])
def test_a_changed_value_is_told_unless_its_version_was_raised(version: int, told: list[str]) -> None:
    kept = {"part": {"versions": {"X": 1}, "values": {"a": 1, "b": 2}}}
    found = {"part": {"versions": {"X": version}, "values": {"a": 3, "b": 2, "c": 4}}}
    assert golden.changed(kept, found) == told

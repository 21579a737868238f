"""`numerate corpus leakage` with real Prefect and real Ray."""

import json
import sqlite3
from pathlib import Path

import pytest

from storage.workspace import Workspace
from tests.builders import SMALL, build_corpus_plainly
from tests.end_to_end.test_chain import Home


@pytest.mark.slow
def test_leakage_fails_with_examples_of_leaks_and_succeeds_without_leaks(tmp_path: Path) -> None:
    home = Home(tmp_path)
    workspace = Workspace.create(str(home.workspace))
    build_corpus_plainly(SMALL, workspace.corpus("small"))
    build_corpus_plainly(SMALL.model_copy(update={"split_key": "other"}), workspace.corpus("other"))
    output, errors = home.numerate("corpus", "leakage", "small", "other", code=1)
    first, *examples = output.splitlines()
    assert first.startswith(("compared 8,", "compared 7,"))
    assert "train problems of small with " in first
    assert first.endswith(" leaks")
    assert len(examples) == 21
    assert examples[0].startswith("  ")
    assert "(train, data/split=train/" in examples[0]
    assert examples[1].startswith("    is ")
    assert examples[-1] == "note: the split keys differ ('numerate' and 'other')"
    (error,) = errors.strip().splitlines()
    assert error.startswith("error: the train split of corpus 'small' contains ")
    output, _ = home.numerate("corpus", "leakage", "small", str(workspace.corpus("small")), "--json")
    clean = json.loads(output)
    assert (clean["leaks"], clean["examples"], clean["differences"]) == (0, [], [])
    assert clean["train_rows"] + clean["held_out_rows"] == 10_000
    with sqlite3.connect(home.records) as database:
        runs = database.execute("SELECT name, state_type FROM flow_run ORDER BY created").fetchall()
        artifacts = {key for (key,) in database.execute("SELECT DISTINCT key FROM artifact")}
    assert [state for _, state in runs] == ["FAILED", "COMPLETED"]
    assert artifacts >= {"corpus-leakage", "corpus-leakage-result"}

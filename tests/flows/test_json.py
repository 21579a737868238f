"""A command with `--json` prints one JSON value on standard output and nothing else.

`run` is tested with the complete chain, the doctor and completion beside their other tests.
"""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli.app import app
from model.training.preflight import prepare
from model.training.trainer import train
from storage.workspace import Workspace
from tests.builders import SMALL, TINY_TRAINING, Built

# What each verb is called with in a workspace in which all is done already, so that it is found; {out} is a new path.
CALLS = {
    "corpus generate": ["{corpus}"],
    "corpus describe": ["quick"],
    "corpus verify": ["small"],
    "corpus migrate": ["small"],
    "corpus leakage": ["small", "small"],
    "tokenizer train": ["--corpus", "small", "--sample-rows", "2000", "--proof-rows", "500"],
    "encode": ["--corpus", "small"],
    "train": ["{training}", "--corpus", "small", "--name", "one"],
    "evaluate": ["--name", "one", "--limit", "200"],
    "solve": ["12+34"],
    "sql": ["SELECT count(*) AS n FROM corpus_small"],
    "model describe": [],
    "model export": ["one", "{out}"],
    "report": ["one"],
    "status": [],
    "clean": ["--dry-run"],
}
NO_WORKSPACE = ("model describe",)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, small: Built, ray_instance: int) -> Path:
    """A folder with the specs of what is done in the workspace below it."""
    folder = tmp_path_factory.mktemp("json")
    shutil.copytree(small.workspace.root.path, folder / "w", ignore=shutil.ignore_patterns("runs", ".spill"))
    place = Workspace.open(str(folder / "w"))
    train(*prepare(place, "one", "small", "small-digit", TINY_TRAINING))
    (folder / "corpus.json").write_text(SMALL.model_dump_json(exclude_defaults=True))
    (folder / "training.json").write_text(TINY_TRAINING.model_dump_json(exclude_defaults=True))
    return folder


@pytest.mark.parametrize(
    "words", [pytest.param(words, marks=pytest.mark.slow) if words == "evaluate" else words for words in CALLS]
)
def test_command_prints_one_json_value(
    words: str,
    done: Path,
    recorded: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {"corpus": done / "corpus.json", "training": done / "training.json", "out": tmp_path / "out"}
    given = [word.format(**places) for word in CALLS[words]]
    if not words.startswith(NO_WORKSPACE):
        given += ["--workspace", str(done / "w")]
    capfd.readouterr()
    app([*words.split(), *given, "--json"], exit_on_error=False, print_error=False, result_action="return_value")
    assert json.loads(capfd.readouterr().out)

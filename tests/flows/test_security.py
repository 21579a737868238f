"""Attacks through files and names that have no effect.

SQL is tried in tests/storage/test_query.py, pickled checkpoints in tests/model/test_checkpoint.py.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from flows.cli import app as command
from flows.common.parameters import (
    EncodeRequest,
    EndToEndRequest,
    EvaluateRequest,
    GenerateRequest,
    TokenizerRequest,
    TrainRequest,
)
from storage import parameters
from storage.errors import UserError
from storage.workspace import Workspace

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("flows", "model", "pipelines", "storage") for path in (ROOT / folder).rglob("*.py")
)

UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNING = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}


def dangers(source: str) -> list[str]:
    """The calls and imports in a source by which a file's bytes or a text could be run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [module] if module else [alias.name for alias in node.names]
            found += [f"import {name}" for name in names if name.split(".")[0] in UNPICKLING]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = (
                name in RUNNING
                or (name.endswith("torch.load") and given.get("weights_only") != "True")
                or given.get("allow_pickle", "False") != "False"
                or (name.startswith("subprocess.") and given.get("shell", "False") != "False")
                or (name == "yaml.load" and ast.unparse(node.args[-1]) not in ("_Loader", "yaml.SafeLoader"))
            )
            found += [ast.unparse(node)] if unsafe else []
    return found


def test_no_source_unpickles_or_executes_data() -> None:
    # All are looked at: those of each folder, and none that is gone.
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == {"flows", "model", "pipelines", "storage"}
    assert len(SOURCES) > 150
    found = {path.relative_to(ROOT).as_posix(): dangers(path.read_text()) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_search_reports_unsafe_calls_and_accepts_safe_ones() -> None:
    for line in (
        "import pickle",
        "from pickle import loads",
        "import torch.x, dill as d",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ):
        assert len(dangers(line)) == 1, line
    for line in ("np.load(path)", "torch.load(path, weights_only=True)", "model.eval()", "yaml.safe_load(x)"):
        assert dangers(line) == [], line


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and standard error of the command, in this process; it printed nothing."""
    code = command.run(list(words))
    output, errors = capsys.readouterr()
    assert output == ""
    return code, errors


FLOWS = (
    ["run"],
    ["corpus", "generate"],
    ["corpus", "describe"],
    ["tokenizer", "train"],
    ["encode"],
    ["train"],
    ["evaluate"],
)


@pytest.mark.parametrize("verb", FLOWS, ids=" ".join)
def test_yaml_with_a_python_object_is_a_one_line_error(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap, file = tmp_path / "trap", tmp_path / "spec.yaml"
    for text in (
        f"!!python/object/apply:os.makedirs [{trap}]",
        f"name: !!python/object/apply:os.makedirs [{trap}]",
        f"name: !!python/object/new:os.makedirs\n  args: [{trap}]",
        "name: !!python/name:os.system",
        "!!python/module:os {}",
    ):
        file.write_text(text)
        code, errors = ended(capsys, *verb, str(file), "--workspace", str(tmp_path / "w"))
        assert code == 2
        assert errors.startswith(f"error: {file} is not YAML or JSON: could not determine a constructor for the tag")
        assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_parameters_use_the_safe_loader() -> None:
    assert issubclass(parameters._Loader, yaml.SafeLoader)
    assert not any("python" in str(tag) for tag in parameters._Loader.yaml_constructors)


NAMES = {
    "above": "../x",
    "far above": "../../../../tmp/x",
    "absolute": "/tmp/x",
    "below": "a/b",
    "hidden": ".x",
    "here": ".",
    "NUL": "a\0b",
    "line": "a\nb",
    "end": "a\n",
    "long": "a" * 10_000,
    "65": "a" * 65,
    "space": "a b",
    "capital": "A",
    "home": "~root",
    "scheme": "file://x",
    "encoded": "%2e%2e%2fx",
    "full width": "．．／x",
    "backslash": "..\\x",
    "option": "--x",
    "variable": "$HOME",
}


def refusals(call: Callable[[str], object], error: type[Exception], line_of: Callable[[Any], str] = str) -> list[str]:
    """The kinds of names that a call lets pass, or doesn't refuse in one short line."""
    wrong = []
    for kind, name in NAMES.items():
        try:
            call(name)
        except error as refusal:
            line = line_of(refusal)
            if "is not usable" in line and len(line.splitlines()) == 1 and len(line) < 400:
                continue
        wrong.append(kind)
    return wrong


def test_names_with_paths_are_rejected(tmp_path: Path) -> None:
    workspace = Workspace.open(str(tmp_path))
    for place in (workspace.corpus, workspace.tokenizer, workspace.run, workspace.comparison):
        assert refusals(place, UserError) == []
    assert refusals(lambda name: workspace.tokens("x", name), UserError) == []
    assert refusals(lambda name: workspace.tokens(name, "x"), UserError) == []


REQUESTS = [
    (GenerateRequest, "name"),
    *((model, field) for model in (TokenizerRequest, EncodeRequest) for field in ("corpus", "tokenizer")),
    *((TrainRequest, field) for field in ("corpus", "tokenizer", "name")),
    *((EvaluateRequest, field) for field in ("corpus", "name")),
    (EndToEndRequest, "name"),
]


def test_form_and_flow_run_reject_such_a_name_before_any_work() -> None:
    def refused(model: type[BaseModel], wrap: Callable[[str], dict[str, Any]]) -> list[str]:
        return refusals(lambda name: model.model_validate(wrap(name)), ValidationError, parameters.one_line)

    for model, field in REQUESTS:
        assert refused(model, lambda name, field=field: {field: name}) == [], (model, field)
    assert refused(EvaluateRequest, lambda name: {"compare": ("fine", name)}) == []
    assert refused(EndToEndRequest, lambda name: {"corpus": {"name": name}}) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--name", "{}"],
        ["run", "--corpus.name", "{}"],
        ["corpus", "generate", "--name", "{}"],
        ["corpus", "describe", "--name", "{}"],
        ["tokenizer", "train", "--tokenizer", "{}"],
        ["encode", "--corpus", "{}"],
        ["train", "--name", "{}"],
        ["train", "--tokenizer", "{}"],
        ["evaluate", "--name", "{}"],
        ["evaluate", "--compare", "{}"],
        ["clean", "{}"],
        ["model", "export", "{}", "{place}/out"],
    ],
    ids=" ".join,
)
def test_command_rejects_such_a_name_with_one_line_before_any_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "w"
    place.mkdir()
    more = ["--workspace", str(place)]
    for name in ("../x", "a" * 10_000):
        given = [word.replace("{place}", str(tmp_path)).replace("{}", name) for word in words]
        code, errors = ended(capsys, *given, *more)
        assert (code, "is not usable" in errors, len(errors.splitlines())) == (2, True, 1), errors
    assert [*tmp_path.rglob("*")] == [place]

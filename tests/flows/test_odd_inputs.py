"""Invalid input and unusual machines: a one-line error, never a message about a bug."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.app import run
from flows.cli.terminal import PrintableSink, printable
from storage.errors import UserError
from storage.parameters import read_parameters
from tests.builders import Built
from tests.flows.test_overview_verbs import ENVIRONMENT

CIRCLE = "circle.yaml"


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line of a mistake that was made with these arguments."""
    code = run(arguments)
    out, errors = capsys.readouterr()
    assert (code, out, errors.count("\n"), errors[:7]) == (2, "", 1, "error: "), errors
    assert "a bug" not in errors
    return errors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a link that leads to itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / CIRCLE).symlink_to(CIRCLE)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--workspace", "~nosuchuser/x"], "~nosuchuser is not a user's home on this machine"),
        (["run", "~nosuchuser/x.yaml"], "~nosuchuser is not a user's home on this machine"),
        (["corpus", "verify", "~nosuchuser/x"], "~nosuchuser is not a user's home on this machine"),
        (["solve", "1+1", "--run", "~nosuchuser/x"], "~nosuchuser is not a user's home on this machine"),
        (["model", "export", "notebook", "~nosuchuser/x"], "~nosuchuser is not a user's home on this machine"),
        (
            ["sql", "SELECT 1", "--workspace", ".", "--output", "~nosuchuser/x"],
            "~nosuchuser is not a user's home on this machine",
        ),
        (["sql", "SELECT 1", "--workspace", ".", "--output", CIRCLE], "its symbolic links form a cycle"),
        (["sql", "SELECT '\udcff'", "--workspace", "."], "the SQL is not UTF-8"),
        (["corpus", "describe", CIRCLE], "Too many levels of symbolic links"),
        (["corpus", "generate", "quick", "--workspace", CIRCLE], "can't be written"),
        (["status", "--workspace", CIRCLE], "Too many levels of symbolic links"),
        (["corpus", "describe", "--rows", "9" * 20_000], "rows is '999"),
        (["solve", f"{'9' * 20_000}+1"], "the maximum is"),
    ],
)
def test_invalid_path_or_number_is_a_one_line_error(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said(arguments, capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"workspace": "/tmp/a\0b"}), "contains a character that is not valid in a path"),
        (json.dumps({"workspace": "/tmp/\ud800"}), "'/tmp/\\ud800'"),
        (json.dumps({"name": "a\0b"}), "not usable"),
        (json.dumps({"split_key": "\ud800"}), "split_key"),
        (json.dumps({"rows": 9}).replace("9", "9" * 20_000), "value has 20000 digits\n"),
        ("rows: 0x" + "f" * 20_000, "rows is a number of 80,000 bits"),
        ("[" * 100_000 + "]" * 100_000, "is not YAML or JSON"),
        ("rows: [" + "1," * 200_000 + "1]", "has more than 262,144 bytes"),
    ],
)
def test_invalid_spec_file_is_a_one_line_error(
    text: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "spec.json").write_text(text)
    assert words in said(["corpus", "generate", "spec.json"], capsys)


def test_endless_file_is_read_up_to_the_limit(folder: Path) -> None:
    (folder / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="has more than 262,144 bytes"):
        read_parameters("zero.yaml")


def test_deleted_working_directory_is_a_one_line_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    for words in (["status"], ["solve", "1+2"], ["run", "quick"]):
        assert said(words, capsys) == "error: the working directory was deleted: change to another first\n"


@pytest.mark.parametrize(
    ("redirected", "code", "out", "errors"),
    [
        (">&-", 1, "", "error: standard output cannot be written (Bad file descriptor): redirect it\n"),
        (">/dev/full", 1, "", "error: standard output cannot be written (No space left on device): redirect it\n"),
        ("2>&-", 0, "NAME\n", ""),
        ("<&-", 0, "NAME\n", ""),
        ("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", 1, "", ""),
    ],
)
def test_closed_or_full_standard_streams(redirected: str, code: int, out: str, errors: str) -> None:
    # More than a pipe holds, so that its reader is gone before the end.
    shown, times = ("x", 1_000_000) if "head" in redirected else ("NAME\n", 1)
    script = f"""
import sys
from flows.cli import interruption
from flows.cli.terminal import open_missing_streams
interruption.end_at_once()
open_missing_streams()
from flows.cli import app as command
command.INTRODUCTION = {shown!r} * {times}
sys.exit(interruption.guarded(lambda: command.run([])))
"""
    buffered = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    shell = f'"$0" -c "$1" {redirected}'
    ended = subprocess.run(
        ["bash", "-c", shell, sys.executable, script], env=buffered, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, errors)


def test_a_command_without_standard_output_fails() -> None:
    shell = '"$0" -m flows corpus describe quick >&-'
    ended = subprocess.run(["bash", "-c", shell, sys.executable], env=ENVIRONMENT, capture_output=True, text=True)
    text = "error: standard output cannot be written (Bad file descriptor): redirect it\n"
    assert (ended.returncode, ended.stderr) == (1, text)


def test_control_characters_do_not_reach_a_terminal(small: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[2J\x9b\u202eé\n\tb") == "a\\x1b[2J\\x9b\\u202eé\n\tb"
    values = "SELECT chr(27) || '[2J' AS value, 'é' AS plain"
    assert run(["sql", values, "--workspace", str(small.workspace.root)]) == 0
    assert "\\x1b[2J" in capsys.readouterr().out
    assert run(["sql", "SELECT \x1b[2J", "--workspace", str(small.workspace.root)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_warnings_and_output_of_clean_are_printable(own_small: Built, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_small.workspace.root.path
    notes = root / "corpora/red\x1b[31m/.progress"
    notes.mkdir(parents=True)
    (notes / "000001.json").write_text("{}")
    (notes.parent / "manifest.json").write_text("{}")
    assert run(["clean", "--dry-run", "--workspace", str(root)]) == 0
    command = [sys.executable, "-m", "flows", "sql", "SELECT 1", "--workspace", str(root)]
    warned = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
    for text in ("".join(capsys.readouterr()), warned):
        assert "red\\x1b[31m" in text
        assert "\x1b" not in text


def test_utf_8_that_arrives_in_pieces_is_printable(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as target:
        sink = PrintableSink(target)
        for byte in "é\x1b\x9b€".encode():
            sink.write(bytes([byte]))
    assert (tmp_path / "out").read_text() == "é\\x1b\\x9b€"

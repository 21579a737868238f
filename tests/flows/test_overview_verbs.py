"""Completion in a real shell, and output to a terminal and to a pipe."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from flows.cli.app import app, run
from flows.common.progress import metered
from tests.builders import Built

HERE = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def called(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
    return capsys.readouterr().out


def completed(script: str, line: str) -> list[str]:
    """The completions that bash offers after `line`."""
    words = line.split(" ")
    ask = (
        f"{script}\nCOMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; COMP_LINE={line!r}; "
        f"COMP_POINT={len(line)}\n"
        f'_numerate numerate {words[-1]!r} {words[-2]!r}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    result = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    return [word.strip() for word in result.stdout.splitlines()]


def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    script = json.loads(called("completion", "bash", "--json", capsys=capsys))["script"]
    assert completed(script, "numerate sta") == ["status"]
    assert set(completed(script, "numerate corpus ")) >= {"generate", "describe", "verify", "migrate", "leakage"}
    assert completed(script, "numerate corpus gen") == ["generate"]
    assert "--workspace" in completed(script, "numerate status --w")
    assert set(completed(script, "numerate sql --format ")) >= {"table", "csv", "json", "parquet"}
    assert completed(script, "numerate train --optimizer a") == ["adamw"]


@pytest.mark.parametrize(
    ("shell", "mark"), [("zsh", "#compdef numerate"), pytest.param("fish", "complete -c", marks=pytest.mark.slow)]
)
def test_each_shell_has_a_script(shell: str, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = called("completion", shell, capsys=capsys)
    assert mark in script


def test_installed_completion_works_in_a_new_bash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = json.loads(called("completion", "install", "bash", "--json", capsys=capsys))
    assert Path(found["file"]).is_relative_to(tmp_path)
    shell = subprocess.run(
        ["bash", "-i", "-c", "complete -p numerate"],
        env={**ENVIRONMENT, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "_numerate" in shell.stdout, shell.stderr


def shown_by(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """What work in this process writes to a terminal, as output and error."""
    leader, follower = pty.openpty()

    def read() -> bytes:
        """All output until the terminal is closed."""
        written = b""
        with suppress(OSError):
            while part := os.read(leader, 65536):
                written += part
        os.close(leader)
        return written

    with ThreadPoolExecutor(1) as reading:
        written = reading.submit(read)
        with open(follower, "w") as terminal, monkeypatch.context() as patched:
            patched.setenv("TERM", "xterm")
            for name in ("stdout", "stderr"):
                patched.setattr(sys, name, terminal)
            work()
        return written.result().decode()


def test_colours_appear_only_on_a_terminal_without_no_color(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["status", "--workspace", str(small.workspace.root)]

    def status() -> None:
        """Show the workspace."""
        app(words, result_action="return_value")

    assert "\x1b[32mcomplete" in shown_by(status, monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown_by(status, monkeypatch)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_control_characters_of_values_do_not_reach_a_terminal(
    small: Built, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    words = ["sql", "SELECT 'a' || chr(27) || '[2Jb' AS x", "--format", form, "--workspace", str(small.workspace.root)]
    shown = shown_by(lambda: run(words), monkeypatch)
    assert "\x1b[2J" not in shown
    assert "[2Jb" in shown


def test_progress_bar_appears_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        """Three parts of it."""
        with metered("a", "title", 3) as meter:
            meter.add(3)

    assert "title" in shown_by(work, monkeypatch)
    work()
    assert capsys.readouterr() == ("", "")

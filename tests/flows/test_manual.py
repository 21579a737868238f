"""Requirements on every command: a valid example, `--json`, and a position in the help."""

import shlex

import pytest
from cyclopts import App

from flows.cli.app import app
from flows.cli.help import INTRODUCTION, example_of, verbs_of

VERBS = {" ".join(words): verb for words, verb in verbs_of(app)}


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    app([*words, "--help"], result_action="return_value")
    return capsys.readouterr().out


def test_all_commands_are_listed() -> None:
    assert {"run", "solve", "sql", "status", "doctor", "corpus generate", "completion bash"} <= set(VERBS)


@pytest.mark.parametrize("words", VERBS)
def test_every_command_has_a_valid_example(words: str) -> None:
    example = example_of(VERBS[words])
    assert f"numerate {words}" in example
    if example.startswith("numerate") and "|" not in example:
        command, bound, *_ = app.parse_args(shlex.split(example)[1:], exit_on_error=False, print_error=False)
        assert command is VERBS[words].default_command
        assert bound is not None


@pytest.mark.parametrize("words", VERBS)
def test_every_command_has_json_and_a_help_text(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(*words.split(), capsys=capsys)
    assert f"Usage: numerate {words}" in text
    assert example_of(VERBS[words]).split()[0] in text
    options = [name for argument in VERBS[words].assemble_argument_collection() for name in argument.names]
    assert "--json" in options


def test_manual_lists_every_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys=capsys).splitlines()
    titles = [line.split("─")[1].strip() for line in lines if line.startswith("╭─")]
    assert titles[:2] == ["Generate, train, evaluate", "Query"]
    assert titles[-1] == "More"
    flat = " ".join(" ".join(line.strip("│ ").split()) for line in lines)
    for name in app:
        if not name.startswith("-"):
            assert " ".join(example_of(app[name]).split()) in flat, name
    for promise in ("./workspace", "--json", "NO_COLOR", "130", "standard error"):
        assert promise in flat


def test_help_shows_every_placeholder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "<corpus>-digit" in help_of("encode", capsys=capsys)
    assert "corpus_NAME" in help_of("sql", capsys=capsys)


def test_introduction_has_few_valid_commands_with_a_product_a_bracket_and_a_trace() -> None:
    commands = [line.strip().split("  ")[0] for line in INTRODUCTION.splitlines() if line.startswith("  numerate")]
    assert len(commands) == 4
    assert len(INTRODUCTION.splitlines()) <= 11
    assert all(any(sign in command for command in commands if " solve " in command) for sign in ("*", "(", "--trace"))
    for command in commands:
        app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_command_without_a_group_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli.help import arrange

    own = App(name="own")

    @own.command
    def dance() -> None:
        """Dance.

        Example: `own dance`
        """

    arrange(own)
    own(["--help"], result_action="return_value")
    assert "own dance" in capsys.readouterr().out

"""Commands that end before any engine starts: in this process, and once in a separate process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import app as command
from pipelines.spec.presets import CORPORA
from tests.builders import Built
from tests.exact import value_of
from tests.flows.conftest import Typed


def numerate(
    *arguments: str, stdin: str = "", cwd: Path | None = None, api: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **({"PREFECT_API_URL": api} if api else {}),
        },
    )


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "noteboo"], ["'noteboo'", "notebook, quick"]),
        (["corpus", "generate", "--terms", "9"], ["terms is 9", "at most 8"]),
        (["corpus", "generate", "--terms", "99"], ["terms is 99", "64"]),
        (["corpus", "generate", "--terms", "many"], ["many"]),
        (["corpus", "generate", "--operators", "/"], ["/", "operators"]),
        (["corpus", "generate", "--low", "50", "--high", "7"], ["high is 7", "low (50)"]),
        (["corpus", "generate", "--name", "../x"], ["../x"]),
        (["corpus", "generate", "--nonsense", "1"], ["--nonsense"]),
        (["train", "--batch-size", "100"], ["batch_size is 100", "64"]),
        (["train", "--encoder.heads", "3"], ["heads 3"]),
        (["evaluate", "--split", "exam"], ["exam"]),
        (["run", "--workspace", "ftp://bucket/x"], ["ftp"]),
        (["run", "--workspace", "/proc/nowhere"], ["/proc/nowhere", "--workspace"]),
        (["solve", "1+1", "--workspace", "/nowhere"], ["/nowhere", "numerate run"]),
        (["sql", "SELECT 1", "--workspace", "/nowhere"], ["/nowhere", "numerate run"]),
        (["corpus", "leakage", "nowhere", "nowhere"], ["corpus 'nowhere' does not exist"]),
        (["corpus", "leakage", "./nowhere", "nowhere"], ["corpus './nowhere' does not exist"]),
        (["corpus", "leakage", "ftp://bucket/x", "nowhere"], ["ftp"]),
        (["corpus", "leakage", "No Name", "nowhere"], ["'No Name' is not usable"]),
        (["dance"], ["dance"]),
    ],
)
def test_invalid_request_is_one_line_and_exit_code_two(
    typed: Typed, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    assert_one_line(typed(*arguments), 2, *words)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_process_ends_with_the_line_and_the_code() -> None:
    assert_one_line(numerate("run", "noteboo"), 2, "'noteboo'", "notebook, quick")


def test_failed_work_is_one_line_and_exit_code_one(typed: Typed, own_small: Built) -> None:
    shard = own_small.corpus.location / own_small.corpus.shards[-1].path
    shard.write(shard.read()[:100])
    result = typed("sql", "SELECT sum(a) FROM corpus_small", "--workspace", str(own_small.workspace.root))
    assert_one_line(result, 1, "may be missing or damaged", shard.name)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_leakage_of_tokens_is_a_one_line_error(typed: Typed, small: Built, order: tuple[int, int]) -> None:
    names = ["small", str(small.tokens.location)]
    result = typed("corpus", "leakage", *(names[place] for place in order), "--workspace", str(small.workspace.root))
    assert_one_line(result, 2, "holds tokens, not problems")


@pytest.mark.parametrize("words", [["status"], ["status", "--verbose"]], ids=["plain", "verbose"])
def test_system_error_is_one_line_or_a_traceback_with_verbose(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*words: object, **options: object) -> None:
        raise OSError(5, "Input/output error", "/data/x")

    monkeypatch.setattr(command, "app", fails)
    if "--verbose" in words:
        with pytest.raises(OSError, match="Input/output error"):
            command.run(words)
    else:
        assert (command.run(words), capsys.readouterr().err) == (1, "error: /data/x: Input/output error\n")


def test_command_without_arguments_prints_the_introduction(typed: Typed) -> None:
    result = typed()
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in ("numerate run", "numerate solve", "numerate sql"))


def test_help_is_exit_code_zero(typed: Typed) -> None:
    result = typed("corpus", "generate", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Example: numerate corpus generate" in result.stdout


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DROP VIEW corpus_small", "exactly one SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission"),
        ("SELECT nothing FROM corpus_small", "nothing"),
        ("SELECT 1 / 0; SELECT 2", "exactly one SELECT"),
    ],
)
def test_sql_other_than_select_is_a_one_line_error(typed: Typed, small: Built, query: str, words: str) -> None:
    assert_one_line(typed("sql", query, "--workspace", str(small.workspace.root)), 2, words)


def test_sql_on_a_corpus_prints_a_table_or_json(typed: Typed, small: Built) -> None:
    place = str(small.workspace.root)
    query = "SELECT sum, count(*) AS rows FROM corpus_small GROUP BY ALL ORDER BY ALL"
    table = typed("sql", query, "--workspace", place)
    rows = [line.split() for line in table.stdout.strip().splitlines()][2:]
    expected = [[str(s), str(min(s + 1, 199 - s))] for s in range(199)]
    assert rows == expected
    as_json = typed("sql", "--json", "--workspace", place, stdin="SELECT count(*) AS n FROM corpus_small")
    assert json.loads(as_json.stdout) == [{"n": 10000}]


@pytest.mark.parametrize("preset", list(CORPORA))
def test_description_of_a_preset_writes_nothing(typed: Typed, preset: str, tmp_path: Path) -> None:
    found = json.loads(typed("corpus", "describe", preset, "--json").stdout)
    assert found["rows"] == CORPORA[preset].total_rows == sum(found["split_rows"].values())
    assert {"id", "split", "family", "width", "problem", "answer"} <= set(found["columns"])
    assert len(found["examples"]) == 10
    for example in found["examples"]:
        if re.fullmatch("[.^]+", example["answer"]):
            assert len(example["problem"]) == len(example["answer"])
        else:
            assert value_of(example["problem"]) == int(example["answer"])
    assert found["bytes"] < 200 * found["rows"]
    assert not list(tmp_path.iterdir())


def test_description_follows_the_options_and_explains_the_columns(typed: Typed) -> None:
    text = typed("corpus", "describe", "addition", "--rows", "50000", "--digits", "3").stdout
    assert text.startswith("corpus addition: 50,000 rows, about ")
    assert re.search(r"\n  carries +int32 +Longest run", text)
    assert not re.search(r"\d{4,}\+", text)

"""The whole chain through real Ray, real Prefect, real DuckDB and Ray Train with two workers, as a person runs it."""

import contextlib
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import duckdb
import pytest
from safetensors import safe_open

from flows.cli import app as command
from flows.common.engines import serving_folder
from storage.datasets.manifest import load
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.interrupts import hear_interrupts

SPEC = {
    "name": "first",
    "corpus": {"name": "pairs", "terms": 2, "rows_per_shard": 3_000, "validation": 0.1, "test": 0.1},
    "tokenizer": {"sample_rows": 2_000, "proof_rows": 500},
    "training": {
        "steps": 60,
        "batch_size": 128,
        "encoder": {"width": 32, "heads": 2, "layers": 2, "feedforward": 64},
        "validate_every": 20,
        "validation_rows": 128,
        "checkpoint_every": 20,
        "workers": 2,
    },
}
STAGES = ["generate", "tokenizer", "encode", "train", "evaluate"]


@dataclass(frozen=True)
class Home:
    """A folder to work in, with a spec and a workspace; `api` is the Prefect server of commands that are waited for,
    where they don't start one of their own."""

    folder: Path
    api: str = ""

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def records(self) -> Path:
        """Prefect's, which are never in the workspace."""
        assert not list(self.workspace.rglob("prefect.db"))
        return serving_folder(Workspace.open(str(self.workspace))).path / "prefect.db"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows", *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {**kept, "PYTHONPATH": str(Path(__file__).parents[2])}

    def numerate(self, *arguments: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=400,
            cwd=self.folder,
            env={**self.environment(), **({"PREFECT_API_URL": self.api} if self.api else {})},
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment(),
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )

    def here(self, *arguments: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
        """What a command that starts no engine prints and reports, run in this process: imports take seconds."""
        printed, reported = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            tempfile.TemporaryFile("w+") as lines,
            mock.patch.object(sys, "stdin", lines),
            mock.patch.object(sys, "stdout", printed),
            mock.patch.object(sys, "stderr", reported),
        ):
            lines.write(stdin)
            lines.seek(0)
            ended = command.run(list(arguments))
        output = printed.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert ended == code, output + reported.getvalue()
        return output, reported.getvalue()

    def write_spec(self, name: str, **training: object) -> str:
        spec = {**SPEC, "training": {**SPEC["training"], **training}}  # type: ignore[dict-item]
        (self.folder / name).write_text(json.dumps(spec))
        return name

    def sql(self, query: str) -> list[dict[str, object]]:
        answer: list[dict[str, object]] = json.loads(self.here("sql", query, "--json")[0])
        return answer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Home:
    """A workspace after one `numerate run`."""
    made = Home(tmp_path_factory.mktemp("chain"))
    made.write_spec("spec.json")
    result = made.numerate("run", "spec.json")
    assert "60 steps" in result.stderr
    assert "on 2 CPU workers" in result.stderr
    assert "Traceback" not in result.stderr
    return replace(made, api=prefect_api)


def test_the_report_says_what_was_done(home: Home) -> None:
    report = json.loads((home.workspace / "runs/first/report.json").read_text())
    (held,) = home.sql("SELECT count(*) AS n FROM corpus_pairs WHERE split = 'test'")
    assert report["problems"] == held["n"]
    assert report["exact_match"] == report["correct"] / report["problems"]
    assert report["interval"][0] <= report["exact_match"] <= report["interval"][1]
    assert report["passes"] == 1
    assert "step-" in report["checkpoint"]
    assert list(report["seconds"]) == STAGES
    assert all(seconds > 0 for seconds in report["seconds"].values())
    page = (home.workspace / "runs/first/report/index.html").read_text()
    # Five of what was asked, the learning curve, and the corpus.
    assert page.count('src="data:image/svg+xml') == 7
    assert re.search(r"\d \d*\.\d+|%", page)
    assert "Wrong answers" in page
    assert f"{100 * report['calibration']['expected_error']:.3f} percentage points" in page
    (point,) = [point for point in report["calibration"]["coverage"] if point["below"] == 0.5]
    (told,) = home.sql("SELECT count(*) AS n, sum(correct::INT) AS right FROM predictions WHERE confidence >= 0.5")
    assert point["answered"] == told["n"] / report["problems"]
    assert point["right"] == (told["right"] / told["n"] if told["n"] else None)


def test_predictions_join_the_corpus_in_sql(home: Home) -> None:
    (row,) = home.sql(
        "SELECT count(*) AS n, sum((p.answer = c.answer AND p.problem = c.problem)::INT) AS same, "
        "sum((p.correct = (p.prediction = p.answer))::INT) AS judged "
        "FROM predictions p JOIN corpus_pairs c USING (id) WHERE c.split = 'test' AND p.suite = 'test'"
    )
    assert row["n"] == row["same"] == row["judged"]


def test_metrics_are_a_row_a_step(home: Home) -> None:
    (row,) = home.sql(
        "SELECT count(*) AS n, min(step) AS low, max(step) AS high, count(validation_exact_match) AS v FROM metrics"
    )
    assert row == {"n": 60, "low": 1, "high": 60, "v": 3}


def test_the_flow_and_its_five_flows_are_in_prefect_and_completed(home: Home) -> None:
    with sqlite3.connect(home.records) as database:
        rows = database.execute(
            "SELECT f.name, r.state_type FROM flow_run r JOIN flow f ON r.flow_id = f.id"
        ).fetchall()
        artifacts = {key for (key,) in database.execute("SELECT DISTINCT key FROM artifact WHERE type = 'progress'")}
    names = {"end-to-end", "generate-corpus", "train-tokenizer", "encode-corpus", "train-encoder", "evaluate-encoder"}
    assert set(rows) >= {(name, "COMPLETED") for name in names}
    assert artifacts == {"generate-corpus", "encode-corpus", "train-encoder", "evaluate-encoder"}


def test_the_same_command_again_does_nothing_new(home: Home) -> None:
    files = {path: path.stat().st_mtime_ns for path in home.workspace.rglob("*.parquet")}
    result = home.numerate("run", "spec.json", "--json")
    assert result.stderr.count("up to date") == 5
    assert json.loads(result.stdout) == json.loads((home.workspace / "runs/first/report.json").read_text())
    assert files == {path: path.stat().st_mtime_ns for path in home.workspace.rglob("*.parquet")}


def test_solve_answers_one_problem_and_a_stream(home: Home) -> None:
    one = home.numerate("solve", "12+34").stdout.strip()
    assert one == home.here("solve", stdin=" 12 + 34 =\n")[0].strip()
    stream, _ = home.here("solve", stdin="1+2\n3+4\n99+99")
    assert len(stream.splitlines()) == 3
    described = json.loads(home.here("solve", "12+34", "--json")[0])
    assert (described["answer"], described["run"]) == (one, "first")


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("twelve", "cannot be parsed"),
        ("1+2+3+4+5", "5 operands, but the run was trained on 2"),
        ("7/2", "7/2"),
        ("1+", "'1+'"),
        ("12", "'12'"),
        ("-5+3", "'-5+3'"),
        ("1 2+3", "1 2+3"),
        ("3*4", "was trained only on +"),
    ],
)
def test_a_problem_that_cannot_be_read_is_one_line(home: Home, problem: str, words: str) -> None:
    output, errors = home.here("solve", problem, code=2)
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert words in errors


def test_a_line_of_a_stream_that_cannot_be_read_keeps_the_others_in_place(home: Home) -> None:
    output, _ = home.here("solve", stdin="1+2\nwhat\n3+4\n", code=2)
    answers = output.split("\n")
    assert (answers[1], answers[3]) == ("", "")
    assert answers[0] != "" != answers[2]


def test_a_run_name_in_use_with_another_configuration_is_one_line(home: Home) -> None:
    before = (home.workspace / "runs/first/run.json").read_bytes()
    result = home.numerate("run", "spec.json", "--training.seed", "7", code=2)
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "error: run 'first' exists with another configuration (training.seed: 0 in the run, 7 requested)"
    )
    assert "Traceback" not in result.stderr
    assert (home.workspace / "runs/first/run.json").read_bytes() == before


def test_a_corpus_name_in_use_is_one_line(home: Home) -> None:
    result = home.numerate("corpus", "generate", "--name", "pairs", "--terms", "2", code=2)
    assert result.stderr.splitlines()[-1].startswith("error: corpus 'pairs' exists with another configuration")


@pytest.mark.slow
def test_a_suite_is_made_asked_compared_and_queried(home: Home) -> None:
    asked = ("evaluate", "--suite", "edge", "--suite-digits", "3")
    evaluations = home.workspace / "runs/first/evaluations"
    before = set(evaluations.glob("suite.edge-*"))
    home.numerate(*asked, "--name", "first")
    # A suite of other digits than the usual ones has a folder of its own.
    (place,) = set(evaluations.glob("suite.edge-*")) - before
    assert "(up to date)" in home.numerate(*asked, "--name", "first").stderr
    result = home.numerate(*asked, "--name", "seeds", "--compare", "first", "--json")
    (line, *_) = json.loads(result.stdout)["lines"]
    report = json.loads((place / "report.json").read_text())
    assert line["problems"] == report["problems"]
    assert line["best"]["median"] == report["exact_match"]
    assert (home.workspace / "comparisons/seeds/edge-3/index.html").exists()
    (row,) = home.sql(
        f"SELECT count(*) AS n, count(DISTINCT p.split) AS splits, sum((p.answer = c.answer)::INT) AS same "
        f"FROM predictions p JOIN corpus_{report['corpus'].replace('-', '_')} c USING (id) "
        "WHERE p.suite = 'edge' AND p.checkpoint = 'best'"
    )
    assert row == {"n": report["problems"], "splits": 1, "same": report["problems"]}
    assert (
        "has none: train a run on family 'expression'"
        in home.numerate("evaluate", "--name", "first", "--suite", "nested", code=2).stderr
    )


@pytest.mark.slow
def test_a_tokenizer_of_another_corpus_encodes_too(home: Home) -> None:
    home.numerate("corpus", "generate", "--name", "others", "--terms", "2", "--high", "120", "--rows-per-shard", "9000")
    home.numerate("encode", "--corpus", "others", "--tokenizer", "pairs-digit")
    assert load(LocalLocation(home.workspace / "corpora/others/tokens/pairs-digit"), "tokens").whole()


@pytest.mark.slow
def test_a_truncated_shard_is_one_line_and_its_remedy_works(home: Home) -> None:
    folder = home.workspace / "corpora/pairs/tokens/pairs-digit"
    shard = next((folder / "split=test").rglob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    result = home.numerate("evaluate", "--name", "first", "--limit", "1000", code=1)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert f"{shard} has 100 bytes instead of {len(whole):,}" in line
    home.numerate("encode", "--corpus", "pairs")
    assert shard.read_bytes() == whole
    home.numerate("evaluate", "--name", "first", "--limit", "1000")


@pytest.mark.parametrize(
    ("signals", "flow"),
    [
        ([signal.SIGINT], "train"),
        pytest.param([signal.SIGTERM, signal.SIGINT], "run", marks=pytest.mark.slow),
    ],
    ids=["once", "and again"],
)
def test_an_interrupted_training_leaves_a_usable_checkpoint_and_goes_on(
    home: Home, signals: list[signal.Signals], flow: str
) -> None:
    name = f"long-{len(signals)}"
    home.write_spec("long.json", steps=5_000, checkpoint_every=2_500, validate_every=2_500)
    training = json.loads((home.folder / "long.json").read_text())["training"]
    (home.folder / "training.json").write_text(json.dumps(training))
    words = ["run", "long.json"] if flow == "run" else ["train", "training.json", "--corpus", "pairs"]
    for number in signals:
        known = {artifact for artifact, _ in _meters(home.records)}
        process = home.start(*words, "--name", name)
        index = home.workspace / f"runs/{name}/checkpoints/index.json"
        before = index.read_text() if index.exists() else ""
        _wait_for_steps(process, home.records, known)
        # Ctrl-C on a terminal reaches the whole process group, Prefect's server and Ray's workers included.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1].startswith("error: interrupted"), errors
        assert "Traceback" not in errors
        assert index.read_text() != before
        entry = json.loads(index.read_text())["entries"][-1]
        assert 0 < entry["step"] < 5_000
        with safe_open(index.parent / entry["file"], "pt") as tensors:
            assert len(tensors.keys()) > 20
    steps = duckdb.sql(f"SELECT step FROM read_parquet('{home.workspace}/runs/{name}/metrics/*.parquet') ORDER BY 1")
    assert [step for (step,) in steps.fetchall()] == list(range(1, entry["step"] + 1))
    assert not (home.workspace / f"runs/{name}/report.json").exists()
    with sqlite3.connect(home.records) as database:
        called = f"end to end {name}" if flow == "run" else f"train {name} for 5000 steps"
        states = database.execute("SELECT state_type FROM flow_run WHERE name = ?", [called]).fetchall()
    assert len(states) == len(signals)
    assert ("COMPLETED",) not in states
    assert not (home.workspace / f"runs/{name}/.launch").exists()


def _meters(records: Path) -> list[tuple[str, str]]:
    """Progress artifacts of trainings, with what they say."""
    with sqlite3.connect(f"file:{records}?mode=ro", uri=True) as database:
        return database.execute("SELECT id, description FROM artifact WHERE key = 'train-encoder'").fetchall()


def _wait_for_steps(process: subprocess.Popen[str], records: Path, known: set[str]) -> None:
    """Until a progress artifact that isn't known yet counts steps."""
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        counted = [re.search(r"train long-\d: ([\d,]+) of", text) for key, text in _meters(records) if key not in known]
        if any(count and count[1] != "0" for count in counted):
            return
        time.sleep(0.2)
    raise AssertionError(f"training didn't start: {process.poll()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_generation_leaves_nothing_half_written_and_goes_on(home: Home, number: signal.Signals) -> None:
    arguments = ["corpus", "generate", "--name", f"cut-{number.name.lower()}", "--rows", "20000000"]
    process = home.start(*arguments)
    folder = home.workspace / "corpora" / arguments[3]
    until = time.monotonic() + 300
    while not list(folder.glob(".progress/*.json")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors == "error: interrupted: run the same command again to continue\n"
    assert not (folder / "manifest.json").exists()
    assert not list(folder.rglob("*.partial"))
    kept = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*.parquet")}
    noted = [
        record["path"] for note in folder.glob(".progress/*.json") for record in json.loads(note.read_text())["shards"]
    ]
    home.numerate(*arguments)
    assert noted
    assert all((folder / path).stat().st_mtime_ns == kept[folder / path] for path in noted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "Bad Name"], "'Bad Name'"),
        pytest.param(["--training.workers", "64"], "workers is 64", marks=pytest.mark.slow),
        (["--training.batch-size", "16384"], "training.batch_size is 16,384"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_before_any_work(
    home: Home, arguments: list[str], words: str
) -> None:
    result = home.numerate("run", "quick", *arguments, code=2)
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr
    assert not (home.workspace / "corpora/quick").exists()


def test_a_damaged_checkpoint_or_token_shard_is_noticed(home: Home) -> None:
    index = json.loads((home.workspace / "runs/first/checkpoints/index.json").read_text())
    shards = list((home.workspace / "corpora/pairs/tokens/pairs-digit/split=test").rglob("*.parquet"))
    best = max(index["entries"], key=lambda entry: (entry["exact_match"], entry["step"]))
    for victim, arguments in [
        (home.workspace / "runs/first/checkpoints" / best["file"], ["solve", "1+2", "--run", "first"]),
        (shards[0], ["evaluate", "--name", "first", "--limit", "900"]),
    ]:
        whole = victim.read_bytes()
        victim.write_bytes(
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
        )
        try:
            is_engine = arguments[0] == "evaluate"
            errors = home.numerate(*arguments, code=1).stderr if is_engine else home.here(*arguments, code=1)[1]
            assert f"{victim} is damaged" in errors
        finally:
            victim.write_bytes(whole)

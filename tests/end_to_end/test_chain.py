"""All stages through the real command, with real Ray, Prefect and DuckDB, and Ray Train with two workers."""

import contextlib
import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
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
from tests.processes import command_environment, restore_sigint, result_of, send_signal, start_command, wait_for

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
    """A working directory with a spec and a workspace; with an empty `api`, commands start a Prefect server."""

    folder: Path
    api: str = ""

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def records(self) -> Path:
        """Prefect's database, which is outside of the workspace."""
        assert not list(self.workspace.rglob("prefect.db"))
        return serving_folder(Workspace.open(str(self.workspace))).path / "prefect.db"

    def numerate(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Output and errors of a command, which ends with this exit code."""
        environment = command_environment(**({"PREFECT_API_URL": self.api} if self.api else {}))
        process = start_command(*arguments, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL)
        exit_code, output, errors = result_of(process)
        assert exit_code == code, output + errors
        return output, errors

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own, with its own Prefect server."""
        return start_command(*arguments, cwd=self.folder, start_new_session=True, preexec_fn=restore_sigint)

    def in_process(self, *arguments: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
        """Like `numerate`, for commands without engines: they run in this process, which saves seconds of imports."""
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
            exit_code = command.run(list(arguments))
        output = printed.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert exit_code == code, output + reported.getvalue()
        return output, reported.getvalue()

    def write_spec(self, name: str, **training: object) -> str:
        spec = {**SPEC, "training": {**SPEC["training"], **training}}  # type: ignore[dict-item]
        (self.folder / name).write_text(json.dumps(spec))
        return name

    def sql(self, query: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(self.in_process("sql", query, "--json")[0])
        return rows


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Home:
    """A workspace after one `numerate run`."""
    home = Home(tmp_path_factory.mktemp("chain"))
    home.write_spec("spec.json")
    _, errors = home.numerate("run", "spec.json")
    assert "60 steps" in errors
    assert "on 2 CPU workers" in errors
    assert "Traceback" not in errors
    return replace(home, api=prefect_api)


def test_report_agrees_with_the_recorded_predictions(home: Home) -> None:
    report = json.loads((home.workspace / "runs/first/report.json").read_text())
    (test_rows,) = home.sql("SELECT count(*) AS n FROM corpus_pairs WHERE split = 'test'")
    assert report["problems"] == test_rows["n"]
    assert report["exact_match"] == report["correct"] / report["problems"]
    assert report["interval"][0] <= report["exact_match"] <= report["interval"][1]
    assert report["passes"] == 1
    assert "step-" in report["checkpoint"]
    assert list(report["seconds"]) == STAGES
    assert all(seconds > 0 for seconds in report["seconds"].values())
    page = (home.workspace / "runs/first/report/index.html").read_text()
    # Five figures of the evaluation, the learning curve, and the corpus.
    assert page.count('src="data:image/svg+xml') == 7
    assert re.search(r"\d \d*\.\d+|%", page)
    assert "Wrong answers" in page
    assert f"{100 * report['calibration']['expected_error']:.3f} percentage points" in page
    (point,) = [point for point in report["calibration"]["coverage"] if point["below"] == 0.5]
    (confident,) = home.sql("SELECT count(*) AS n, sum(correct::INT) AS right FROM predictions WHERE confidence >= 0.5")
    assert point["answered"] == confident["n"] / report["problems"]
    assert point["right"] == (confident["right"] / confident["n"] if confident["n"] else None)


def test_predictions_join_the_corpus_in_sql(home: Home) -> None:
    (row,) = home.sql(
        "SELECT count(*) AS n, sum((p.answer = c.answer AND p.problem = c.problem)::INT) AS same, "
        "sum((p.correct = (p.prediction = p.answer))::INT) AS judged "
        "FROM predictions p JOIN corpus_pairs c USING (id) WHERE c.split = 'test' AND p.suite = 'test'"
    )
    assert row["n"] == row["same"] == row["judged"]


def test_metrics_have_one_row_per_step(home: Home) -> None:
    (row,) = home.sql(
        "SELECT count(*) AS n, min(step) AS low, max(step) AS high, count(validation_exact_match) AS v FROM metrics"
    )
    assert row == {"n": 60, "low": 1, "high": 60, "v": 3}


def test_prefect_records_the_flow_and_its_five_stages_as_completed(home: Home) -> None:
    with sqlite3.connect(home.records) as database:
        rows = database.execute(
            "SELECT f.name, r.state_type FROM flow_run r JOIN flow f ON r.flow_id = f.id"
        ).fetchall()
        artifacts = {key for (key,) in database.execute("SELECT DISTINCT key FROM artifact WHERE type = 'progress'")}
    names = {"end-to-end", "generate-corpus", "train-tokenizer", "encode-corpus", "train-encoder", "evaluate-encoder"}
    assert set(rows) >= {(name, "COMPLETED") for name in names}
    assert artifacts == {"generate-corpus", "encode-corpus", "train-encoder", "evaluate-encoder"}


def test_repeated_command_is_up_to_date_and_writes_no_shard(home: Home) -> None:
    files = {path: path.stat().st_mtime_ns for path in home.workspace.rglob("*.parquet")}
    output, errors = home.numerate("run", "spec.json", "--json")
    assert errors.count("up to date") == 5
    assert json.loads(output) == json.loads((home.workspace / "runs/first/report.json").read_text())
    assert files == {path: path.stat().st_mtime_ns for path in home.workspace.rglob("*.parquet")}


def test_solve_answers_a_problem_and_a_stream_of_problems(home: Home) -> None:
    answer = home.numerate("solve", "12+34", "--run", "first")[0].strip()
    assert answer == home.in_process("solve", "--run", "first", stdin=" 12 + 34 =\n")[0].strip()
    output, _ = home.in_process("solve", "--run", "first", stdin="1+2\n3+4\n99+99")
    assert len(output.splitlines()) == 3
    solution = json.loads(home.in_process("solve", "12+34", "--run", "first", "--json")[0])
    assert (solution["answer"], solution["run"]) == (answer, "first")
    # Without a name, an encoder that rewrites answers.
    solution = json.loads(home.in_process("solve", "12*(3+4)", "--json")[0])
    assert (solution["answer"], solution["run"], solution["states"][1]) == ("84", "arithmetic", "12*(7)")


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
def test_invalid_problem_prints_a_one_line_error(home: Home, problem: str, words: str) -> None:
    output, errors = home.in_process("solve", problem, "--run", "first", code=2)
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert words in errors


def test_invalid_line_of_a_stream_gives_an_empty_answer_line(home: Home) -> None:
    output, _ = home.in_process("solve", stdin="1+2\nwhat\n3+4\n", code=2)
    answers = output.split("\n")
    assert (answers[1], answers[3]) == ("", "")
    assert answers[0] != "" != answers[2]


def test_run_name_with_another_configuration_prints_a_one_line_error(home: Home) -> None:
    before = (home.workspace / "runs/first/run.json").read_bytes()
    _, errors = home.numerate("run", "spec.json", "--training.seed", "7", code=2)
    assert errors.splitlines()[-1].startswith(
        "error: run 'first' exists with another configuration (training.seed: 0 in the run, 7 requested)"
    )
    assert "Traceback" not in errors
    assert (home.workspace / "runs/first/run.json").read_bytes() == before


def test_corpus_name_with_another_configuration_prints_a_one_line_error(home: Home) -> None:
    _, errors = home.numerate("corpus", "generate", "--name", "pairs", "--terms", "2", code=2)
    assert errors.splitlines()[-1].startswith("error: corpus 'pairs' exists with another configuration")


@pytest.mark.slow
def test_suite_is_generated_evaluated_compared_and_queried(home: Home) -> None:
    evaluation = ("evaluate", "--suite", "edge", "--suite-digits", "3")
    evaluations = home.workspace / "runs/first/evaluations"
    before = set(evaluations.glob("suite.edge-*"))
    home.numerate(*evaluation, "--name", "first")
    # A suite with a number of digits that is not the default has its own folder.
    (folder,) = set(evaluations.glob("suite.edge-*")) - before
    assert "(up to date)" in home.numerate(*evaluation, "--name", "first")[1]
    output, _ = home.numerate(*evaluation, "--name", "seeds", "--compare", "first", "--json")
    (line, *_) = json.loads(output)["lines"]
    report = json.loads((folder / "report.json").read_text())
    assert line["problems"] == report["problems"]
    assert line["best"]["median"] == report["exact_match"]
    assert (home.workspace / "comparisons/seeds/edge-3/index.html").exists()
    (row,) = home.sql(
        f"SELECT count(*) AS n, count(DISTINCT p.split) AS splits, sum((p.answer = c.answer)::INT) AS same "
        f"FROM predictions p JOIN corpus_{report['corpus'].replace('-', '_')} c USING (id) "
        "WHERE p.suite = 'edge' AND p.checkpoint = 'best'"
    )
    assert row == {"n": report["problems"], "splits": 1, "same": report["problems"]}
    _, errors = home.numerate("evaluate", "--name", "first", "--suite", "nested", code=2)
    assert "has none: train a run on family 'expression'" in errors


@pytest.mark.slow
def test_run_on_a_grid_of_three_numbers_reports_its_corners(home: Home) -> None:
    grid = {"name": "triples", "terms": 3, "high": 39, "rows_per_shard": 30_000, "validation": 0.1, "test": 0.1}
    (home.folder / "triples.json").write_text(json.dumps({**SPEC, "name": "corners", "corpus": grid}))
    home.numerate("run", "triples.json")
    run = home.workspace / "runs/corners"
    (folder,) = (run / "evaluations").glob("suite.edge*")
    report = json.loads((folder / "report.json").read_text())
    # All sums of three numbers from 0 to 3, and of three from 36 to 39.
    assert report["problems"] == 2 * 4**3
    page = (run / "report/index.html").read_text()
    assert "Suite <code>edge</code>" in page
    assert f"Evaluation: suite edge ({report['corpus']})" in page
    assert f"{report['correct']} of {report['problems']}" in page


@pytest.mark.slow
def test_tokenizer_of_another_corpus_encodes_a_corpus(home: Home) -> None:
    home.numerate("corpus", "generate", "--name", "others", "--terms", "2", "--high", "120", "--rows-per-shard", "9000")
    home.numerate("encode", "--corpus", "others", "--tokenizer", "pairs-digit")
    assert load(LocalLocation(home.workspace / "corpora/others/tokens/pairs-digit"), "tokens").is_complete()


@pytest.mark.slow
def test_truncated_shard_prints_a_one_line_error_whose_remedy_works(home: Home) -> None:
    folder = home.workspace / "corpora/pairs/tokens/pairs-digit"
    shard = next((folder / "split=test").rglob("*.parquet"))
    content = shard.read_bytes()
    shard.write_bytes(content[:100])
    _, errors = home.numerate("evaluate", "--name", "first", "--limit", "1000", code=1)
    (line,) = [line for line in errors.splitlines() if line.startswith("error")]
    assert f"{shard} has 100 bytes instead of {len(content):,}" in line
    home.numerate("encode", "--corpus", "pairs")
    assert shard.read_bytes() == content
    home.numerate("evaluate", "--name", "first", "--limit", "1000")


@pytest.mark.parametrize(
    ("signals", "flow"),
    [
        ([signal.SIGINT], "train"),
        pytest.param([signal.SIGTERM, signal.SIGINT], "run", marks=pytest.mark.slow),
    ],
    ids=["once", "twice"],
)
def test_interrupted_training_leaves_a_usable_checkpoint_and_resumes(
    home: Home, signals: list[signal.Signals], flow: str
) -> None:
    name = f"long-{len(signals)}"
    home.write_spec("long.json", steps=5_000, checkpoint_every=2_500, validate_every=2_500)
    training = json.loads((home.folder / "long.json").read_text())["training"]
    (home.folder / "training.json").write_text(json.dumps(training))
    words = ["run", "long.json"] if flow == "run" else ["train", "training.json", "--corpus", "pairs"]
    for number in signals:
        earlier = {artifact for artifact, _ in _progress(home.records)}
        process = home.start(*words, "--name", name)
        index = home.workspace / f"runs/{name}/checkpoints/index.json"
        before = index.read_text() if index.exists() else ""
        wait_for(partial(_has_trained, home.records, earlier), process=process)
        send_signal(process, number)
        code, _, errors = result_of(process)
        assert code == 130, errors
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
        run_name = f"end to end {name}" if flow == "run" else f"train {name} for 5000 steps"
        states = database.execute("SELECT state_type FROM flow_run WHERE name = ?", [run_name]).fetchall()
    assert len(states) == len(signals)
    assert ("COMPLETED",) not in states
    assert not (home.workspace / f"runs/{name}/.launch").exists()


def _progress(records: Path) -> list[tuple[str, str]]:
    """Ids and descriptions of the progress artifacts of all trainings."""
    with sqlite3.connect(f"file:{records}?mode=ro", uri=True) as database:
        return database.execute("SELECT id, description FROM artifact WHERE key = 'train-encoder'").fetchall()


def _has_trained(records: Path, earlier: set[str]) -> bool:
    """Whether a progress artifact that is not an `earlier` one counts steps."""
    texts = [text for artifact, text in _progress(records) if artifact not in earlier]
    counts = [re.search(r"train long-\d: ([\d,]+) of", text) for text in texts]
    return any(count and count[1] != "0" for count in counts)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_generation_leaves_no_partial_file_and_resumes(home: Home, number: signal.Signals) -> None:
    arguments = ["corpus", "generate", "--name", f"cut-{number.name.lower()}", "--rows", "20000000"]
    process = home.start(*arguments)
    folder = home.workspace / "corpora" / arguments[3]
    wait_for(lambda: list(folder.glob(".progress/*.json")), process=process, poll=0.05)
    send_signal(process, number)
    code, _, errors = result_of(process)
    assert code == 130, errors
    assert errors == "error: interrupted: run the same command again to continue\n"
    assert not (folder / "manifest.json").exists()
    assert not list(folder.rglob("*.partial"))
    modified = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*.parquet")}
    completed = [
        record["path"] for note in folder.glob(".progress/*.json") for record in json.loads(note.read_text())["shards"]
    ]
    home.numerate(*arguments)
    assert completed
    assert all((folder / path).stat().st_mtime_ns == modified[folder / path] for path in completed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "Bad Name"], "'Bad Name'"),
        pytest.param(["--training.workers", "64"], "workers is 64", marks=pytest.mark.slow),
        (["--training.batch-size", "16384"], "training.batch_size is 16,384"),
    ],
)
def test_value_that_a_later_stage_rejects_is_rejected_before_any_work(
    home: Home, arguments: list[str], words: str
) -> None:
    _, errors = home.numerate("run", "quick", *arguments, code=2)
    assert len(errors.splitlines()) == 1
    assert words in errors
    assert not (home.workspace / "corpora/quick").exists()


def test_damaged_checkpoint_or_token_shard_is_an_error(home: Home) -> None:
    index = json.loads((home.workspace / "runs/first/checkpoints/index.json").read_text())
    shards = list((home.workspace / "corpora/pairs/tokens/pairs-digit/split=test").rglob("*.parquet"))
    best = max(index["entries"], key=lambda entry: (entry["exact_match"], entry["step"]))
    for file, arguments in [
        (home.workspace / "runs/first/checkpoints" / best["file"], ["solve", "1+2", "--run", "first"]),
        (shards[0], ["evaluate", "--name", "first", "--limit", "900"]),
    ]:
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        file.write_bytes(damaged)
        try:
            execute = home.numerate if arguments[0] == "evaluate" else home.in_process
            _, errors = execute(*arguments, code=1)
            assert f"{file} is damaged" in errors
        finally:
            file.write_bytes(content)

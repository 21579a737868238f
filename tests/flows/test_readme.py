"""The documents: SQL sessions run and show exact results, commands are valid, links have targets."""

import ast
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from flows.cli.app import app
from flows.cli.help import verbs_of
from flows.cli.options import resolve
from flows.common.parameters import EndToEndRequest, GenerateRequest
from flows.common.presets import CORPUS_PRESETS, PRESETS
from model.config.evaluation import EvaluationSpec
from model.config.training import TrainingFile
from model.evaluation.evaluate import evaluate
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemSet
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.generate import canonical_hashes
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import text_hashes
from pipelines.split.reserved import splits_of
from storage.parameters import read_parameters
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, build_corpus_plainly, build_small

Table = list[list[str]]

ROOT = Path(__file__).parents[2]
# The README, and the reference documents that have what it leaves out.
README = "README.md"
REFERENCES = tuple(
    f"{folder}/README.md" for folder in ("flows", "pipelines", "storage", "model", "model/probing", "tests")
)
SQL = "storage/README.md"


def document_paths() -> Iterator[str]:
    """Every Markdown file of the repository, but for environments and what tools write."""
    for folder, below, files in os.walk(ROOT):
        below[:] = [name for name in below if name[0] != "." and name not in ("build", "mutants", "workspace")]
        yield from (Path(folder, name).relative_to(ROOT).as_posix() for name in files if name.endswith(".md"))


DOCUMENTS = {path: (ROOT / path).read_text() for path in sorted(document_paths())}
# A changelog also names commands of the past.
WITH_COMMANDS = [path for path in DOCUMENTS if path != "CHANGELOG.md"]


def blocks(document: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS[document], re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def prose(document: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", DOCUMENTS[document], flags=re.MULTILINE | re.DOTALL)


def spans(document: str) -> list[str]:
    """The pieces of code within the prose; a line break in one is a space."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(document))]


def shown_queries(document: str) -> dict[str, Table]:
    """Each query with the table below it: its header, then its rows."""
    found = {}
    for session in blocks(document, "console"):
        for query, shown in re.findall(r'^\$ numerate sql "(.*)"\n((?: .*\n)+)', session, re.MULTILINE):
            header, _, *rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
            found[query] = [header, *rows]
    return found


def questions() -> dict[str, Table]:
    """The queries of the reference documentation of SQL."""
    return shown_queries(SQL)


def lines_of_code(document: str) -> Iterator[str]:
    """Lines typed in a shell: those of sh blocks, those after a prompt in sessions, and code spans in the text."""
    for block in blocks(document, "sh"):
        yield from block.splitlines()
    for block in blocks(document, "console"):
        yield from (line[2:] for line in block.splitlines() if line.startswith("$ "))
    yield from spans(document)


def commands(document: str, program: str) -> list[list[str]]:
    """The arguments of each call of a program; those that are abbreviated (…) or alternatives (|) are left out."""
    found = []
    for line in lines_of_code(document):
        if program not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()<>"):
                while words and (words[0] in ("do", "then") or re.match(r"\w+=", words[0])):
                    del words[0]
                if words and words[0] == program and len(words) > 1 and "…" not in " ".join(words):
                    found.append(words[1:])
                words = []
            else:
                words.append(word)
    return found


def anchors(document: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found


def links(document: str) -> list[str]:
    """The targets of links and pictures that are within the repository."""
    found = re.findall(r"]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "code", prose(document)))
    return [target for target in found if not re.match(r"\w+:", target)]


def answered(connection: duckdb.DuckDBPyConnection, query: str) -> Table:
    relation = select(connection, query)
    return [list(relation.columns), *([str(value) for value in row] for row in relation.fetchall())]


def test_all_documents_are_read() -> None:
    assert {README, *REFERENCES, "CONTRIBUTING.md", "CHANGELOG.md", "model/EXPERIMENTS.md"} <= set(DOCUMENTS)
    assert not [path for path in DOCUMENTS if "site-packages" in path]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_have_existing_targets(document: str) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document} links to {target}"
        assert file.resolve().is_relative_to(ROOT.resolve()), f"{document} links to {target}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT.resolve()).as_posix()), f"{document}: {target}"


def test_readme_links_to_every_other_document() -> None:
    reached = {target.partition("#")[0] for target in links(README)}
    assert {*DOCUMENTS} - {README} <= reached


def test_every_picture_is_shown_in_a_document() -> None:
    shown = {
        ((ROOT / document).parent / target).resolve()
        for document in DOCUMENTS
        for target in links(document)
        if target.endswith(".png")
    }
    kept = {
        path.resolve() for folder in ("model/pictures", "tests/browser/pictures") for path in (ROOT / folder).iterdir()
    }
    assert kept <= shown


def test_documents_contain_commands() -> None:
    assert ["solve", "12*(3+45)-7"] in commands(README, "numerate")
    assert ["corpus", "generate", "$corpus"] in commands("model/README.md", "numerate")
    assert ["serve", "--host", "0.0.0.0"] in commands("flows/README.md", "numerate")
    assert ["evaluate", "--name", "any", "--missing", "operand"] in commands("model/README.md", "numerate")
    assert ["-m", "tests.benchmarks.scale"] in commands("tests/README.md", "python")
    assert ["run"] in commands(README, "make")


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_every_command_is_valid(document: str) -> None:
    known = {" ".join(words) for words, _ in verbs_of(app)}
    for words in commands(document, "numerate"):
        # A verb, or a group of verbs, may be named without what it needs.
        if words[0] == "--help" or any(f"{verb} ".startswith(f"{' '.join(words)} ") for verb in known):
            continue
        words = ["pairs" if word == "KIND" else word for word in words]
        command, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        presets = re.search(r"A preset \((.*?)\)", command.__doc__ or "")
        spec = bound.arguments.get("spec", "notebook")
        if presets and not spec.startswith("$") and not spec.endswith(".yaml"):
            assert spec in presets[1].split(", "), f"{document}: numerate {' '.join(words)}"


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_every_mentioned_option_exists(document: str) -> None:
    known = {
        name for _, verb in verbs_of(app) for argument in verb.assemble_argument_collection() for name in argument.names
    } | {"--help", "--verbose", "--num-gpus"}
    named = {span.split()[0] for span in spans(document) if re.match(r"--[a-z]", span)}
    assert named <= known


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_mentioned_modules_targets_and_tests_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(document, "make"):
        assert words[0] in targets, f"{document}: make {words[0]}"
    for words in commands(document, "python"):
        assert words[0] == "-m", f"{document}: python {words}"
        assert find_spec(words[1]), f"{document}: {words[1]}"
    for words in commands(document, "pytest"):
        assert (ROOT / words[0]).exists(), f"{document}: pytest {words}"


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_python_examples_import_existing_names(document: str) -> None:
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{document}: {node.module}.{alias.name}"


def test_spec_files_are_valid(tmp_path: Path) -> None:
    found = {}
    for document in WITH_COMMANDS:
        for block in blocks(document, "yaml"):
            name = block.split()[1].rstrip(":")
            found[name] = tmp_path / name
            found[name].write_text(block)
    assert set(found) == {"products.yaml", "mine.yaml", "job.yaml", "arithmetic.yaml", "fewer.yaml"}
    assert TrainingFile.model_validate(read_parameters(str(found["job.yaml"]))).seeds == 5
    products = resolve(GenerateRequest, str(found["products.yaml"]), CORPUS_PRESETS, None)
    assert [part.family for part in products.mixture] == ["grid", "digits", "expression"]
    mine = resolve(EndToEndRequest, str(found["mine.yaml"]), PRESETS, None)
    assert (mine.training.steps, mine.corpus.terms) == (4000, 3)
    fewer = resolve(EndToEndRequest, str(found["fewer.yaml"]), PRESETS, None)
    assert fewer.training.encoder.digits_per_step == fewer.corpus.mixture[1].digits_per_step == 2


def test_query_has_the_same_result_in_every_document() -> None:
    assert len(questions()) == 10
    assert shown_queries(README)
    for document in WITH_COMMANDS:
        for query, table in shown_queries(document).items():
            assert questions()[query] == table, document


def test_results_of_the_readme_are_in_the_references() -> None:
    section = prose(README).split("\n## Results\n")[1].split("\n## ")[0]
    references = "\n".join(prose(document) for document in REFERENCES)
    known = set(re.findall(r"[\w.,]*\d[\w.,]*\w|\d", references))
    figures = set(re.findall(r"[\w.,]*\d[\w.,]*\w|\d", re.sub(r"]\([^)]*\)", "]", section)))
    assert {"100,000", "99.997", "832c7ad"} <= figures
    assert figures <= known


def test_every_query_is_valid_and_has_the_shown_columns(tmp_path: Path) -> None:
    spec = CORPORA["notebook"].model_copy(update={"rows": 9_000, "validation": 0.1, "test": 0.1})
    built = build_small(tmp_path, spec)
    build_corpus_plainly(CORPORA["arithmetic"].model_copy(update={"rows": 5_000}), built.workspace.corpus("arithmetic"))
    train(*prepare(built.workspace, "notebook", "notebook", "notebook-digit", TINY_TRAINING))
    run = built.workspace.run("notebook")
    hashes = partial(canonical_hashes, spec)
    evaluate(
        TrainedEncoder.open(run),
        ProblemSet(built.corpus, built.tokens, hashes, suite="test"),
        EvaluationSpec(),
        run / "predictions" / "notebook.test.parquet",
    )
    with open_catalog(built.workspace) as connection:
        for query, (header, *_) in questions().items():
            columns, *rows = answered(connection, query)
            assert columns == header, query
            # These ask for one class of problems, or for every 500th step.
            assert rows or "[1, 22, 33, 44]" in query or "step % 500" in query, query
        for document in WITH_COMMANDS:
            for words in commands(document, "numerate"):
                if words[0] == "sql" and "SELECT" in words[-1] and "corpus_quick" not in words[-1]:
                    select(connection, words[-1]).fetchall()


def test_most_frequent_sums_are_those_shown() -> None:
    ways = np.ones(1, np.int64)
    for _ in range(4):
        ways = np.convolve(ways, np.ones(100, np.int64))
    expected = sorted(enumerate(ways.tolist()), key=lambda pair: (-pair[1], pair[0]))[:3]
    (rows,) = (
        rows for query, (_, *rows) in questions().items() if query.startswith("SELECT sum, count(*) AS problems")
    )
    assert rows == [[str(total), str(count)] for total, count in expected]


def test_all_orders_of_the_shown_problem_are_in_its_split() -> None:
    spec = CORPORA["notebook"]
    texts = ["+".join(order) for order in permutations(("1", "22", "33", "44"))]
    splits = splits_of(
        text_hashes(pa.array(texts), Canonical(spec.split_key)), spec.split_key, spec.validation, spec.test
    )
    assert splits.tolist() == [0] * 24
    (rows,) = (rows for query, (_, *rows) in questions().items() if "[1, 22, 33, 44]" in query)
    assert rows == [["train", "24", min(texts)]]


@pytest.mark.slow
def test_results_on_the_corpus_of_two_million_rows_are_those_shown(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"))
    build_corpus_plainly(CORPORA["arithmetic"].model_copy(update={"rows": 2_000_000}), workspace.corpus("arithmetic"))
    compared = 0
    with open_catalog(workspace) as connection:
        for query, table in questions().items():
            if "FROM shards" in query:
                table = [row for row in table if row[0] in ("corpus", "arithmetic")]
            elif "FROM corpus_arithmetic" not in query:
                continue
            assert answered(connection, query) == table
            compared += 1
    assert compared == 3

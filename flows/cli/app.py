"""The command `numerate`: one command per flow, and others such as `solve` and `sql`.

Exit codes: 0 success, 1 failure, 2 invalid request, 130 interrupted. A failure prints a one-line error to standard
error. Each command imports only the engines that it needs.
"""

import atexit
import errno
import io
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from flows.cli.command_factory import Json, Verbose, WorkspaceUri, flow_commands, print_result, run_flow
from flows.cli.help import INTRODUCTION, MANUAL, arrange
from flows.cli.interruption import CODE, CONTINUES, interrupted
from flows.cli.options import options_of, resolve
from flows.cli.terminal import printable
from flows.cli.verbs.corpus import corpus_app
from flows.cli.verbs.overview import add_completion, doctor, report, status
from flows.cli.verbs.publish import publish_app
from flows.cli.verbs.serve import serve
from flows.cli.verbs.submit import submit_app
from flows.common.parameters import WORKSPACE, ProbeRequest, request_text
from storage.errors import QueryAbandoned, RunFailure, UserError
from storage.parameters import one_line
from storage.places.opening import open_location
from storage.workspace import Workspace

app = App(
    name="numerate", help=MANUAL, help_format="markdown", suppress_keyboard_interrupt=False, version_flags=["--version"]
)
tokenizer_app = App(name="tokenizer", help="Tokenizers.")
model_app = App(name="model", help="Encoders.")
for command in (report, status, doctor, serve):
    app.command(command)
for group in (corpus_app, tokenizer_app, model_app, publish_app, submit_app):
    app.command(group)
add_completion(app)
flow_commands(app, "run", "encode", "train", "evaluate")
flow_commands(tokenizer_app, "tokenizer train")


@model_app.command(name="describe")
def describe_model(preset: str = "tiny", *, as_json: Json = False) -> None:
    """Show the number of parameters of an encoder, by part, and its architecture.

    Example: `numerate model describe --preset paper`

    Parameters
    ----------
    preset
        Name of the encoder: vanilla, tiny, small, base, paper, local, signed or mixing.
    """
    from flows.cli.description import encoder_json, encoder_text

    description = encoder_json(preset)
    print_result(description, as_json, encoder_text(description))


@model_app.command(name="export")
def export_model(
    run: str,
    target: str,
    /,
    *,
    checkpoint: Literal["best", "last"] = "best",
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Export a trained encoder to a new folder, without the data that only training needs.

    The file `request.yaml` in that folder records the training: `numerate run request.yaml` repeats it.

    Example: `numerate model export notebook ./notebook-encoder`

    Parameters
    ----------
    run
        Name of the run, or of an encoder that comes with Numerate.
    target
        New folder.
    checkpoint
        Checkpoint to export.
    """
    from model.runs.pretrained import export, run_folder
    from model.runs.run_config import load_run

    folder = open_location(target)
    exported = export(run_folder(Workspace.open(workspace), run), folder, checkpoint)
    if text := request_text(load_run(folder)):
        (folder / "request.yaml").write(text)
    result = {"run": run, "location": target, "step": exported.step, "exact_match": exported.exact_match}
    print_result(result, as_json, f"run {run}, step {exported.step:,}: {target}")


def probe(run: str = "notebook", /, *, options: Any = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Probe a trained encoder: digit geometry, probes, attention and edits of its states; writes an HTML report.

    Results that are already in the run's folder probes/ are not recomputed. Query them with SQL: `probes`,
    `probe_geometry`, `probe_similarity`, `probe_coordinates`, `probe_attention`, `probe_unit`, `probe_interventions`,
    `probe_series`.

    Example: `numerate probe notebook`

    Parameters
    ----------
    run
        Name of the run, or of an encoder that comes with Numerate; with --compare, name of the comparison.
    """
    name = getattr(options, "name", None) or run
    request = resolve(ProbeRequest, run, {run: ProbeRequest(name=name)}, options)
    print_result(run_flow("flows.probe_encoder.probe_encoder", request, verbose), as_json)


probe.__annotations__["options"] = Annotated[options_of(ProbeRequest) | None, Parameter(name="*")]
app.command(probe)


@app.command
def solve(
    *problem: Annotated[str, Parameter(allow_leading_hyphen=True)],
    run: Annotated[
        str,
        Parameter(
            help="Name of a run or of an encoder that comes with Numerate, or a folder with a slash in its path. Empty "
            "takes the first one that can answer: a run of the workspace that rewrites, 'arithmetic', then the others."
        ),
    ] = "",
    abstain_below: Annotated[
        float, Parameter(help="Print '?' (null in JSON) if the encoder's confidence, 0 to 1, is lower.")
    ] = 0.0,
    trace: Annotated[bool, Parameter(negative=(), help="Print the states of a rewriting below each other.")] = False,
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Solve problems with a trained encoder: sums, differences and products of any length, with brackets.

    Without a problem, it reads one problem per line from standard input and writes one answer per line: '?' if there
    is none, and an empty line for a line that is no problem. A withheld answer is not a failure: the exit code is 0.

    Example: `numerate solve --trace "12*(3+45)-7"`

    Parameters
    ----------
    problem
        Numbers, operators and brackets, of the kinds that the encoder was trained on.
    """
    from flows.cli.verbs.solve import Solver, Style, answer_one, answer_stream, nothing_to_continue

    style = Style(as_json, abstain_below, trace)
    opened = Workspace.open(workspace)
    if workspace != WORKSPACE and not opened.root.exists():
        raise UserError(f"workspace {opened.root} has no run: train one with 'numerate run'")
    solver = Solver(opened, run, traced=trace)
    with nothing_to_continue():
        if problem:
            answer_one(solver, " ".join(problem), style)
        else:
            answer_stream(solver, style)


@app.command
def clean(
    run: str = "",
    /,
    *,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Print what would be removed and its size; remove nothing.")
    ] = False,
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Remove files that are no longer needed: older checkpoints, and leftovers of killed processes.

    Keeps the best and the last checkpoint of each run, and everything that another process is writing.

    Example: `numerate clean --dry-run`

    Parameters
    ----------
    run
        Name of a run; without it, the whole workspace is cleaned.
    """
    from flows.diagnostics.cleaning import clean as clean_workspace
    from flows.diagnostics.cleaning import print_cleaning

    opened = Workspace.open(workspace)
    if not opened.root.exists():
        raise UserError(f"workspace {opened.root} does not exist: choose another with --workspace")
    result = clean_workspace(opened, run, dry_run=dry_run)
    if as_json:
        print(result.json())
    else:
        print_cleaning(result)


@app.command
def sql(
    query: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    /,
    *,
    form: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        Parameter(name="--format", help="Output format of the rows; default: table."),
    ] = None,
    output: Annotated[str, Parameter(help="Output file, replaced atomically; empty means standard output.")] = "",
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Same as --format json.")] = False,
) -> None:
    """Query the workspace with one SELECT, on views such as `corpus_NAME`, `shards`, `runs`, `metrics`, `predictions`.

    Without a query, it is read from standard input. A table has at most 10,000 rows; other formats contain all rows.

    Example: `numerate sql "SELECT split, count(*) FROM corpus_notebook GROUP BY ALL"`
    """
    from flows.cli.verbs.sql import answer

    if as_json and form not in (None, "json"):
        raise UserError(f"--json and --format {form} contradict each other: omit one of them")
    opened = Workspace.open(workspace)
    text = query or _standard_input()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("the SQL is not UTF-8: encode it as UTF-8")
    answer(opened, text, form or ("json" if as_json else "table"), output)


arrange(app)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code, and prints a one-line error to standard error if it fails."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show is not an error.
        sys.stdout.reconfigure(errors="replace")
    try:
        os.getcwd()
    except FileNotFoundError:
        # Libraries end the process in that case.
        return _print_error("the working directory was deleted: change to another first", UserError.exit_code)
    ending, code = False, 0
    try:
        if arguments:
            code = _exit_code(arguments)
        else:
            print(INTRODUCTION, end="")
        ending = True
        sys.stdout.flush()
    except Exception as error:
        # A library may turn an interruption into another exception.
        return _print_error(CONTINUES, CODE) if interrupted() else _failed(error, "--verbose" in arguments, ending)
    except BaseException as interruption:
        code = _print_error(str(interruption) or CONTINUES, CODE)
        if isinstance(interruption, QueryAbandoned):
            # End the process without waiting for threads.
            sys.stdout.flush()
            atexit._run_exitfuncs()
            os._exit(code)
        return code
    return code


def _exit_code(arguments: list[str]) -> int:
    """Run a command; returns its exit code. Cyclopts and some commands exit by themselves."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def _failed(error: Exception, verbose: bool, ending: bool) -> int:
    """Print the error, and return the exit code; `ending` means that only the output was left to write."""
    output_failed = _output_failed() or ending
    if isinstance(error, UserError | RunFailure):
        return _print_error(str(error), error.exit_code)
    if isinstance(error, ValidationError):
        return _print_error(one_line(error), UserError.exit_code)
    if isinstance(error, CycloptsError):
        cause = error.__cause__
        text = one_line(cause) if isinstance(cause, ValidationError) else " ".join(str(error).split())
        return _print_error(text, UserError.exit_code)
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return RunFailure.exit_code
    if output_failed:
        _drop_output()
        return _print_error(f"standard output cannot be written ({_reason(error)}): redirect it", RunFailure.exit_code)
    if verbose:
        raise error
    if isinstance(error, OSError):
        code = UserError.exit_code if error.errno == errno.ELOOP else RunFailure.exit_code
        return _print_error(f"{error.filename or 'the system'}: {_reason(error)}", code)
    text = " ".join(str(error).split()) or "no message"
    with tempfile.NamedTemporaryFile("w", prefix="numerate-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return _print_error(
        f"{type(error).__name__}: {text} (a bug; the traceback is in {file.name})", RunFailure.exit_code
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _output_failed() -> bool:
    """Whether standard output has buffered data that cannot be written; the data is dropped."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _drop_output()
        return True
    return False


def _drop_output() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _standard_input() -> str:
    """The SQL on standard input; raises `UserError` if it is empty or not UTF-8."""
    text = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    if not text.strip():
        raise UserError("no SQL was given: pass one SELECT to 'numerate sql' as an argument or on standard input")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the SQL on standard input is not UTF-8 ({error.reason} at byte {error.start})") from error


def _print_error(text: str, code: int) -> int:
    try:
        print(f"error: {printable(text)}", file=sys.stderr)
    except OSError:
        # Standard error cannot be written.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code

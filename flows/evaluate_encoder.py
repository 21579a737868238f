"""The flow `evaluate-encoder`: writes predictions, report.json and the HTML report."""

import json
import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import EvaluateRequest
from flows.common.presets import CORPUS_PRESETS
from flows.common.progress import metered, say
from flows.common.suites import Suite, fair_to, prepare, suite_of
from flows.common.timing import note_seconds, seconds_of
from flows.encode_corpus import ensure_tokens
from flows.reports.artifacts import show_evaluation
from flows.reports.evaluation.comparison import compare, comparison_text
from flows.reports.evaluation.section import SECTION, passes_text, write_report
from flows.reports.pages import write_page
from flows.reports.run_page import page_of, write_run_page
from model.config.evaluation import ONE_PASS, Decoding, EvaluationSpec
from model.evaluation.evaluate import Evaluation, check_corpus, check_missing, evaluate
from model.evaluation.predictor import TrainedModel, open_trained
from model.evaluation.problem_batches import Fair, ProblemSet
from model.runs.checkpoints import Checkpoints
from model.runs.pretrained import resolve_run
from model.runs.run_config import RunConfig, load_run
from pipelines.generation.build import spec_of
from pipelines.generation.fanout import run_remotely
from pipelines.generation.generate import canonical_hashes
from pipelines.split.counterparts import has_no_trained_counterpart
from storage.datasets.manifest import Dataset, committed, hash_of, load
from storage.errors import UserError
from storage.places.place import Location
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@flow(name="evaluate-encoder", flow_run_name="evaluate {request.name} on {request.problems}")
def evaluate_encoder(request: EvaluateRequest) -> dict[str, Any]:
    """Evaluate a trained encoder on held-out problems and return the values of its report.json.

    An up-to-date report is returned as it is. With `compare`, several runs are evaluated in turn and compared.
    """
    return _compared(request) if request.compare else _evaluated(request)


def _evaluated(request: EvaluateRequest) -> dict[str, Any]:
    workspace, spec = Workspace.create(request.workspace), request.spec(EvaluationSpec)
    request = request.model_copy(update={"name": resolve_run(workspace, request.name)})
    run = workspace.run(request.name)
    model = open_trained(run, spec.checkpoint)
    config = model.config
    check_missing(model, spec)
    model.check_decoding(spec.decoding)
    suite = suite_of(config, request.suite, request.suite_digits) if request.suite != "test" else None
    if suite:
        spec = spec.model_copy(update={"split": suite.split})
    name = suite.corpus.name if suite else request.corpus or config.corpus
    label = f"suite.{name}" if suite else name
    folder, predictions = paths_of(run, config, label, spec)
    if request.make_missing and not suite:
        ensure_tokens(request, name, config.tokenizer)
    if suite:
        corpus, tokens = prepare(workspace, config, model.tokenizer, suite)
    else:
        if name in CORPUS_PRESETS and not committed(workspace.corpus(name)):
            raise UserError(
                f"corpus {name!r} does not exist ({workspace.corpus(name)}): add --make-missing to generate it first"
            )
        corpus = load(workspace.corpus(name), f"corpus {name!r}")
        tokens = load(workspace.tokens(name, config.tokenizer), f"corpus {name!r} encoded by {config.tokenizer!r}")
    check_corpus(model, corpus, tokens)
    inputs = {
        "evaluation": spec.model_dump(exclude={"decoding": _later_defaults(spec.decoding, "marks", "values")}),
        "step": model.checkpoint.step,
        "weights": model.checkpoint.sha256,
        "corpus": name,
        "corpus_identity": corpus.manifest.identity,
        "suite": request.suite if suite or spec.split == "test" else "",
    }
    if predictions.exists() and (cached := _up_to_date(folder, inputs)):
        say(headline(request.name, cached) + " (up to date)")
        show_evaluation(workspace, headline(request.name, cached), [], page_of(workspace, request.name))
        return cached
    problems = ProblemSet(
        corpus, tokens, partial(canonical_hashes, spec_of(corpus)), str(inputs["suite"]), _fair(config, corpus)
    )
    began = time.monotonic()
    outcome = _outcome(request, model, problems, spec, predictions)
    note_seconds(folder / "report", time.monotonic() - began)
    report = {
        **outcome.model_dump(),
        **inputs,
        "remarks": list(suite.remarks) if suite else [],
        "seconds": _stage_seconds(workspace, config, folder),
    }
    remarks = _remarks(outcome, suite, corpus.manifest.rows)
    refresh_catalog(workspace)
    figures = write_report(folder, workspace, config, outcome, report["seconds"], remarks)
    (folder / "report.json").write(json.dumps(report, indent=2).encode() + b"\n")
    page = write_run_page(workspace, request.name)
    say(headline(request.name, report))
    for remark in remarks:
        say(f"  {remark}")
    say(f"report: {page}")
    show_evaluation(workspace, headline(request.name, report), figures, page)
    return report


def _outcome(
    request: EvaluateRequest, model: TrainedModel, problems: ProblemSet, spec: EvaluationSpec, predictions: Location
) -> Evaluation:
    """Evaluate the model and write the predictions, in this process or on a GPU of the request's Ray cluster."""
    workspace = Workspace.open(request.workspace)
    rows = problems.corpus.manifest.split_rows
    available = sum(rows.values()) if spec.split == "all" else rows[spec.split]
    total = min(spec.limit or available, available)
    with metered("evaluate-encoder", f"evaluate {request.name}", total, "problems") as meter:
        if not request.ray:
            return evaluate(model, problems, spec, predictions, meter.add)
        run = workspace.run(request.name)
        with ray_session(request.ray, workspace.root):
            return run_remotely(
                lambda: evaluate(open_trained(run, spec.checkpoint), problems, spec, predictions), gpu=True
            )


def _compared(request: EvaluateRequest) -> dict[str, Any]:
    """Evaluate the best and the last checkpoint of every run and compare the results."""
    workspace = Workspace.create(request.workspace)
    names = [resolve_run(workspace, name) for name in request.compare]
    for name in names:
        load_run(workspace.run(name))
    problems = request.corpus or (f"{request.suite}-{request.suite_digits}" if request.suite_digits else request.suite)
    folder = workspace.comparison(request.name) / _label(problems, request.spec(EvaluationSpec))
    reports = {
        name: _best_and_last(workspace, request.model_copy(update={"name": name, "compare": ()})) for name in names
    }
    comparison = compare(reports)
    (folder / "report.json").write(comparison.model_dump_json(indent=2).encode() + b"\n")
    page = folder / "index.html"
    write_page(page, "comparison.html", name=request.name, comparison=comparison)
    for name in names:
        write_run_page(workspace, name)
    say(comparison_text(comparison))
    say(f"comparison: {page}")
    show_evaluation(workspace, f"Comparison of {', '.join(names)}", [], page)
    return comparison.model_dump()


def _best_and_last(workspace: Workspace, request: EvaluateRequest) -> dict[str, dict[str, Any]]:
    """Reports of a run's best and last checkpoint; if both are the same checkpoint, it is evaluated once."""
    best = _evaluated(request.model_copy(update={"checkpoint": "best"}))
    index = Checkpoints(workspace.run(request.name) / "checkpoints").index()
    same = index.best == index.last
    return {"best": best, "last": best if same else _evaluated(request.model_copy(update={"checkpoint": "last"}))}


def paths_of(run: Location, config: RunConfig, label: str, spec: EvaluationSpec) -> tuple[Location, Location]:
    """Folder of the report, and file of the predictions, of an evaluation.

    The run's own folder holds the report on its corpus's test split by the best checkpoint in one pass. Every other
    combination of corpus, split, checkpoint and decoding has its own folder in `evaluations`.
    """
    label = _label(label, spec)
    checkpoint = "" if spec.checkpoint == "best" else f".{spec.checkpoint}"
    split = "" if spec.split == "test" else f".{spec.split}"
    is_own = label == config.corpus and not checkpoint and not split
    folder = run if is_own else run / "evaluations" / f"{label}{checkpoint}{split}"
    return folder, run / "predictions" / f"{label}.{spec.split}{checkpoint}.parquet"


def _label(problems: str, spec: EvaluationSpec) -> str:
    """Label of an evaluation; settings other than the defaults are appended."""
    label = problems + ("" if spec.missing == "answer" else f"-missing-{spec.missing}")
    if spec.decoding.is_default():
        return label
    values = spec.decoding.model_dump(mode="json", exclude=_later_defaults(spec.decoding, "unit", "marks", "values"))
    return f"{label}-{hash_of(values)[:8]}"


def _later_defaults(decoding: Decoding, *later: str) -> set[str]:
    """Of options that later versions added, those with their defaults: earlier evaluations stay as they are.

    The method has no effect, because another one than the encoder's is refused.
    """
    return {"method"} | {name for name in later if getattr(decoding, name) == getattr(ONE_PASS, name)}


def _remarks(outcome: Evaluation, suite: Suite | None, rows: int) -> tuple[str, ...]:
    """Notes on a suite of `rows` problems, on repeated problems and on problems that were left out."""
    remarks = suite.remarks if suite else ()
    scored = outcome.problems + outcome.left_out
    if suite and scored < rows:
        remarks += (f"limit leaves {scored:,} of these {rows:,} problems",)
    if 2 * outcome.classes < outcome.problems:
        remarks += (
            f"most problems occur several times, repeated or in another order: with each counted once, "
            f"{outcome.exact_match_by_class:.3%} of {outcome.classes:,} problems are right",
        )
    if outcome.left_out:
        remarks += (
            f"{outcome.left_out:,} problems are left out: they may be in the run's training data (they are held out "
            "only since a later generator version, or a sum or difference of the same numbers is in it), or none of "
            "their operands is uniquely determined",
        )
    return remarks


def _fair(config: RunConfig, corpus: Dataset) -> Fair | None:
    """Filter for the problems on which a run may be scored; None if it may be scored on all."""
    reserved_later = None if corpus.manifest.identity == config.corpus_identity else fair_to(config)
    checks = [check for check in (reserved_later, _no_trained_counterpart(config)) if check]
    if not checks:
        return None
    return lambda facts, canonical: np.logical_and.reduce([check(facts, canonical) for check in checks])


def _no_trained_counterpart(config: RunConfig) -> Fair | None:
    """Filter for problems of which no counterpart is in the train split; None if no masked operands were trained.

    Counterparts are sums and differences of the same numbers.
    """
    if config.training.objective in ("answer", "rewriting"):
        return None
    key, validation, test = (config.corpus_spec[name] for name in ("split_key", "validation", "test"))

    def fair(facts: pa.Table, canonical: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each problem may be scored, bool [n]: no counterpart of it is in the train split."""
        problems, answers = (facts[name].combine_chunks() for name in ("problem", "answer"))
        return has_no_trained_counterpart(key, validation, test, config.operators, problems, answers)

    return fair


def _stage_seconds(workspace: Workspace, config: RunConfig, evaluation: Location) -> dict[str, float | None]:
    """Seconds of each stage of a run, and of one evaluation; None if unknown."""
    return {
        "generate": seconds_of(workspace.corpus(config.corpus)),
        "tokenizer": seconds_of(workspace.tokenizer(config.tokenizer)),
        "encode": seconds_of(workspace.tokens(config.corpus, config.tokenizer)),
        "train": seconds_of(workspace.run(config.name)),
        "evaluate": seconds_of(evaluation / "report"),
    }


def _up_to_date(folder: Location, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The report in a folder if it was computed from these inputs."""
    if not (folder / "report.json").exists() or not (folder / SECTION).exists():
        return None
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read())
        return report if all(report.get(key) == value for key, value in inputs.items()) else None
    except (ValueError, RecursionError, AttributeError):
        # A damaged report: the evaluation is repeated.
        return None


def headline(name: str, report: dict[str, Any]) -> str:
    """The result of an evaluation in one line."""
    low, high = report["interval"]
    scored = "missing operands" if report.get("missing") == "operand" else "problems"
    split = "" if report["split"] == "all" else f"{report['split']} "
    left_out = f", {report['left_out']:,} left out" if report.get("left_out") else ""
    return (
        f"run {name}: {report['correct']:,} of {report['problems']:,} {split}{scored} of "
        f"{report['corpus']} right{left_out}, exact match {report['exact_match']:.3%} "
        f"(95 % interval {low:.3%} to {high:.3%}), {passes_text(report['passes'])}, "
        f"{report['evaluation']['checkpoint']} checkpoint"
    )

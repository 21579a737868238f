"""The flow `evaluate-encoder`: answers, report.json and the HTML report."""

import json
import time
from functools import partial
from typing import Any

from prefect import flow

from flows.progress import metered, say
from flows.report import passes_text, write_report
from flows.requests import EvaluateRequest
from flows.timing import note_seconds, seconds_of
from model.evaluation import Judged, evaluate
from model.run import RunConfig
from model.trained import TrainedEncoder
from pipelines.build import spec_of
from pipelines.generate import canonical_hashes
from pipelines.twins import has_no_trained_twin
from storage.catalog import refresh_catalog
from storage.location import Location, Workspace
from storage.manifest import load


@flow(name="evaluate-encoder", flow_run_name="evaluate {request.name}", persist_result=False)
def evaluate_encoder(request: EvaluateRequest) -> dict[str, Any]:
    """Ask a trained encoder problems that it never saw, or find it asked; returns the values of its report.json."""
    workspace, spec = Workspace.create(request.workspace), request.evaluation_spec()
    run = workspace.run(request.name)
    model = TrainedEncoder.open(run, spec.checkpoint)
    config = model.config
    name = request.corpus or config.corpus
    label = name if spec.missing == "answer" else f"{name}-missing-{spec.missing}"
    place = run if label == config.corpus else run / "evaluations" / label
    asked = {"evaluation": spec.model_dump(), "step": model.checkpoint.step}
    predictions = run / "predictions" / f"{label}.{spec.split}.parquet"
    found = _found(place, asked) if predictions.exists() else None
    if found:
        say(_headline(request.name, found) + " (found)")
        return found
    corpus = load(workspace.corpus(name), f"corpus {name!r}")
    tokens = load(
        workspace.tokens(name, config.tokenizer),
        f"corpus {name!r} encoded by {config.tokenizer!r}",
    )
    held = corpus.manifest.split_rows[spec.split]
    began = time.monotonic()
    with metered("evaluate-encoder", f"evaluate {request.name}", min(spec.limit or held, held), "problems") as meter:
        outcome = evaluate(
            model,
            corpus,
            tokens,
            spec,
            predictions,
            partial(canonical_hashes, spec_of(corpus)),
            meter.add,
            judged_by(config),
        )
    note_seconds(place / "report", time.monotonic() - began)
    report = {**outcome.model_dump(), **asked, "seconds": stage_seconds(workspace, config, place)}
    refresh_catalog(workspace)
    page = place / "report" / "index.html"
    write_report(page, workspace, config, outcome, report["seconds"])
    (place / "report.json").write(json.dumps(report, indent=2).encode() + b"\n")
    say(_headline(request.name, report))
    say(f"report: {page}")
    return report


def judged_by(config: RunConfig) -> Judged | None:
    """Which problems a run may be judged by: all, or those whose addition twin it was not trained on."""
    if config.training.objective == "answer" or "+" not in config.operators:
        return None
    split = (config.corpus_spec[key] for key in ("split_key", "validation", "test"))
    return partial(has_no_trained_twin, *split)


def stage_seconds(workspace: Workspace, config: RunConfig, evaluation: Location) -> dict[str, float | None]:
    """Seconds that each stage of a run took when it was done, and those of one evaluation."""
    return {
        "generate": seconds_of(workspace.corpus(config.corpus)),
        "tokenizer": seconds_of(workspace.tokenizer(config.tokenizer)),
        "encode": seconds_of(workspace.tokens(config.corpus, config.tokenizer)),
        "train": seconds_of(workspace.run(config.name)),
        "evaluate": seconds_of(evaluation / "report"),
    }


def _found(place: Location, asked: dict[str, Any]) -> dict[str, Any] | None:
    if not (place / "report.json").exists() or not (place / "report" / "index.html").exists():
        return None
    try:
        report: dict[str, Any] = json.loads((place / "report.json").read())
    except ValueError:
        return None
    return report if all(report.get(key) == value for key, value in asked.items()) else None


def _headline(name: str, report: dict[str, Any]) -> str:
    low, high = report["interval"]
    what = "missing operands" if report.get("missing") == "operand" else "problems"
    left_out = f", {report['left_out']:,} left out" if report.get("left_out") else ""
    return (
        f"run {name}: {report['correct']:,} of {report['problems']:,} {report['split']} {what} of "
        f"{report['corpus']} right{left_out}, exact match {report['exact_match']:.3%} "
        f"(95 % interval {low:.3%} to {high:.3%}), {passes_text(report['passes'])}"
    )

"""The flow `evaluate-encoder`: answers, report.json and the HTML report."""

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow

from flows.progress import metered, say
from flows.report import write_report
from flows.requests import EvaluateRequest
from flows.timing import note_seconds, seconds_of
from model.evaluation import evaluate
from model.run import RunConfig
from model.trained import TrainedEncoder
from pipelines.build import spec_of
from pipelines.components import components
from pipelines.generate import canonical_hashes
from pipelines.spec import CorpusSpec
from storage.catalog import refresh_catalog
from storage.location import Location, Workspace
from storage.manifest import load


@flow(name="evaluate-encoder", flow_run_name="evaluate {request.name}", persist_result=False)
def evaluate_encoder(request: EvaluateRequest) -> dict[str, Any]:
    """Ask a trained encoder the problems that it never saw, or find it asked; returns report.json's values."""
    workspace, spec = Workspace.create(request.workspace), request.evaluation_spec()
    run = workspace.run(request.name)
    model = TrainedEncoder.open(run, spec.checkpoint)
    asked = {"evaluation": spec.model_dump(), "step": model.checkpoint.step}
    found = _found(run, asked) if (run / "predictions" / f"{spec.split}.parquet").exists() else None
    if found:
        say(_headline(request.name, found) + " (found)")
        return found
    config = model.config
    corpus = load(workspace.corpus(config.corpus), f"corpus {config.corpus!r}")
    tokens = load(workspace.tokens(config.corpus, config.tokenizer), f"corpus {config.corpus!r} encoded")
    held = corpus.manifest.split_rows[spec.split]
    corpus_spec = spec_of(corpus)

    def annotate(ids: NDArray[np.uint64]) -> dict[str, NDArray[np.unsignedinteger]]:
        """What the corpus knows of the problems asked, each array [n]."""
        return annotations(corpus_spec, ids)

    began = time.monotonic()
    predictions = run / "predictions" / f"{spec.split}.parquet"
    title = f"evaluate {request.name}"
    with metered("evaluate-encoder", title, min(spec.limit or held, held), "problems") as meter:
        outcome = evaluate(model, corpus, tokens, spec, predictions, annotate, meter.add)
    note_seconds(run / "report", time.monotonic() - began)
    report = {**outcome.model_dump(), **asked, "seconds": stage_seconds(workspace, config)}
    refresh_catalog(workspace)
    page = write_report(workspace, config, outcome, report["seconds"])
    (run / "report.json").write(json.dumps(report, indent=2).encode() + b"\n")
    say(_headline(request.name, report))
    say(f"report: {page}")
    return report


def annotations(spec: CorpusSpec, ids: NDArray[np.uint64]) -> dict[str, NDArray[np.unsignedinteger]]:
    """Canonical classes, and carries where they are defined, of rows `ids`, each [n]."""
    columns: dict[str, NDArray[np.unsignedinteger]] = {"canonical": canonical_hashes(spec, ids)}
    if spec.family == "grid" and spec.operators == ("+",) and not spec.mixture:
        (component,) = components(spec)
        grid = component.family(spec)
        carries = grid.table(ids, grid.problems(ids)).column("carries")
        columns["carries"] = carries.to_numpy().astype(np.uint8)
    return columns


def stage_seconds(workspace: Workspace, config: RunConfig) -> dict[str, float | None]:
    """Seconds that each stage took when it was done."""
    run = workspace.run(config.name)
    return {
        "generate": seconds_of(workspace.corpus(config.corpus)),
        "tokenizer": seconds_of(workspace.tokenizer(config.tokenizer)),
        "encode": seconds_of(workspace.tokens(config.corpus, config.tokenizer)),
        "train": seconds_of(run),
        "evaluate": seconds_of(run / "report"),
    }


def _found(run: Location, asked: dict[str, Any]) -> dict[str, Any] | None:
    if not (run / "report.json").exists() or not (run / "report" / "index.html").exists():
        return None
    try:
        report: dict[str, Any] = json.loads((run / "report.json").read())
    except ValueError:
        return None
    return report if all(report.get(key) == value for key, value in asked.items()) else None


def _headline(name: str, report: dict[str, Any]) -> str:
    low, high = report["interval"]
    return (
        f"run {name}: {report['correct']:,} of {report['problems']:,} {report['split']} problems right, "
        f"exact match {report['exact_match']:.3%} (95 % interval {low:.3%} to {high:.3%}), one pass"
    )

"""The flow `end-to-end`: runs five flows in sequence. Each flow does only the missing work."""

from statistics import median
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import EndToEndRequest
from flows.common.progress import say
from flows.common.suites import corners_of
from flows.encode_corpus import encode_corpus
from flows.evaluate_encoder import evaluate_encoder, headline
from flows.generate_corpus import generate_corpus
from flows.reports.artifacts import show_end_to_end
from flows.train_encoder import check_predicates, train_encoder
from flows.train_tokenizer import train_tokenizer
from model.config.training import seed_runs
from model.runs.run_config import RunConfig, load_run, refuse_other
from model.tokenizer import check_tokens
from model.training.launchers.ray_launcher import choose_room
from storage.errors import UserError
from storage.workspace import Workspace


def check_request(request: EndToEndRequest) -> None:
    """Raise `UserError`, before any work starts, for values that a later stage would reject."""
    corpus, training = request.corpus, request.training
    workspace = Workspace.create(request.workspace)
    tokenizer = request.tokenizer_request().tokenizer_name
    workspace.tokenizer(tokenizer)
    training.encoder.check_pieces(request.tokenizer.group)
    for part in corpus.parts if request.tokenizer.group else ():
        check_tokens(*part.most_tokens(request.tokenizer.group))
    rows = int(corpus.total_rows * (1 - corpus.validation - corpus.test))
    if rows < training.batch_size:
        raise UserError(
            f"training.batch_size is {training.batch_size:,}, the train split will have about {rows:,} rows: "
            "lower batch_size or use a larger corpus"
        )
    check_predicates(training, corpus)
    for name, spec in seed_runs(request.run_name, training, request.seeds):
        run = workspace.run(name)
        if (run / "run.json").exists():
            existing = load_run(run)
            corpus_spec = {key: value for key, value in existing.corpus_spec.items() if key != "generator_version"}
            names = ("corpus", "corpus_spec", "tokenizer", "training")
            known = (existing.corpus, corpus_spec, existing.tokenizer, existing.training.identity())
            requested = (corpus.name, corpus.identity(), tokenizer, spec.identity())
            refuse_other(run, dict(zip(names, known, strict=True)), dict(zip(names, requested, strict=True)))


@flow(name="end-to-end", flow_run_name="end to end {request.run_name}")
def end_to_end(request: EndToEndRequest) -> dict[str, Any]:
    """Run all stages; returns report.json's values, for several seeds with their median and minimum."""
    check_request(request)
    with ray_session(request.ray, Workspace.open(request.workspace).root):
        choose_room(request.training, request.seeds)
        generate_corpus(request.generate_request())
        train_tokenizer(request.tokenizer_request())
        encode_corpus(request.encode_request())
        train_encoder(request.train_request())
    workspace, evaluations = Workspace.open(request.workspace), request.evaluate_requests()
    reports = [evaluate_encoder(evaluation) for evaluation in evaluations]
    for evaluation in evaluations:
        for more in _further_evaluations(load_run(workspace.run(evaluation.name))):
            evaluate_encoder(evaluation.model_copy(update=more))
    runs = [evaluation.name for evaluation in evaluations]
    lines = [headline(run, report) for run, report in zip(runs, reports, strict=True)]
    show_end_to_end(workspace, runs[0], lines, reports[0]["seconds"])
    return reports[0] if request.seeds == 1 else _over_seeds(request.run_name, reports)


def _further_evaluations(config: RunConfig) -> list[dict[str, Any]]:
    """What is evaluated besides the test split: a grid's corners, or whole problems if the split has single steps."""
    if config.training.encoder.kind == "rewriting":
        return [{"suite": "grid", "suite_digits": 12, "limit": 6_000}, {"suite": "expressions", "limit": 3_000}]
    return [{"suite": "edge"}] if corners_of(config) else []


def _over_seeds(name: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine the reports of all seeds: median and minimum of exact match, never only the best seed."""
    matches = [report["exact_match"] for report in reports]
    low, middle = min(matches), median(matches)
    say(f"run {name}: {len(reports)} seeds, exact match median {middle:.3%}, minimum {low:.3%}")
    return {"run": name, "exact_match": {"median": middle, "minimum": low}, "reports": reports}

"""The flow `end-to-end`: five flows, one behind the other, each doing only what is missing."""

from typing import Any

from prefect import flow

from flows.corpus import generate_corpus
from flows.evaluation import evaluate_encoder
from flows.requests import EndToEndRequest
from flows.session import ray_session
from flows.tokens import encode_corpus, train_tokenizer_flow
from flows.training import train_encoder
from model.launch import choose_workers
from model.run import load_run, refuse_other
from storage.errors import UserError
from storage.location import Workspace


def check_request(request: EndToEndRequest) -> None:
    """Raise `UserError`, before any work, for what a later stage would refuse."""
    corpus, training = request.corpus, request.training
    workspace = Workspace.create(request.workspace)
    tokenizer = request.tokenizer_request().tokenizer_name
    workspace.tokenizer(tokenizer)
    training.encoder.check_pieces(request.tokenizer.group)
    run = workspace.run(request.run_name)
    rows = int(corpus.total_rows * (1 - corpus.validation - corpus.test))
    if rows < training.batch_size:
        raise UserError(
            f"training.batch_size is {training.batch_size:,}, the train split will hold some {rows:,} rows: "
            "lower batch_size or take a larger corpus"
        )
    if (run / "run.json").exists():
        found = load_run(run)
        spec = {name: value for name, value in found.corpus_spec.items() if name != "generator_version"}
        refuse_other(
            run,
            {
                "corpus": found.corpus,
                "corpus_spec": spec,
                "tokenizer": found.tokenizer,
                "training": found.training.identity(),
            },
            {
                "corpus": corpus.name,
                "corpus_spec": corpus.identity(),
                "tokenizer": tokenizer,
                "training": training.identity(),
            },
        )


@flow(name="end-to-end", flow_run_name="end to end {request.run_name}", persist_result=False)
def end_to_end(request: EndToEndRequest) -> dict[str, Any]:
    """Corpus, tokenizer, encoding, training and evaluation; returns report.json's values."""
    check_request(request)
    with ray_session():
        choose_workers(request.training.workers)
        generate_corpus(request.generate_request())
        train_tokenizer_flow(request.tokenizer_request())
        encode_corpus(request.encode_request())
        train_encoder(request.train_request())
    return evaluate_encoder(request.evaluate_request())

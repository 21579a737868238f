"""The flow `end-to-end`: five flows, one behind the other, each doing only what is missing."""

from typing import Any

from prefect import flow

from flows.corpus import generate_corpus
from flows.evaluation import evaluate_encoder
from flows.requests import EndToEndRequest
from flows.session import ray_session
from flows.tokens import encode_corpus, train_tokenizer_flow
from flows.training import train_encoder


@flow(name="end-to-end", flow_run_name="end to end {request.run_name}", persist_result=False)
def end_to_end(request: EndToEndRequest) -> dict[str, Any]:
    """Corpus, tokenizer, encoding, training and evaluation; returns report.json's values."""
    with ray_session():
        generate_corpus(request.generate_request())
        train_tokenizer_flow(request.tokenizer_request())
        encode_corpus(request.encode_request())
        train_encoder(request.train_request())
    return evaluate_encoder(request.evaluate_request())
